//! The Qwen-Image blockwise ControlNet, as DiffSynth-Studio has it.
//!
//! `y = img_in(conditioning)`; `z = img`; for every block
//! `z = z + output_proj(gelu(input_proj(x_rms(z) + y_rms(y))))`.

use vram_alloc::module;
use vram_device::{Activation, Binary};
use vram_layers::layers::{Linear, RmsNorm};
use vram_layers::{Error, Forward, Tensor};
use vram_types::{DType, TensorMeta, WeightSource};

use crate::ModelError;

const EPS: f32 = 1e-6;

/// Sizes of a [`ControlNet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of blocks.
    pub blocks: usize,
    /// Width of the stream.
    pub width: usize,
    /// Width of the conditioning.
    pub inputs: usize,
    /// Dtype of the weights.
    pub dtype: DType,
}

impl Config {
    /// Reads the sizes off a checkpoint's shapes.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if `img_in.weight` is not there or no matrix, or if there is no block.
    pub fn read(source: &dyn WeightSource) -> Result<Config, ModelError> {
        let wrong =
            |what: String| ModelError::Checkpoint(format!("this is no Qwen-Image ControlNet: {what}"));
        let first = source.locate("img_in.weight").ok_or_else(|| wrong("it has no img_in.weight".into()))?;
        let &[width, inputs] = first.meta.shape().dims() else {
            return Err(wrong(format!("img_in.weight has shape {}", first.meta.shape())));
        };
        let block = |i: usize| source.locate(&format!("controlnet_blocks.{i}.input_proj.weight")).is_some();
        let blocks = (0..).take_while(|&i| block(i)).count();
        if blocks == 0 {
            return Err(wrong("it has no controlnet_blocks.0.input_proj.weight".into()));
        }
        Ok(Config { blocks, width, inputs, dtype: first.meta.dtype() })
    }
}

/// The model. Build it inside [`skip_init`](vram_alloc::skip_init) to leave its parameters meta.
#[derive(Debug)]
pub struct ControlNet {
    img_in: Linear,
    blocks: Vec<Block>,
}

module! { ControlNet { img_in, blocks as "controlnet_blocks" } }

/// One block of a [`ControlNet`].
#[derive(Debug)]
pub struct Block {
    x_rms: RmsNorm,
    y_rms: RmsNorm,
    input_proj: Linear,
    output_proj: Linear,
}

module! { Block { x_rms, y_rms, input_proj, output_proj } }

/// Inputs of a pass, in host memory.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The image stream `[.., tokens, width]`.
    pub img: (&'a [u8], TensorMeta),
    /// The conditioning `[.., tokens, inputs]`.
    pub conditioning: (&'a [u8], TensorMeta),
}

impl ControlNet {
    /// A model of these sizes.
    ///
    /// # Errors
    /// [`ModelError::Alloc`] if a size overflows or memory runs out.
    pub fn new(config: &Config) -> Result<ControlNet, ModelError> {
        let &Config { blocks, width, inputs, dtype } = config;
        let block = |_| -> Result<Block, ModelError> {
            Ok(Block {
                x_rms: RmsNorm::new(width, EPS, dtype)?,
                y_rms: RmsNorm::new(width, EPS, dtype)?,
                input_proj: Linear::new(width, width, true, dtype)?,
                output_proj: Linear::new(width, width, true, dtype)?,
            })
        };
        Ok(ControlNet {
            img_in: Linear::new(inputs, width, true, dtype)?,
            blocks: (0..blocks).map(block).collect::<Result<_, _>>()?,
        })
    }

    /// The output `[.., tokens, width]` in the compute dtype, in host memory.
    ///
    /// # Errors
    /// [`Error::Shape`] where the inputs do not fit each other or the model; see [`Forward::with_weights`].
    pub fn forward(&self, fwd: &mut Forward<'_, '_>, inputs: &Inputs<'_>) -> Result<Vec<u8>, Error> {
        let (img, conditioning) = (&inputs.img.1, &inputs.conditioning.1);
        let width = self.img_in.outputs();
        if img.shape().last() != width || conditioning.shape().with_last(width) != *img.shape() {
            return Err(Error::Shape(format!(
                "img {} and conditioning {} do not fit: [.., tokens, {width}] and [.., tokens, {}] are needed",
                img.shape(),
                conditioning.shape(),
                self.img_in.inputs()
            )));
        }
        let conditioning = fwd.input(inputs.conditioning.0, conditioning)?;
        let y = self.img_in.forward(fwd, &conditioning)?;
        drop(conditioning);
        let mut z = fwd.input(inputs.img.0, img)?;
        for block in &self.blocks {
            block.forward(fwd, &mut z, &y)?;
        }
        fwd.download(&z)
    }
}

impl Block {
    /// Adds the block's output to `z`.
    fn forward(&self, fwd: &mut Forward<'_, '_>, z: &mut Tensor, y: &Tensor) -> Result<(), Error> {
        let mut sum = self.x_rms.forward(fwd, z)?;
        let normed = self.y_rms.forward(fwd, y)?;
        fwd.kernel(|k| Ok(k.binary(Binary::Add, &normed.view()?, &mut sum.view_mut()?)?))?;
        drop(normed);
        let mut hidden = self.input_proj.forward(fwd, &sum)?;
        drop(sum);
        fwd.kernel(|k| Ok(k.activate(Activation::Gelu, &mut hidden.view_mut()?)?))?;
        let out = self.output_proj.forward(fwd, &hidden)?;
        fwd.kernel(|k| Ok(k.binary(Binary::Add, &out.view()?, &mut z.view_mut()?)?))
    }
}
