//! A parameter in two places of a model is one tensor: read once, counted once, and there under either name.
//!
//! A language model with a tied head was "missing" its `lm_head.weight` under management, which its checkpoint stores
//! once, although loading it whole accepted that; stored twice, it was held twice.

use std::sync::Arc;

use vram_alloc::{Parameter, module, skip_init};
use vram_device::{Budget, Kernels, Tier, cpu::Cpu};
use vram_layers::layers::{Embedding, Linear};
use vram_layers::{Error, Forward, Managed, ModuleMap, VramConfig, enable_vram_management};
use vram_types::{DType, GeneratedSource, TensorMeta, WeightSource};

const ROWS: usize = 96;
const WIDTH: usize = 24;
const IDS: [u32; 5] = [3, 95, 0, 3, 41];

struct Lm {
    table: Embedding,
    body: Linear,
    head: Linear,
}

module! { Lm { table as "embed", body, head as "lm_head" } }

/// The same model with its head first.
struct HeadFirst {
    head: Linear,
    body: Linear,
    table: Embedding,
}

module! { HeadFirst { head as "lm_head", body, table as "embed" } }

impl Lm {
    fn new(tied: bool) -> Lm {
        skip_init(|| {
            let table = Embedding::new(ROWS, WIDTH, DType::BF16).unwrap();
            let head = match tied {
                true => Linear::from_parameters(table.weight().tie(), None).unwrap(),
                false => Linear::new(WIDTH, ROWS, false, DType::BF16).unwrap(),
            };
            Lm { table, body: Linear::new(WIDTH, WIDTH, true, DType::BF16).unwrap(), head }
        })
    }
}

fn logits(
    fwd: &mut Forward<'_>,
    (table, body, head): (&Embedding, &Linear, &Linear),
) -> Result<Vec<u8>, Error> {
    let x = table.forward(fwd, &IDS)?;
    let x = body.forward(fwd, &x)?;
    let y = head.forward(fwd, &x)?;
    fwd.download(&y)
}

/// A source with these tensors, where all that ends in `embed.weight` or `lm_head.weight` has the same bytes.
fn source(names: &[&str]) -> Arc<dyn WeightSource> {
    let meta = |name: &str| match name {
        "body.weight" => TensorMeta::new(DType::BF16, [WIDTH, WIDTH]).unwrap(),
        "body.bias" => TensorMeta::new(DType::BF16, [WIDTH]).unwrap(),
        _ => TensorMeta::new(DType::BF16, [ROWS, WIDTH]).unwrap(),
    };
    let seeds: Vec<u64> =
        names.iter().map(|n| if n.starts_with("body") { n.len() as u64 } else { 99 }).collect();
    let make = move |number: usize, offset: u64, dst: &mut [u8]| {
        for (at, byte) in (offset..).zip(dst) {
            let mixed = (at / 2 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ (seeds[number] << 17)) >> 40;
            // The upper byte of a bf16 near one, the lower one anything.
            *byte = if at % 2 == 1 { 0x3e | (mixed as u8 & 0x80) } else { mixed as u8 };
        }
    };
    Arc::new(GeneratedSource::new(names.iter().map(|n| (*n, meta(n))), make).unwrap())
}

fn manage<M: vram_alloc::Module>(model: M, names: &[&str], budget: u64) -> Result<Managed<M>, Error> {
    let cpu: Arc<dyn Kernels> = Arc::new(Cpu::new(Default::default()).unwrap());
    let config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, budget));
    enable_vram_management(model, source(names), cpu, &ModuleMap::standard(), config)
}

#[test]
fn a_tied_head_is_read_and_counted_once_at_every_budget() {
    let twice = ["embed.weight", "body.weight", "body.bias", "lm_head.weight"];
    let run = |m: &Managed<Lm>| m.run(|m, fwd| logits(fwd, (&m.table, &m.body, &m.head))).unwrap();
    let untied = manage(Lm::new(false), &twice, 1 << 20).unwrap();
    let expected = run(&untied);
    let table_bytes = (ROWS * WIDTH * 2) as u64;
    for names in [&twice[..3], &twice[1..], &twice[..]] {
        let minimum = manage(Lm::new(true), names, 0)
            .unwrap()
            .minimum_budget(|m, fwd| logits(fwd, (&m.table, &m.body, &m.head)))
            .unwrap();
        for budget in [minimum, minimum + 512, minimum + 2048, 1 << 20] {
            let tied = manage(Lm::new(true), names, budget).unwrap();
            assert_eq!(tied.engine().weights_bytes(), untied.engine().weights_bytes() - table_bytes);
            for pass in 0..3 {
                assert!(run(&tied) == expected, "budget {budget}, pass {pass}, {names:?}");
            }
            assert!(tied.report().peak_bytes <= budget);
        }
    }
}

#[test]
fn it_does_not_matter_which_of_the_two_comes_first() {
    let names = ["embed.weight", "body.weight", "body.bias"];
    let lm = manage(Lm::new(true), &names, 1 << 20).unwrap();
    let expected = lm.run(|m, fwd| logits(fwd, (&m.table, &m.body, &m.head))).unwrap();
    for budget in [16 << 10, 1 << 20] {
        let Lm { table, body, head } = Lm::new(true);
        let turned = manage(HeadFirst { head, body, table }, &names, budget).unwrap();
        let found = turned.run(|m, fwd| logits(fwd, (&m.table, &m.body, &m.head))).unwrap();
        assert!(found == expected, "budget {budget}");
    }
}

#[test]
fn what_is_missing_is_said_with_the_prefix_under_which_it_is_there() {
    let source = ["model.embed.weight", "model.body.weight", "model.body.bias"];
    let error = manage(Lm::new(true), &source, 1 << 20).map(drop).unwrap_err();
    let Error::Incompatible(what) = &error else { panic!("{error}") };
    assert_eq!(what.found_under.as_deref(), Some("model."));
    let text = error.to_string();
    assert!(text.contains("3 tensors are missing: \"embed.weight\""), "{text}");
    assert!(text.ends_with("all of them are there under the prefix \"model.\""), "{text}");
}

#[test]
fn parameters_that_do_not_fit_are_refused() {
    let parameter = |shape: &[usize]| {
        let meta = TensorMeta::new(DType::F32, shape.to_vec()).unwrap();
        skip_init(|| Parameter::new(meta, vram_alloc::Init::Zeros).unwrap())
    };
    assert!(Embedding::from_parameter(parameter(&[4])).is_err());
    assert!(Linear::from_parameters(parameter(&[4, 2, 2]), None).is_err());
    assert!(Linear::from_parameters(parameter(&[4, 2]), Some(parameter(&[2]))).is_err());
    assert!(Linear::from_parameters(parameter(&[4, 2]), Some(parameter(&[4]))).is_ok());
}
