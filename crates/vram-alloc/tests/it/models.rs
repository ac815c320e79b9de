//! Small models with the names of real ones.

use vram_alloc::{AllocError, Init, ParamStorage, Parameter, module};
use vram_types::{DType, TensorMeta};

pub(crate) struct Linear {
    pub(crate) weight: Parameter,
    pub(crate) bias: Option<Parameter>,
}
module! { Linear { weight, bias } }

impl Linear {
    pub(crate) fn new(input: usize, output: usize, bias: bool) -> Result<Linear, AllocError> {
        let make = |shape: &[usize]| {
            Parameter::new(TensorMeta::new(DType::BF16, shape.to_vec())?, Init::linear(input))
        };
        Ok(Linear { weight: make(&[output, input])?, bias: bias.then(|| make(&[output])).transpose()? })
    }
}

pub(crate) struct RmsNorm {
    pub(crate) weight: Parameter,
}
module! { RmsNorm { weight } }

impl RmsNorm {
    pub(crate) fn new(width: usize) -> Result<RmsNorm, AllocError> {
        Ok(RmsNorm { weight: Parameter::new(TensorMeta::new(DType::BF16, [width])?, Init::Ones)? })
    }
}

pub(crate) struct Block {
    x_rms: RmsNorm,
    y_rms: RmsNorm,
    input_proj: Linear,
    output_proj: Linear,
}
module! { Block { x_rms, y_rms, input_proj, output_proj } }

pub(crate) struct ControlNet {
    img_in: Linear,
    pub(crate) blocks: Vec<Block>,
}
module! { ControlNet { img_in, blocks as "controlnet_blocks" } }

impl ControlNet {
    pub(crate) fn new(blocks: usize, width: usize, input: usize) -> Result<ControlNet, AllocError> {
        let block = |_| -> Result<Block, AllocError> {
            Ok(Block {
                x_rms: RmsNorm::new(width)?,
                y_rms: RmsNorm::new(width)?,
                input_proj: Linear::new(width, width, true)?,
                output_proj: Linear::new(width, width, true)?,
            })
        };
        Ok(ControlNet {
            img_in: Linear::new(input, width, true)?,
            blocks: (0..blocks).map(block).collect::<Result<_, _>>()?,
        })
    }
}

/// An embedding tied to the head, a buffer of every kind, and a child behind `dyn Module`.
pub(crate) struct Lm {
    pub(crate) embed: Parameter,
    pub(crate) inv_freq: Parameter,
    pub(crate) position_ids: Parameter,
    pub(crate) scale: Parameter,
    pub(crate) norm: Box<dyn vram_alloc::Module>,
    pub(crate) head: Linear,
}
module! { Lm { embed as "embed.weight", inv_freq, position_ids, scale, norm, head as "lm_head" } }

impl Lm {
    pub(crate) fn new() -> Result<Lm, AllocError> {
        let embed = Parameter::new(TensorMeta::new(DType::F32, [6, 4])?, Init::EMBEDDING)?;
        let head = Linear { weight: embed.tie(), bias: None };
        Ok(Lm {
            embed,
            inv_freq: Parameter::computed_buffer(ParamStorage::from_f32(DType::F32, [2], &[1.0, 0.01])?),
            position_ids: Parameter::ignored_buffer(TensorMeta::new(DType::I64, [8])?),
            scale: Parameter::persistent_buffer(TensorMeta::new(DType::F32, [])?, Init::Constant(0.5))?,
            norm: Box::new(RmsNorm::new(4)?),
            head,
        })
    }
}
