//! A real decoder from a GGUF file against PyTorch's greedy texts.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use vram_alloc::skip_init;
use vram_device::Kernels;
use vram_diskmap::{Conversion, DiskMap};
use vram_layers::{Error, Managed, ModuleMap, RunOptions, VramConfig, enable_vram_management};
use vram_models::llama::{Batch, BatchSize, Config, Llama, from_gguf_name};
use vram_models::sampling::{Sampler, Sampling};
use vram_types::{DType, FileId, WeightSource};

use crate::common::{config, cpu, golden};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// A chat, and what PyTorch computed in f32.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) first_top5_ids: Vec<usize>,
    pub(crate) first_top5_logits: Vec<f32>,
    pub(crate) greedy_ids: Vec<u32>,
}

pub(crate) struct SmolLm2 {
    source: Arc<dyn WeightSource>,
    pairs: Vec<(String, String)>,
    pub(crate) cases: Vec<Case>,
}

fn file() -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let places =
        [std::env::var_os("VRAM_SMOLLM2").map(PathBuf::from), Some(root.join("target/models/smollm2"))];
    let files = places.into_iter().flatten().map(|folder| folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"));
    files.into_iter().find(|file| file.exists())
}

impl SmolLm2 {
    pub(crate) fn open() -> Option<SmolLm2> {
        let Some(file) = file() else {
            println!(
                "skipped: SmolLM2 is not here; `cargo xtask models` fetches it, or VRAM_SMOLLM2 names its folder"
            );
            return None;
        };
        let map = DiskMap::open(file).unwrap();
        let pairs = map.metadata(FileId(0));
        let names = |name: &str| Some(from_gguf_name(name).unwrap_or_else(|| name.to_owned()));
        let source = Arc::new(map.convert(&Conversion::new().rename_with(names)).unwrap());
        let json = std::fs::read_to_string(golden("smollm2.json")).unwrap();
        let Golden { cases } = serde_json::from_str(&json).unwrap();
        Some(SmolLm2 { source, pairs, cases })
    }

    pub(crate) fn on(&self, device: Arc<dyn Kernels>, config: VramConfig) -> Managed<Llama> {
        let pair = |key: &str| self.pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        let sizes = Config::from_gguf(&*self.source, pair).unwrap();
        let model = skip_init(|| Llama::new(&sizes).unwrap());
        enable_vram_management(model, Arc::clone(&self.source), device, &ModuleMap::standard(), config)
            .unwrap()
    }
}

fn size(context: usize) -> BatchSize {
    BatchSize { sequences: 1, context, chunk: 64 }
}

/// The logits after the prompt, and the greedy tokens that follow, at most so many.
pub(crate) fn greedy(model: &Managed<Llama>, prompt: &[u32], most: usize, end: u32) -> (Vec<f32>, Vec<u32>) {
    let mut batch = Batch::new(model, size(prompt.len() + most)).unwrap();
    let mut sampler = Sampler::new(Sampling::default()).unwrap();
    let mut logits = batch.show(&[(0, prompt)], &RunOptions::default()).unwrap().remove(0);
    let first = logits.clone();
    let mut ids = Vec::new();
    while ids.len() < most {
        let id = sampler.choose(&logits, &ids).unwrap();
        ids.push(id);
        if id == end {
            break;
        }
        logits = batch.show(&[(0, &[id])], &RunOptions::default()).unwrap().remove(0);
    }
    (first, ids)
}

pub(crate) const END: u32 = 2;

#[test]
fn says_what_pytorch_says_at_every_budget() {
    let Some(smollm2) = SmolLm2::open() else { return };
    let managed = |budget| smollm2.on(cpu(), config(DType::F32, budget));
    let longest = size(39 + 48);
    let minimum = Batch::minimum_budget(&managed(u64::MAX), longest).unwrap();
    let unlimited = managed(u64::MAX);
    let weights = unlimited.engine().weights_bytes();
    println!("SmolLM2, f32: smallest budget {minimum} bytes, weights {weights}");
    let mut worst = 0f32;
    let mut first_case = None;
    for case in &smollm2.cases {
        let (logits, ids) = greedy(&unlimited, &case.prompt_ids, case.greedy_ids.len(), END);
        assert_eq!(ids, case.greedy_ids);
        for (id, expected) in case.first_top5_ids.iter().zip(&case.first_top5_logits) {
            worst = worst.max((logits[*id] - expected).abs());
        }
        first_case.get_or_insert((logits, ids));
    }
    println!("largest difference of the five largest first logits: {worst:.1e}");
    assert!(worst < 1e-2, "{worst}");
    let (case, expected) = (&smollm2.cases[0], first_case.unwrap());
    for budget in [minimum, weights / 4] {
        let model = managed(budget);
        assert!(greedy(&model, &case.prompt_ids, case.greedy_ids.len(), END) == expected, "budget {budget}");
        assert!(model.report().peak_bytes <= budget);
    }
}

#[test]
fn sequences_that_are_continued_together_say_what_each_says_alone() {
    let Some(smollm2) = SmolLm2::open() else { return };
    let model = smollm2.on(cpu(), config(DType::F32, u64::MAX));
    let options = RunOptions::default();
    let prompts: Vec<&[u32]> = smollm2.cases.iter().map(|case| case.prompt_ids.as_slice()).collect();
    let together = |chunk| {
        let size = BatchSize { sequences: prompts.len(), context: 64, chunk };
        let mut batch = Batch::new(&model, size).unwrap();
        let shown: Vec<(usize, &[u32])> = prompts.iter().copied().enumerate().collect();
        let mut logits = batch.show(&shown, &options).unwrap();
        let next: [&[u32]; 3] = [&[504], &[1780, 314], &[33]];
        let shown: Vec<(usize, &[u32])> = [2, 0, 1].map(|sequence| (sequence, next[sequence])).to_vec();
        logits.extend(batch.show(&shown, &options).unwrap());
        logits
    };
    let (all, pieces) = (together(256), together(7));
    assert!(all == pieces, "the length of passes changed a bit");
    for (number, prompt) in prompts.iter().enumerate() {
        let mut batch = Batch::new(&model, size(64)).unwrap();
        let alone = batch.show(&[(0, prompt)], &options).unwrap();
        assert!(alone[0] == all[number], "sequence {number}");
    }
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_lost() {
    let Some(smollm2) = SmolLm2::open() else { return };
    let model = smollm2.on(cpu(), config(DType::F32, u64::MAX));
    let shape = |error: Error| {
        assert!(matches!(error, Error::Shape(_)), "{error}");
        error.to_string()
    };
    let error = shape(Batch::new(&model, size(9000)).unwrap_err());
    assert!(error.contains("9000") && error.contains("8192"), "{error}");
    let mut batch = Batch::new(&model, size(4)).unwrap();
    let options = RunOptions::default();
    let first = batch.show(&[(0, &[1, 2, 3])], &options).unwrap();
    shape(batch.show(&[(0, &[4, 5])], &options).unwrap_err());
    shape(batch.show(&[(1, &[4])], &options).unwrap_err());
    shape(batch.show(&[(0, &[])], &options).unwrap_err());
    shape(batch.show(&[(0, &[1_000_000])], &options).unwrap_err());
    assert_eq!(batch.len(0), 3);
    batch.truncate(0, 0);
    assert!(batch.show(&[(0, &[1, 2, 3])], &options).unwrap() == first);

    // Its cache would count as well.
    drop(batch);
    let minimum = Batch::minimum_budget(&model, size(2048)).unwrap();
    let small = smollm2.on(cpu(), config(DType::F32, minimum - 1));
    assert!(
        matches!(Batch::new(&small, size(2048)), Err(Error::BudgetTooSmall { needed, .. }) if needed == minimum)
    );
    let largest = Batch::largest_context(&small, size(4096)).unwrap().unwrap();
    assert!(largest < 2048);
    assert!(Batch::new(&small, size(largest + 1)).is_err());
    assert!(Batch::new(&small, size(largest)).is_ok());
}
