//! A compute loop of one's own over the engine alone: none of this workspace's layers and none of its kernels. This is
//! how a whole framework is wrapped: it asks for a layer's weights, computes with the bytes, and says when it is done.
//!
//! `cargo run --release -p vram-layers --example own_kernels`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vram_device::{Budget, Queue, Tier, cpu::Cpu};
use vram_layers::{Engine, EngineOptions, LayerId, LayerSpec, PassRequest, Split};
use vram_types::{
    ByteSize, CancelToken, DType, FileId, Located, Priority, ReadRequest, ReadTarget, SourceError,
    SourceErrorKind, StorageId, TensorMeta, WeightSource,
};

const LAYERS: usize = 12;
const WIDTH: usize = 512;

/// Weights that are computed as they are read: any store of one's own fits behind the trait.
struct Generated {
    names: Vec<String>,
    read: AtomicU64,
}

impl Generated {
    fn weight(layer: usize, element: usize) -> f32 {
        let mixed = (layer * 1_000_003 + element).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        (mixed as f32 / (1 << 23) as f32 - 1.0) / (WIDTH as f32).sqrt()
    }
}

impl WeightSource for Generated {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.names.iter().map(String::as_str))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let layer = self.names.iter().position(|n| n == name)?;
        let meta = TensorMeta::new(DType::F32, [WIDTH, WIDTH]).ok()?;
        let storage = StorageId { file: FileId(0), offset: layer as u64 * meta.bytes() };
        // Without ranges in files: read by name.
        Some(Located { meta, storage, ranges: Default::default() })
    }

    fn file(&self, _file: FileId) -> Option<&Path> {
        None
    }

    fn read_many(
        &self,
        requests: &mut [ReadRequest<'_>],
        _priority: Priority,
        cancel: &CancelToken,
    ) -> Result<(), SourceError> {
        for request in requests {
            cancel.check()?;
            let unknown = || SourceError::new(SourceErrorKind::NotFound, "there is no such weight");
            let ReadTarget::Tensor { name, offset } = request.target else { return Err(unknown()) };
            let layer = self.names.iter().position(|n| n == name).ok_or_else(unknown)?;
            for (i, byte) in request.wanted()?.iter_mut().enumerate() {
                let at = offset as usize + i;
                *byte = Generated::weight(layer, at / 4).to_le_bytes()[at % 4];
            }
            self.read.fetch_add(request.bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
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
        let source = Generated {
            names: (0..LAYERS).map(|i| format!("layers.{i}.weight")).collect(),
            read: AtomicU64::new(0),
        };
        let specs =
            source.names.iter().map(|n| LayerSpec::new(n.clone(), [n.clone()], Split::Rows)).collect();
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
