//! The same model streamed twice: layer by layer, each read when it is needed, and with a ring that is filled ahead.
//!
//! `cargo run --release -p vram-layers --example disk_offload`

use std::borrow::Cow;
use std::error::Error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vram_alloc::{AllocError, module, skip_init};
use vram_device::{Budget, Tier, cpu::Cpu, ops};
use vram_layers::layers::Linear;
use vram_layers::{ModuleMap, VramConfig, enable_vram_management};
use vram_types::{
    ByteSize, DType, FileId, FileRange, Located, ReadOptions, ReadRequest, ReadTarget, SourceError,
    SourceErrorKind, StorageId, TensorMeta, WeightSource,
};

const LAYERS: usize = 16;
const WIDTH: usize = 1024;
const TOKENS: usize = 64;

struct Net {
    layers: Vec<Linear>,
}

module! { Net { layers } }

/// Weights one after the other in a file of no format. For checkpoints there is `vram-diskmap`.
struct PlainFile {
    path: PathBuf,
    names: Vec<String>,
    read: AtomicU64,
}

impl PlainFile {
    fn meta() -> Result<TensorMeta, vram_types::TypeError> {
        TensorMeta::new(DType::BF16, [WIDTH, WIDTH])
    }

    fn create(path: PathBuf) -> Result<PlainFile, Box<dyn Error>> {
        let mut file = File::create(&path)?;
        let mut state = 1u64;
        for _ in 0..LAYERS {
            let mut bytes = Vec::with_capacity(PlainFile::meta()?.bytes() as usize);
            for _ in 0..WIDTH * WIDTH {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let value = ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) / 16.0;
                bytes.extend(((value.to_bits() >> 16) as u16).to_le_bytes());
            }
            file.write_all(&bytes)?;
        }
        let names = (0..LAYERS).map(|i| format!("layers.{i}.weight")).collect();
        Ok(PlainFile { path, names, read: AtomicU64::new(0) })
    }
}

impl Drop for PlainFile {
    fn drop(&mut self) {
        // A file left behind in the temporary folder does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl WeightSource for PlainFile {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.names.iter().map(String::as_str))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let (meta, file) = (PlainFile::meta().ok()?, FileId(0));
        let offset = self.names.iter().position(|n| n == name)? as u64 * meta.bytes();
        let range = FileRange { file, offset, bytes: meta.bytes() };
        Some(Located::new(meta, StorageId { file, offset }, [range]))
    }

    fn describe(&self, _file: FileId) -> Option<Cow<'_, str>> {
        Some(self.path.to_string_lossy())
    }

    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        for request in requests {
            options.check()?;
            let ReadTarget::File { offset, .. } = request.target else {
                return Err(SourceError::new(SourceErrorKind::Unsupported, "this file is read by ranges"));
            };
            let at = |e| SourceError::io(e).at_path(&self.path).at_offset(offset);
            let mut file = File::open(&self.path).map_err(at)?;
            file.seek(SeekFrom::Start(offset)).map_err(at)?;
            file.read_exact(request.wanted()?).map_err(at)?;
            self.read.fetch_add(request.bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("disk_offload-{}.bin", std::process::id()));
    let source = Arc::new(PlainFile::create(path)?);
    let cpu = Arc::new(Cpu::new(Default::default())?);
    let layer = PlainFile::meta()?.bytes();
    let input: Vec<u8> = (0..TOKENS * WIDTH).flat_map(|i| ((i % 7) as f32).to_le_bytes()).collect();
    let shape = TensorMeta::new(DType::F32, [TOKENS, WIDTH])?;
    let mut outputs = Vec::new();
    for (name, ring, readers) in
        [("slow: one layer at a time", layer, 1), ("fast: four layers ahead", 4 * layer, 4)]
    {
        let build = || (0..LAYERS).map(|_| Linear::new(WIDTH, WIDTH, false, DType::BF16));
        let net = Net { layers: skip_init(|| build().collect::<Result<_, AllocError>>())? };
        let mut config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, ring + (4 << 20)));
        // Nothing stays, so that only the way in which weights come makes the difference.
        config.preparing.tier = Tier::Disk;
        config.ring = Some(ring);
        config.readers = readers;
        let from: Arc<dyn WeightSource> = Arc::<PlainFile>::clone(&source);
        let net = enable_vram_management(net, from, Arc::<Cpu>::clone(&cpu), &ModuleMap::standard(), config)?;
        let mut output = Vec::new();
        for _ in 0..5 {
            output = net.run(|net, fwd| {
                let mut x = fwd.input(&input, &shape)?;
                for layer in &net.layers {
                    x = layer.forward(fwd, &x)?;
                    fwd.run(ops::Unary::gelu(x.view_mut()))?;
                }
                fwd.download(&x)
            })?;
        }
        let report = net.report();
        let best = report.passes.iter().map(|p| p.seconds).fold(f64::INFINITY, f64::min);
        let bytes = report.passes.last().map_or(0, |p| p.device_bytes);
        println!(
            "{name:<26} {:>7.1} ms a pass of {}, peak {}",
            best * 1e3,
            ByteSize(bytes),
            ByteSize(report.peak_bytes)
        );
        outputs.push(output);
    }
    println!("the same bits: {}", outputs[0] == outputs[1]);
    Ok(())
}
