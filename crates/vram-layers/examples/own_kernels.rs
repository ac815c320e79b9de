//! A compute loop of one's own over the engine alone: none of this workspace's layers and none of its kernels. This is
//! how a whole framework is wrapped: it asks for a layer's weights, computes with the bytes, and says when it is done.
//!
//! `cargo run --release -p vram-layers --example own_kernels`

use std::error::Error;
use std::sync::Arc;

use vram_device::{Budget, Queue, Tier, cpu::Cpu};
use vram_layers::{Engine, EngineOptions, LayerId, LayerSpec, PassRequest, Split};
use vram_types::{ByteSize, DType, GeneratedSource, TensorMeta, WeightSource};

const LAYERS: usize = 12;
const WIDTH: usize = 512;

/// Weights that are computed as they are read; any store of one's own fits behind `WeightSource`, as `disk_offload.rs` shows.
fn weight(layer: usize, element: usize) -> f32 {
    let mixed = (layer * 1_000_003 + element).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (mixed as f32 / (1 << 23) as f32 - 1.0) / (WIDTH as f32).sqrt()
}

/// `tanh(W x)` for some rows of `W`, as bytes. The framework's own kernel.
fn matvec(weight: &[u8], x: &[f32], y: &mut Vec<f32>) {
    for row in weight.chunks_exact(4 * x.len()) {
        let (words, _) = row.as_chunks::<4>();
        y.push(words.iter().zip(x).map(|(w, x)| f32::from_le_bytes(*w) * x).sum::<f32>().tanh());
    }
}

fn pass(engine: &Engine) -> Result<(Vec<f32>, u64), vram_layers::Error> {
    let mut pass = engine.begin(PassRequest::default())?;
    let mut x: Vec<f32> = (0..WIDTH).map(|i| (i as f32).sin()).collect();
    for layer in (0..LAYERS).map(LayerId) {
        let mut y = Vec::with_capacity(WIDTH);
        for tile in 0..pass.tiles(layer) {
            let lease = pass.lease(layer, tile)?;
            matvec(lease.bytes(0)?, &x, &mut y);
            // A backend with a queue of its own gives the ticket of its last kernel here.
            lease.finish(pass.device().ticket(Queue::Compute)?);
        }
        x = y;
    }
    Ok((x, pass.finish()?.device_bytes))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut outputs = Vec::new();
    let weights = (LAYERS * WIDTH * WIDTH * 4) as u64;
    for budget in [2 * weights, weights / 3, 64 << 10] {
        let meta = TensorMeta::new(DType::F32, [WIDTH, WIDTH])?;
        let tensors = (0..LAYERS).map(|i| (format!("layers.{i}.weight"), meta.clone()));
        let source = GeneratedSource::new(tensors, |layer, offset, dst| {
            for (byte, at) in dst.iter_mut().zip(offset as usize..) {
                *byte = weight(layer, at / 4).to_le_bytes()[at % 4];
            }
        })?;
        let specs = source.names().map(|n| LayerSpec::new(n, [n], Split::Rows)).collect();
        let options = EngineOptions::new(Budget::new(Tier::Device, budget));
        let engine = Engine::new(Arc::new(source), Arc::new(Cpu::new(Default::default())?), specs, options)?;
        let (_, first) = pass(&engine)?;
        let (output, second) = pass(&engine)?;
        println!(
            "budget {:>9}: peak {:>9}, moved {:>9} in the first pass and {:>9} in the second",
            ByteSize(budget).to_string(),
            ByteSize(engine.budget().peak()).to_string(),
            ByteSize(first).to_string(),
            ByteSize(second).to_string()
        );
        outputs.push(output);
    }
    let same = outputs.windows(2).all(|pair| pair[0] == pair[1]);
    println!("streamed == resident: {same}");
    if same { Ok(()) } else { Err("the outputs differ".into()) }
}
