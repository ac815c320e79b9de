//! The Qwen-Image blockwise ControlNet, as in DiffSynth-Studio (`QwenImageBlockWiseControlNet`).
//!
//! `y = img_in(conditioning)`, once a step. Block `i` gives
//! `output_proj(gelu(input_proj(x_rms(z) + y_rms(y))))` for an image stream `z`.
//!
//! The reference calls block `i` after block `i` of the Qwen-Image transformer and adds `scale` times its
//! output to the stream, while the step is between `start` and `end` ([`Guidance`]). Your own transformer can
//! do the same with [`ControlNet::condition`] and [`ControlNet::block`]. [`ControlNet::forward`] chains the
//! blocks without a transformer between them: a pass with the same weights and products, for tests and
//! measurements.

use vram_alloc::module;
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
    /// Reads the sizes from a checkpoint's shapes.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if `img_in.weight` is missing or not a matrix, or if there are no blocks.
    pub fn read(source: &dyn WeightSource) -> Result<Config, ModelError> {
        let wrong =
            |what: String| ModelError::Checkpoint(format!("this is not a Qwen-Image ControlNet: {what}"));
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

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// `[.., tokens, inputs] -> [.., tokens, width]`: the conditioning for all blocks of a step.
    ///
    /// # Errors
    /// [`Error::Shape`] if the last extent is not the model's; see [`Forward::run_with`].
    pub fn condition(&self, fwd: &mut Forward<'_>, conditioning: &Tensor) -> Result<Tensor, Error> {
        self.img_in.forward(fwd, conditioning)
    }

    /// What block `index` adds to the stream `z`, with a scale of 1: `[.., tokens, width] -> [.., tokens, width]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no such block, or if `z` and `y` do not fit; see [`Forward::run_with`].
    pub fn block(
        &self,
        fwd: &mut Forward<'_>,
        index: usize,
        z: &Tensor,
        y: &Tensor,
    ) -> Result<Tensor, Error> {
        let Some(block) = self.blocks.get(index) else {
            let blocks = self.blocks.len();
            return Err(Error::Shape(format!("a ControlNet of {blocks} blocks has no block {index}")));
        };
        block.forward(fwd, z, y)
    }

    /// Adds the output of block `index`, times the guidance's scale, to the stream `z`, as the reference does
    /// after block `index` of its transformer. The caller decides whether the step is guided
    /// ([`Guidance::is_active`]).
    ///
    /// # Errors
    /// See [`block`](ControlNet::block).
    pub fn guide(
        &self,
        fwd: &mut Forward<'_>,
        guidance: &Guidance,
        index: usize,
        z: &mut Tensor,
        y: &Tensor,
    ) -> Result<(), Error> {
        let out = self.block(fwd, index, z, y)?;
        fwd.add_scaled(z, guidance.scale, &out)
    }

    /// Runs the blocks one after the other, each adding to the stream. The result is `[.., tokens, width]` in
    /// the compute dtype, in host memory.
    ///
    /// # Errors
    /// [`Error::Shape`] if the inputs do not fit each other or the model; see [`Forward::run_with`].
    pub fn forward(&self, fwd: &mut Forward<'_>, inputs: &Inputs<'_>) -> Result<Vec<u8>, Error> {
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
        let y = self.condition(fwd, &conditioning)?;
        drop(conditioning);
        let mut z = fwd.input(inputs.img.0, img)?;
        for block in &self.blocks {
            let out = block.forward(fwd, &z, &y)?;
            fwd.add(&mut z, &out)?;
        }
        fwd.download(&z)
    }
}

impl Block {
    fn forward(&self, fwd: &mut Forward<'_>, z: &Tensor, y: &Tensor) -> Result<Tensor, Error> {
        let mut sum = self.x_rms.forward(fwd, z)?;
        let normed = self.y_rms.forward(fwd, y)?;
        fwd.add(&mut sum, &normed)?;
        drop(normed);
        let mut hidden = self.input_proj.forward(fwd, &sum)?;
        drop(sum);
        fwd.gelu(&mut hidden)?;
        self.output_proj.forward(fwd, &hidden)
    }
}

/// When and how strongly a ControlNet guides a denoising loop; progress runs from 1 at the first step to 0 at the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// Factor of each block's output.
    pub scale: f32,
    /// The progress at which guidance begins.
    pub start: f32,
    /// The progress at which guidance ends.
    pub end: f32,
}

impl Default for Guidance {
    /// In every step, with a scale of 1.
    fn default() -> Guidance {
        Guidance { scale: 1.0, start: 1.0, end: 0.0 }
    }
}

impl Guidance {
    /// Whether step `step` of `steps`, counted from 0, is guided.
    pub fn is_active(&self, step: usize, steps: usize) -> bool {
        // The reference's own tolerance, so that both agree on every step.
        const TOLERANCE: f64 = 1e-4;
        let last = steps.saturating_sub(1);
        let progress = last.saturating_sub(step) as f64 / last.max(1) as f64;
        progress <= f64::from(self.start) + TOLERANCE && progress >= f64::from(self.end) - TOLERANCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guidance_is_active_where_the_references_loop_does_not_skip() {
        let active = |start, end, steps: usize| -> Vec<usize> {
            let guidance = Guidance { scale: 1.0, start, end };
            (0..steps).filter(|&step| guidance.is_active(step, steps)).collect()
        };
        assert_eq!(active(1.0, 0.0, 5), [0, 1, 2, 3, 4]);
        assert_eq!(active(1.0, 0.5, 5), [0, 1, 2]);
        assert_eq!(active(0.5, 0.0, 5), [2, 3, 4]);
        assert_eq!(active(0.3, 0.2, 5), [3]);
        assert_eq!(active(1.0, 0.0, 1), [0]);
        assert!(active(0.9, 0.8, 2).is_empty());
    }
}
