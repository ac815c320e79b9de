//! The tensors of an architecture, in the order in which a pass uses them.

use anyhow::Result;
use vram_types::{DType, TensorMeta};

use vram_diskmap::NewTensor;

/// A tensor whose elements are drawn uniformly from `middle - spread` to `middle + spread`.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    pub(super) tensor: NewTensor,
    pub(super) middle: f32,
    pub(super) spread: f32,
}

/// Spread of the scales of norms around one.
const NORM_SPREAD: f32 = 0.05;

/// The blockwise ControlNet of Qwen-Image.
pub(super) fn qwen_image_controlnet(blocks: usize, width: usize, in_dim: usize) -> Result<Vec<Weight>> {
    let mut weights = Vec::with_capacity(2 + 6 * blocks);
    linear(&mut weights, "img_in", width, in_dim)?;
    for n in 0..blocks {
        let block = format!("controlnet_blocks.{n}");
        for norm in ["x_rms", "y_rms"] {
            weights.push(weight(format!("{block}.{norm}.weight"), &[width], 1.0, NORM_SPREAD)?);
        }
        for name in ["input_proj", "output_proj"] {
            linear(&mut weights, &format!("{block}.{name}"), width, width)?;
        }
    }
    Ok(weights)
}

/// The inputs of a pass, uniform from -1 to 1.
pub(super) fn qwen_image_controlnet_inputs(
    tokens: usize,
    width: usize,
    in_dim: usize,
) -> Result<Vec<Weight>> {
    let input = |name: &str, width| weight(name.to_owned(), &[1, tokens, width], 0.0, 1.0);
    Ok(vec![input("img", width)?, input("conditioning", in_dim)?])
}

/// A linear layer, initialised as PyTorch does: uniform within `1 / sqrt(inputs)`.
fn linear(weights: &mut Vec<Weight>, name: &str, outputs: usize, inputs: usize) -> Result<()> {
    let spread = 1.0 / (inputs as f32).sqrt();
    weights.push(weight(format!("{name}.weight"), &[outputs, inputs], 0.0, spread)?);
    weights.push(weight(format!("{name}.bias"), &[outputs], 0.0, spread)?);
    Ok(())
}

fn weight(name: String, shape: &[usize], middle: f32, spread: f32) -> Result<Weight> {
    let meta = TensorMeta::new(DType::BF16, shape)?;
    Ok(Weight { tensor: NewTensor { name, meta }, middle, spread })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_362_tensors_of_2_27_gb() {
        let weights = qwen_image_controlnet(60, 3072, 64).unwrap();
        let bytes: u64 = weights.iter().map(|w| w.tensor.meta.bytes()).sum();
        assert_eq!(weights.len(), 362);
        assert!((2.26e9..2.28e9).contains(&(bytes as f64)), "{bytes}");
        assert!(qwen_image_controlnet(1, 1 << 40, 1).is_err());
    }
}
