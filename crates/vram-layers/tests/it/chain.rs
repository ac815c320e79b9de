//! Small random models: a table, then blocks of linear layers and norms, one after the other.

use std::sync::Arc;

use proptest::prelude::*;
use vram_alloc::{Init, Parameter, module, skip_init};
use vram_device::ops;
use vram_layers::layers::{Embedding, LayerNorm, Linear, RmsNorm};
use vram_layers::{Error, Forward, Split, Tensor};
use vram_types::cast::cast;
use vram_types::{DType, TensorMeta, WeightSource};

use crate::common::Random;
use crate::source::{Layout, MemorySource};

const EPS: f32 = 1e-5;

#[derive(Clone, Debug)]
pub enum StepCase {
    Linear { outputs: usize, bias: bool },
    LayerNorm,
    RmsNorm,
}

#[derive(Clone, Debug)]
pub struct BlockCase {
    /// Whether the block has a parameter of its own.
    pub gain: bool,
    pub steps: Vec<(StepCase, DType)>,
}

#[derive(Clone, Debug)]
pub struct ModelCase {
    pub tokens: usize,
    pub width: usize,
    /// Rows and dtype of a table that the input is looked up in.
    pub table: Option<(usize, DType)>,
    pub blocks: Vec<BlockCase>,
    pub compute: DType,
    pub seed: u64,
}

pub fn any_weight() -> impl Strategy<Value = DType> {
    prop::sample::select(vec![DType::F32, DType::BF16, DType::F16, DType::F8_E4M3, DType::F8_E5M2])
}

pub fn any_model() -> impl Strategy<Value = ModelCase> {
    let step = prop_oneof![
        4 => (1usize..70, any::<bool>()).prop_map(|(outputs, bias)| StepCase::Linear { outputs, bias }),
        1 => Just(StepCase::LayerNorm),
        1 => Just(StepCase::RmsNorm),
    ];
    let block = (any::<bool>(), prop::collection::vec((step, any_weight()), 1..4))
        .prop_map(|(gain, steps)| BlockCase { gain, steps });
    (
        1usize..6,
        1usize..70,
        prop::option::of((1usize..40, any_weight())),
        prop::collection::vec(block, 1..4),
        prop::sample::select(vec![DType::F32, DType::BF16, DType::F16]),
        any::<u64>(),
    )
        .prop_map(|(tokens, width, table, blocks, compute, seed)| ModelCase {
            tokens,
            width,
            table,
            blocks,
            compute,
            seed,
        })
}

pub struct Step {
    linear: Option<Linear>,
    layer_norm: Option<LayerNorm>,
    rms_norm: Option<RmsNorm>,
}

module! { Step { linear, layer_norm, rms_norm } }

pub struct Block {
    gain: Option<Parameter>,
    steps: Vec<Step>,
}

module! { Block { gain, steps } }

pub struct Chain {
    table: Option<Embedding>,
    blocks: Vec<Block>,
}

module! { Chain { table, blocks } }

impl Chain {
    pub fn build(case: &ModelCase) -> Chain {
        skip_init(|| {
            let mut width = case.width;
            let blocks = case.blocks.iter().map(|b| Block::build(b, &mut width)).collect();
            Chain { table: case.table.map(|(rows, d)| Embedding::new(rows, case.width, d).unwrap()), blocks }
        })
    }

    /// The last activation in the compute dtype.
    pub fn forward(&self, fwd: &mut Forward<'_>, case: &ModelCase) -> Result<Vec<u8>, Error> {
        let mut x = match &self.table {
            Some(table) => table.forward(fwd, &case.ids())?,
            None => {
                let (bytes, meta) = case.input();
                fwd.input(&bytes, &meta)?
            }
        };
        for block in &self.blocks {
            if let Some(gain) = &block.gain {
                x = norm_by(fwd, gain, &x)?;
            }
            for step in &block.steps {
                x = step.forward(fwd, &x)?;
            }
        }
        fwd.download(&x)
    }
}

fn norm_by(fwd: &mut Forward<'_>, gain: &Parameter, x: &Tensor) -> Result<Tensor, Error> {
    let mut y = fwd.tensor(x.shape().clone())?;
    fwd.run_with(gain, |tile| tile.run(ops::RmsNorm::new(x.view(), tile.tensor(gain)?, EPS, y.view_mut())))?;
    Ok(y)
}

impl Block {
    fn build(case: &BlockCase, width: &mut usize) -> Block {
        let own = || Parameter::new(TensorMeta::new(DType::F32, [*width]).unwrap(), Init::Ones).unwrap();
        let gain = case.gain.then(own);
        Block { gain, steps: case.steps.iter().map(|s| Step::build(s, width)).collect() }
    }
}

impl Step {
    fn build((case, dtype): &(StepCase, DType), width: &mut usize) -> Step {
        let mut step = Step { linear: None, layer_norm: None, rms_norm: None };
        match case {
            StepCase::Linear { outputs, bias } => {
                step.linear = Some(Linear::new(*width, *outputs, *bias, *dtype).unwrap());
                *width = *outputs;
            }
            StepCase::LayerNorm => step.layer_norm = Some(LayerNorm::new(*width, EPS, *dtype).unwrap()),
            StepCase::RmsNorm => step.rms_norm = Some(RmsNorm::new(*width, EPS, *dtype).unwrap()),
        }
        step
    }

    fn forward(&self, fwd: &mut Forward<'_>, x: &Tensor) -> Result<Tensor, Error> {
        match (&self.linear, &self.layer_norm, &self.rms_norm) {
            (Some(linear), _, _) => linear.forward(fwd, x),
            (_, Some(norm), _) => norm.forward(fwd, x),
            (_, _, Some(norm)) => norm.forward(fwd, x),
            _ => Err(Error::Shape("an empty step".into())),
        }
    }
}

/// A layer as the checkpoint has it: names, and whether it is split.
pub struct LayerNames {
    pub block: Option<usize>,
    pub names: Vec<String>,
    pub split: Split,
}

impl ModelCase {
    pub fn ids(&self) -> Vec<u32> {
        let (rows, _) = self.table.unwrap();
        let mut random = Random::new(self.seed ^ 1);
        (0..self.tokens).map(|_| random.below(rows) as u32).collect()
    }

    pub fn input(&self) -> (Vec<u8>, TensorMeta) {
        let meta = TensorMeta::new(self.compute, [self.tokens, self.width]).unwrap();
        let mut random = Random::new(self.seed ^ 2);
        let values: Vec<f32> = (0..self.tokens * self.width).map(|_| random.value()).collect();
        (encode(&values, self.compute), meta)
    }

    /// Layers in the order of the forward, with the shapes of their tensors.
    pub fn layers(&self) -> Vec<(LayerNames, Vec<TensorMeta>)> {
        let mut all = Vec::new();
        let mut push = |block, split, tensors: Vec<(String, DType, Vec<usize>)>| {
            let (names, metas) =
                tensors.into_iter().map(|(n, d, s)| (n, TensorMeta::new(d, s).unwrap())).unzip();
            all.push((LayerNames { block, names, split }, metas));
        };
        if let Some((rows, d)) = self.table {
            push(None, Split::Gather, vec![("table.weight".into(), d, vec![rows, self.width])]);
        }
        let mut width = self.width;
        for (b, block) in self.blocks.iter().enumerate() {
            if block.gain {
                push(Some(b), Split::Whole, vec![(format!("blocks.{b}.gain"), DType::F32, vec![width])]);
            }
            for (s, (step, d)) in block.steps.iter().enumerate() {
                let name = |kind: &str, what: &str| format!("blocks.{b}.steps.{s}.{kind}.{what}");
                match step {
                    StepCase::Linear { outputs, bias } => {
                        let mut tensors = vec![(name("linear", "weight"), *d, vec![*outputs, width])];
                        if *bias {
                            tensors.push((name("linear", "bias"), *d, vec![*outputs]));
                        }
                        push(Some(b), Split::Rows, tensors);
                        width = *outputs;
                    }
                    StepCase::LayerNorm => {
                        let both = ["weight", "bias"];
                        let tensors = both.map(|w| (name("layer_norm", w), *d, vec![width])).to_vec();
                        push(Some(b), Split::Whole, tensors);
                    }
                    StepCase::RmsNorm => {
                        let tensors = vec![(name("rms_norm", "weight"), *d, vec![width])];
                        push(Some(b), Split::Whole, tensors);
                    }
                }
            }
        }
        all
    }

    /// Random weights under a layout.
    pub fn source(&self, layout: &Layout) -> Arc<MemorySource> {
        let mut random = Random::new(self.seed);
        let mut source = MemorySource::new(layout.clone());
        for (layer, metas) in self.layers() {
            for (name, meta) in layer.names.into_iter().zip(metas) {
                let scale = match layer.split {
                    Split::Rows => (meta.shape().last() as f32).sqrt().recip(),
                    _ => 1.0,
                };
                let values: Vec<f32> = (0..meta.elements()).map(|_| random.value() * scale).collect();
                let bytes = encode(&values, meta.dtype());
                source.add(&mut random, &name, meta, bytes);
            }
        }
        let source = Arc::new(source.finish());
        assert!(source.names().count() > 0);
        source
    }
}

pub fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    let wide: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut bytes = vec![0; values.len() * dtype.bits() as usize / 8];
    cast(&wide, DType::F32, &mut bytes, dtype).unwrap();
    bytes
}

pub fn decode(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let mut wide = vec![0; bytes.len() * 32 / dtype.bits() as usize];
    cast(bytes, dtype, &mut wide, DType::F32).unwrap();
    wide.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}
