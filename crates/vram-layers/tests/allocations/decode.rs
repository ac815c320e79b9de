//! A decoder's step: one token, with the keys and values of those before it in a session.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vram_alloc::{module, skip_init};
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{Budget, Tier, ops};
use vram_layers::layers::{Embedding, Linear, RmsNorm};
use vram_layers::{
    Error, Forward, Managed, ModuleMap, RunOptions, Tensor, VramConfig, enable_vram_management,
};
use vram_types::{DType, GeneratedSource, TensorMeta};

use crate::{COUNT, WIDTH};

const TOKENS: usize = 24;
const HEADS: usize = 4;

struct Decoder {
    embed: Embedding,
    blocks: Vec<Block>,
}

struct Block {
    norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
}

module! { Decoder { embed, blocks } }
module! { Block { norm, q, k, v, o } }

/// Keys and values of each block, `[TOKENS, WIDTH]`.
type Caches = Mutex<Vec<[Tensor; 2]>>;

impl Decoder {
    /// The last activation of token number `at`, after what came before it.
    fn step(&self, fwd: &mut Forward<'_>, caches: &Caches, id: u32, at: usize) -> Result<Vec<u8>, Error> {
        // Prepared for a full cache.
        let seen = if fwd.is_dry() { TOKENS } else { at + 1 };
        let mut caches = caches.lock().unwrap();
        let mut x = self.embed.forward(fwd, &[id])?;
        for (block, [keys, values]) in self.blocks.iter().zip(&mut *caches) {
            let y = block.norm.forward(fwd, &x)?;
            let q = block.q.forward(fwd, &y)?;
            let (k, v) = (block.k.forward(fwd, &y)?, block.v.forward(fwd, &y)?);
            fwd.store(&k, keys, at)?;
            fwd.store(&v, values, at)?;
            let mut attended = fwd.tensor(q.shape().clone())?;
            let (k, v) = (keys.rows(0..seen)?, values.rows(0..seen)?);
            fwd.run(ops::Attention::new(q.view(), k, v, HEADS, attended.view_mut()))?;
            let out = block.o.forward(fwd, &attended)?;
            fwd.add(&mut x, &out)?;
        }
        fwd.download(&x)
    }
}

fn managed(blocks: usize, budget: Budget) -> Managed<Decoder> {
    let matrix = TensorMeta::new(DType::BF16, [WIDTH, WIDTH]).unwrap();
    let mut tensors = vec![("embed.weight".to_owned(), matrix.clone())];
    for i in 0..blocks {
        let norm = TensorMeta::new(DType::BF16, [WIDTH]).unwrap();
        tensors.push((format!("blocks.{i}.norm.weight"), norm));
        tensors.extend(["q", "k", "v", "o"].map(|m| (format!("blocks.{i}.{m}.weight"), matrix.clone())));
    }
    let make = |tensor: usize, offset: u64, bytes: &mut [u8]| {
        for (at, byte) in (offset..).zip(bytes) {
            let mixed = (at / 2 * 131 + tensor as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
            // Values of either sign near a tenth.
            *byte = if at % 2 == 1 { 0x3d ^ (mixed as u8 & 0x80) } else { (mixed >> 8) as u8 };
        }
    };
    let source = Arc::new(GeneratedSource::new(tensors, make).unwrap());
    let linear = || Linear::new(WIDTH, WIDTH, false, DType::BF16).unwrap();
    let block = |_| Block {
        norm: RmsNorm::new(WIDTH, 1e-5, DType::BF16).unwrap(),
        q: linear(),
        k: linear(),
        v: linear(),
        o: linear(),
    };
    let model = skip_init(|| Decoder {
        embed: Embedding::new(WIDTH, WIDTH, DType::BF16).unwrap(),
        blocks: (0..blocks).map(block).collect(),
    });
    let mut config = VramConfig::disk(DType::F32, budget);
    config.calibrate = false;
    let cpu = Arc::new(Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap());
    enable_vram_management(model, source, cpu, &ModuleMap::standard(), config).unwrap()
}

struct Steps {
    outputs: Vec<Vec<u8>>,
    /// The most allocations of the computing thread in a step that was not among the first few.
    allocations: u64,
}

/// Decodes a few tokens, and holds what a step may do.
fn decode(blocks: usize, budget: u64) -> Steps {
    let budget = Budget::new(Tier::Device, budget);
    let model = managed(blocks, budget.clone());
    let meta = TensorMeta::new(DType::F32, [TOKENS, WIDTH]).unwrap();
    // Tensors begin at multiples of the engine's alignment.
    let session = model.session(2 * blocks as u64 * meta.bytes().next_multiple_of(256)).unwrap();
    let cache = |_| [(), ()].map(|()| session.tensor(meta.clone()).unwrap());
    let caches: Caches = Mutex::new((0..blocks).map(cache).collect());
    let dry = AtomicUsize::new(0);
    let prepared = model.prepare(|model, fwd| model.step(fwd, &caches, 0, 0)).unwrap();
    let mut steps = Steps { outputs: Vec::new(), allocations: 0 };
    let mut plan = None;
    for at in 0..TOKENS {
        let id = (at * 7 % WIDTH) as u32;
        let output = model.run_prepared(&prepared, RunOptions::default(), |model, fwd| {
            dry.fetch_add(usize::from(fwd.is_dry()), Ordering::Relaxed);
            let before = COUNT.get();
            let output = model.step(fwd, &caches, id, at)?;
            Ok((output, COUNT.get() - before))
        });
        let (output, allocations) = output.unwrap();
        steps.outputs.push(output);
        let plan = plan.get_or_insert_with(|| model.engine().plan());
        assert!(Arc::ptr_eq(plan, &model.engine().plan()), "step {at} made a plan");
        if at > 3 {
            steps.allocations = steps.allocations.max(allocations);
        }
    }
    assert_eq!(dry.into_inner(), 0, "a step ran dry");
    assert!(budget.peak() <= budget.limit());
    assert_eq!(budget.usage().session, session.bytes());
    drop((caches.into_inner(), session));
    steps
}

#[test]
fn a_step_plans_nothing_runs_nothing_dry_and_allocates_nothing_per_unit() {
    let weights = |blocks: u64| blocks * (4 * (WIDTH * WIDTH) as u64 * 2);
    let session = |blocks: u64| blocks * 2 * (TOKENS * WIDTH * 4) as u64;
    for percent in [200, 40] {
        let budget = |blocks| weights(blocks) * percent / 100 + session(blocks) + (96 << 10);
        let (few, many) = (decode(6, budget(6)), decode(12, budget(12)));
        println!("{percent} %: {} and {} allocations a step", few.allocations, many.allocations);
        assert_eq!(few.allocations, many.allocations, "{percent} %: six blocks more allocate");
    }
    let (streamed, resident) = (decode(6, weights(6) / 4 + session(6) + (96 << 10)), decode(6, 1 << 30));
    assert!(streamed.outputs == resident.outputs, "the budget changed a bit");
    assert!(resident.outputs.windows(2).all(|pair| pair[0] != pair[1]), "tokens see those before them");
}
