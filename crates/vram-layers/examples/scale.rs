//! How much memory the process takes beyond the ledger's peak, for a model of any size.
//!
//! The model is the given number of ControlNet blocks (60 are 2.27 GB) in a sparse checkpoint. Each
//! budget runs two passes of one token in a process of its own.
//!
//! `cargo run --release -p vram-layers --example scale -- [BLOCKS] [BUDGET_MIB]..`

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use vram_alloc::{AllocError, module, skip_init};
use vram_device::{Budget, Tier, cpu::Cpu, ops};
use vram_diskmap::DiskMap;
use vram_layers::layers::{Linear, RmsNorm};
use vram_layers::{Forward, ModuleMap, Tensor, VramConfig, enable_vram_management};
use vram_types::{DType, TensorMeta};

const WIDTH: usize = 3072;
const DTYPE: DType = DType::BF16;

struct Net {
    blocks: Vec<Block>,
}

struct Block {
    x_rms: RmsNorm,
    y_rms: RmsNorm,
    input_proj: Linear,
    output_proj: Linear,
}

module! { Net { blocks } }
module! { Block { x_rms, y_rms, input_proj, output_proj } }

impl Net {
    fn new(blocks: usize) -> Result<Net, AllocError> {
        let block = |_| -> Result<Block, AllocError> {
            Ok(Block {
                x_rms: RmsNorm::new(WIDTH, 1e-6, DTYPE)?,
                y_rms: RmsNorm::new(WIDTH, 1e-6, DTYPE)?,
                input_proj: Linear::new(WIDTH, WIDTH, true, DTYPE)?,
                output_proj: Linear::new(WIDTH, WIDTH, true, DTYPE)?,
            })
        };
        Ok(Net { blocks: (0..blocks).map(block).collect::<Result<_, AllocError>>()? })
    }

    fn forward(&self, fwd: &mut Forward<'_>, input: &[u8]) -> Result<Vec<u8>, vram_layers::Error> {
        let y = fwd.input(input, &TensorMeta::new(DTYPE, [1, WIDTH])?)?;
        let mut z = fwd.input(input, &TensorMeta::new(DTYPE, [1, WIDTH])?)?;
        for block in &self.blocks {
            block.forward(fwd, &mut z, &y)?;
        }
        fwd.download(&z)
    }
}

impl Block {
    fn forward(&self, fwd: &mut Forward<'_>, z: &mut Tensor, y: &Tensor) -> Result<(), vram_layers::Error> {
        let mut sum = self.x_rms.forward(fwd, z)?;
        let normed = self.y_rms.forward(fwd, y)?;
        fwd.run(ops::Binary::add(normed.view(), sum.view_mut()))?;
        let mut hidden = self.input_proj.forward(fwd, &sum)?;
        fwd.run(ops::Unary::gelu(hidden.view_mut()))?;
        let out = self.output_proj.forward(fwd, &hidden)?;
        fwd.run(ops::Binary::add(out.view(), z.view_mut()))
    }
}

/// Writes a safetensors header for these blocks; the tensors' bytes are a hole, which reads as zeros.
fn checkpoint(path: &Path, blocks: usize) -> Result<(), Box<dyn Error>> {
    let mut header = String::from("{");
    let mut end = 0;
    for i in 0..blocks {
        for (name, shape) in [
            ("x_rms.weight", vec![WIDTH]),
            ("y_rms.weight", vec![WIDTH]),
            ("input_proj.weight", vec![WIDTH, WIDTH]),
            ("input_proj.bias", vec![WIDTH]),
            ("output_proj.weight", vec![WIDTH, WIDTH]),
            ("output_proj.bias", vec![WIDTH]),
        ] {
            let start = end;
            end += 2 * shape.iter().product::<usize>();
            let comma = if header.len() > 1 { "," } else { "" };
            header += &format!(
                "{comma}\"blocks.{i}.{name}\":{{\"dtype\":\"BF16\",\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}"
            );
        }
    }
    header += "}";
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    Ok(file.set_len((8 + header.len() + end) as u64)?)
}

/// A line of `/proc/self/status`, in KiB.
fn status(what: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(what)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn run(path: &Path, blocks: usize, mib: u64) -> Result<(), Box<dyn Error>> {
    let source = Arc::new(DiskMap::open(path)?);
    let net = skip_init(|| Net::new(blocks))?;
    let config = VramConfig::disk(DTYPE, Budget::new(Tier::Device, mib << 20));
    let net = enable_vram_management(
        net,
        source,
        Arc::new(Cpu::new(Default::default())?),
        &ModuleMap::standard(),
        config,
    )?;
    let managed = status("VmRSS");
    let input = vec![0x3c; 2 * WIDTH];
    let since = Instant::now();
    net.preload(|net, fwd| net.forward(fwd, &input))?;
    let planned = since.elapsed();
    for _ in 0..2 {
        net.run(|net, fwd| net.forward(fwd, &input))?;
    }
    let (peak, set) = (net.report().peak_bytes >> 10, status("VmHWM"));
    let kib = |n: u64| n as f64 / 1024.0;
    println!(
        "{mib:>5} MiB: {} units, planned in {:.3} s; ledger {:.1} MiB, resident set {:.1}, beyond {:.1}; {:.1} before planning",
        net.engine().plan().units.len(),
        planned.as_secs_f64(),
        kib(peak),
        kib(set),
        kib(set.saturating_sub(peak)),
        kib(managed)
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [child, path, blocks, mib] = args.as_slice()
        && child == "one"
    {
        return run(Path::new(path), blocks.parse()?, mib.parse()?);
    }
    let blocks: usize = args.first().map_or(Ok(60), |n| n.parse())?;
    let budgets: Vec<String> =
        if args.len() > 1 { args[1..].to_vec() } else { ["128", "512", "1024"].map(String::from).to_vec() };
    let path = std::env::temp_dir().join(format!("scale-{}.safetensors", std::process::id()));
    checkpoint(&path, blocks)?;
    println!("{blocks} blocks, {:.2} GB of weights", File::open(&path)?.metadata()?.len() as f64 / 1e9);
    for mib in &budgets {
        let me = std::env::current_exe()?;
        let done = Command::new(me).arg("one").arg(&path).arg(blocks.to_string()).arg(mib).status()?;
        if !done.success() {
            return Err(format!("{mib} MiB failed").into());
        }
    }
    Ok(std::fs::remove_file(&path)?)
}
