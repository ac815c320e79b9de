//! The 2.27 GB ControlNet (60 blocks, width 3072): resident, streamed from the page cache, streamed from a cold file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use vram_alloc::skip_init;
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{Budget, Tier};
use vram_diskmap::{DiskMap, ReadMode};
use vram_layers::{Managed, ModuleMap, RunOptions, VramConfig, enable_vram_management};
use vram_models::controlnet::{Config, ControlNet, Inputs};
use vram_types::{DType, TensorMeta, WeightSource};

use crate::Options;
use crate::ceilings::read_direct;
use crate::harness::{Subject, measure};
use crate::machine::threads;

const BLOCKS: usize = 60;
const WIDTH: usize = 3072;

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Checkpoint, as written by `vram synth --blocks 60 --width 3072`; generated if missing
    #[arg(long, value_name = "PATH")]
    checkpoint: Option<PathBuf>,
    /// Number of tokens in the inputs
    #[arg(long, value_delimiter = ',', default_values_t = [16, 256])]
    tokens: Vec<usize>,
    /// Size of the ring in bytes; by default the planner decides
    #[arg(long)]
    ring: Option<u64>,
    /// Budget of the streamed runs in percent of the weights
    #[arg(long, value_name = "PERCENT")]
    budget: Option<u64>,
    /// Number of reader threads
    #[arg(long)]
    readers: Option<usize>,
}

impl Args {
    pub(crate) fn given(&self) -> Option<&Path> {
        self.checkpoint.as_deref()
    }

    /// The device budget, if one was given.
    pub(crate) fn percent(&self) -> Option<u64> {
        self.budget
    }

    pub(crate) fn tokens(&self) -> Vec<usize> {
        if self.tokens.is_empty() { vec![16, 256] } else { self.tokens.clone() }
    }
}

/// The checkpoint. The command generates it on first use.
pub(crate) fn checkpoint(options: &Options, given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => Ok(path.to_owned()),
        None => synthesised(options, 1),
    }
}

/// The same tensors split into this many files: the single file, or the index.
pub(crate) fn synthesised(options: &Options, shards: usize) -> Result<PathBuf> {
    let (blocks, width) = if options.quick { (6, 1024) } else { (BLOCKS, WIDTH) };
    let (path, made) = match shards {
        1 => {
            let path = options.out.join(format!("controlnet-{blocks}x{width}.safetensors"));
            (path.clone(), path)
        }
        _ => {
            let path = options.out.join(format!("controlnet-{blocks}x{width}-{shards}.safetensors"));
            (path.clone(), path.with_extension("safetensors.index.json"))
        }
    };
    if made.exists() {
        return Ok(made);
    }
    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let vram = std::env::current_exe().context("own path")?.with_file_name("vram");
    ensure!(vram.exists(), "{} is not built: cargo build --release -p vram-cli", vram.display());
    let status = Command::new(&vram)
        .args(["synth", "--arch", "qwen-image-controlnet", "--blocks", &blocks.to_string()])
        .args(["--width", &width.to_string(), "--shards", &shards.to_string(), "-o"])
        .arg(&path)
        .status()
        .with_context(|| vram.display().to_string())?;
    ensure!(status.success(), "vram synth failed");
    ensure!(made.exists(), "vram synth did not write {}", made.display());
    Ok(made)
}

/// A managed model, and inputs for it.
pub(crate) struct Runner {
    pub(crate) model: Managed<ControlNet>,
    img: Vec<u8>,
    conditioning: Vec<u8>,
    img_meta: TensorMeta,
    conditioning_meta: TensorMeta,
}

impl Runner {
    pub(crate) fn new(
        source: Arc<dyn WeightSource>,
        tokens: usize,
        budget: u64,
        args: &Args,
    ) -> Result<Runner> {
        let config = Config::read(&*source)?;
        let model = skip_init(|| ControlNet::new(&config))?;
        let mut vram = VramConfig::disk(DType::BF16, Budget::new(Tier::Device, budget));
        vram.ring = args.ring;
        vram.readers = args.readers.unwrap_or(vram.readers);
        let device = Arc::new(Cpu::new(CpuOptions::default())?);
        let model = enable_vram_management(model, source, device, &ModuleMap::standard(), vram)?;
        let noise = |len: usize| -> Vec<u8> {
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            let mut next = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                ((state >> 40) as f32 / (1u64 << 24) as f32) * 2.0 - 1.0
            };
            (0..len).flat_map(|_| next().to_le_bytes()).collect()
        };
        Ok(Runner {
            model,
            img: noise(tokens * config.width),
            conditioning: noise(tokens * config.inputs),
            img_meta: TensorMeta::new(DType::F32, [1, tokens, config.width])?,
            conditioning_meta: TensorMeta::new(DType::F32, [1, tokens, config.inputs])?,
        })
    }

    /// Runs one pass that starts with an empty ring and does not read ahead for another pass.
    pub(crate) fn pass(&self) -> Result<Vec<u8>> {
        self.run(true)
    }

    /// Runs passes in a row, as a denoising loop does: the first starts with an empty ring, and
    /// only the last does not read ahead.
    pub(crate) fn passes(&self, count: u32) -> Result<()> {
        (1..=count).try_for_each(|i| self.run(i == count).map(drop))
    }

    fn run(&self, last: bool) -> Result<Vec<u8>> {
        let inputs = Inputs {
            img: (&self.img, self.img_meta.clone()),
            conditioning: (&self.conditioning, self.conditioning_meta.clone()),
        };
        let options = RunOptions { last, ..Default::default() };
        Ok(self.model.run_with(options, |m, fwd| m.forward(fwd, &inputs))?)
    }

    /// Describes how long the passes waited for weights.
    pub(crate) fn stalls(&self) -> String {
        let mut stalls: Vec<f64> = self.model.report().passes.iter().map(|p| p.stall_seconds).collect();
        stalls.sort_by(f64::total_cmp);
        let median = stalls.get(stalls.len() / 2).copied().unwrap_or(0.0);
        format!("waited for weights for {:.1} ms of the median pass", median * 1e3)
    }

    /// The bytes that a pass streams after resident weights are loaded.
    pub(crate) fn streamed(&self) -> Result<u64> {
        let report = self.model.report();
        Ok(report.passes.last().context("no pass yet")?.disk_bytes)
    }
}

pub(crate) fn open(path: &Path) -> Result<Arc<DiskMap>> {
    Ok(Arc::new(DiskMap::open(path)?))
}

pub(crate) fn open_mapped(path: &Path) -> Result<Arc<DiskMap>> {
    // SAFETY: this program owns the checkpoint, and nobody writes to it while a row is measured.
    Ok(Arc::new(unsafe { DiskMap::open_mapped(path)? }))
}

/// Reads `bytes` of the file from the page cache with several threads, again and again into one
/// buffer of `ring` bytes.
fn copy_from_cache(path: &Path, bytes: u64, ring: usize) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    let file = File::open(path)?;
    let next = AtomicU64::new(0);
    let threads = threads();
    let mut ring = vec![0u8; ring.max(threads * CHUNK)];
    let share = ring.len() / threads;
    thread::scope(|scope| {
        let workers: Vec<_> = ring
            .chunks_mut(share)
            .take(threads)
            .map(|own| {
                let (file, next) = (&file, &next);
                scope.spawn(move || -> Result<()> {
                    let mut slot = 0;
                    loop {
                        let at = next.fetch_add(CHUNK as u64, Ordering::Relaxed);
                        if at >= bytes {
                            return Ok(());
                        }
                        let want = CHUNK.min((bytes - at) as usize);
                        if slot + CHUNK > own.len() {
                            slot = 0;
                        }
                        let n = rustix::io::pread(file, &mut own[slot..slot + want], at)?;
                        ensure!(n == want, "a short read at {at}");
                        slot += CHUNK;
                    }
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(_) => bail!("a reader panicked"),
            }
        }
        Ok(())
    })
}

pub(crate) fn drop_cache(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).context("dropping the page cache")
}

pub(crate) fn warm_cache(path: &Path) -> Result<()> {
    copy_from_cache(path, std::fs::metadata(path)?.len(), 0)
}

/// Measures the fully resident pass.
pub(crate) fn resident(options: &Options, args: &Args) -> Result<()> {
    let path = checkpoint(options, args.given())?;
    let source = open(&path)?;
    let bytes = std::fs::metadata(&path)?.len();
    for tokens in args.tokens() {
        let runner = Runner::new(source.clone(), tokens, u64::MAX, args)?;
        let subjects = vec![Subject::new("resident pass", bytes, || runner.pass().map(drop))];
        let title = format!("Fully resident pass of {}, {tokens} tokens, bf16", path.display());
        measure(options, &format!("resident-{tokens}"), &title, subjects, vec![])?.publish(options)?;
        let flops = 2.0 * tokens as f64 * (bytes as f64 / 2.0);
        let report = runner.model.report();
        let best = report.passes.iter().skip(1).map(|p| p.seconds).fold(f64::INFINITY, f64::min);
        println!("best pass: {:.0} GFLOP/s; bytes read by it: {}", flops / best / 1e9, runner.streamed()?);
        drop(runner);
        println!("{}", pytorch(options, &Config::read(&*source)?, tokens));
    }
    Ok(())
}

/// Runs PyTorch with the same sizes, threads and dtype in a separate process, or says why not.
/// `VRAM_PYTHON` names an interpreter that has PyTorch.
fn pytorch(options: &Options, config: &Config, tokens: usize) -> String {
    let python = std::env::var_os("VRAM_PYTHON").unwrap_or_else(|| "python3".into());
    let sizes = [tokens, config.blocks, config.width, options.rounds()].map(|n| n.to_string());
    let run = Command::new(&python)
        .args(["-c", include_str!("pytorch.py")])
        .args(sizes)
        .env("OMP_NUM_THREADS", threads().to_string())
        .output();
    let output = match run {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            return format!("skipped: PyTorch: {}", why.lines().last().unwrap_or("it failed"));
        }
        Err(error) => return format!("skipped: PyTorch: {}: {error}", python.display()),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut seconds: Vec<f64> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    seconds.sort_by(f64::total_cmp);
    match (seconds.first(), seconds.get(seconds.len() / 2), seconds.last()) {
        (Some(least), Some(median), Some(most)) => {
            format!("PyTorch, right after it: {median:.3} s ({least:.3} .. {most:.3})")
        }
        _ => "skipped: PyTorch: it printed no times".to_owned(),
    }
}

/// Streams from the page cache, with reads and through the map, compared with lower bounds.
pub(crate) fn streaming_cached(options: &Options, args: &Args) -> Result<()> {
    let path = checkpoint(options, args.given())?;
    let weights = std::fs::metadata(&path)?.len();
    let budget = weights * args.percent().unwrap_or(25) / 100;
    warm_cache(&path)?;
    for tokens in args.tokens() {
        let resident = Runner::new(open(&path)?, tokens, u64::MAX, args)?;
        let expected = resident.pass()?;
        let streamed = Runner::new(open(&path)?, tokens, budget, args)?;
        let mapped = Runner::new(open_mapped(&path)?, tokens, budget, args)?;
        for runner in [&streamed, &mapped] {
            for _ in 0..2 {
                ensure!(runner.pass()? == expected, "streamed and resident differ");
            }
        }
        let bytes = streamed.streamed()?;
        let ring = streamed.model.report().ring_bytes as usize;
        let subjects = vec![
            Subject::new("resident, then a copy of the streamed bytes", bytes, || {
                resident.pass()?;
                copy_from_cache(&path, bytes, ring)
            }),
            Subject::new("streamed, positioned reads", bytes, || streamed.pass().map(drop)),
        ];
        let title = format!(
            "Streamed from the page cache, {tokens} tokens, bf16, budget {budget} bytes, ring {ring}"
        );
        let name = format!("streaming-cached-{tokens}");
        measure(options, &name, &title, subjects, vec![])?.publish(options)?;
        let subjects = vec![
            Subject::new("resident", bytes, || resident.pass().map(drop)),
            Subject::new("streamed, memory map", bytes, || mapped.pass().map(drop)),
            Subject::new("copy of the streamed bytes", bytes, || copy_from_cache(&path, bytes, ring)),
        ];
        let title = format!("Streamed through the memory map, {tokens} tokens, bf16, budget {budget} bytes");
        measure(options, &format!("streaming-mapped-{tokens}"), &title, subjects, vec![])?
            .publish(options)?;
        println!("streamed, positioned reads: {}", streamed.stalls());
        println!("streamed, memory map: {}", mapped.stalls());
    }
    Ok(())
}

/// Streams from a file that is not cached, compared with a direct read of it and with the resident
/// pass.
pub(crate) fn streaming_cold(options: &Options, args: &Args) -> Result<()> {
    let path = checkpoint(options, args.given())?;
    let weights = std::fs::metadata(&path)?.len();
    for tokens in args.tokens() {
        let resident = Runner::new(open(&path)?, tokens, u64::MAX, args)?;
        let expected = resident.pass()?;
        // A budget so small that every pass reads nearly all of the file.
        let budget = if options.quick { weights / 4 } else { 128 << 20 };
        let source = Arc::new(DiskMap::options().read(ReadMode::Auto).open(&path)?);
        let streamed = Runner::new(source, tokens, budget, args)?;
        drop_cache(&path)?;
        for _ in 0..2 {
            ensure!(streamed.pass()? == expected, "streamed and resident differ");
        }
        let bytes = streamed.streamed()?;
        let aligned = weights / 4096 * 4096;
        // The two fastest of `ceilings`; which one wins changes from minute to minute.
        let direct = |depth: usize, mib: u64| {
            Subject::new(format!("direct read of the file, {depth} of {mib} MiB"), aligned, {
                let path = &path;
                move || {
                    drop_cache(path)?;
                    read_direct(path, aligned, depth, mib << 20)
                }
            })
        };
        let subjects = vec![
            direct(2, 2),
            direct(4, 1),
            Subject::new("resident pass", weights, || resident.pass().map(drop)),
            Subject::new("streamed", bytes, || {
                drop_cache(&path)?;
                streamed.pass().map(drop)
            }),
        ];
        let title = format!("Streamed from a cold file, {tokens} tokens, bf16, budget {budget} bytes");
        let row = measure(options, &format!("streaming-cold-{tokens}"), &title, subjects, vec![])?;
        row.publish(options)?;
        println!("streamed: {}", streamed.stalls());
        println!("{}", row.against_the_larger(3, &[(&[0, 1], 1.0), (&[2], 1.0)]));
    }
    Ok(())
}
