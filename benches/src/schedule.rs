//! What the engine adds to its kernels, and how close it gets to the bound of its schedule.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use vram_alloc::{AllocError, module, skip_init};
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{Budget, Device, Kernels, KernelsExt, Lifetime, Region, Tier, View, ViewMut, ops};
use vram_diskmap::{DiskMap, ReadMode};
use vram_layers::layers::Linear;
use vram_layers::{Error, Forward, ModuleMap, VramConfig, enable_vram_management};
use vram_types::{DType, GeneratedSource, TensorMeta};

use crate::Options;
use crate::ceilings::{read_direct, read_direct_around};
use crate::harness::{Subject, measure};
use crate::machine::Huge;
use crate::model::{Args, Runner, checkpoint, drop_cache, open};
use crate::whole::print_reading;

/// Budgets in percent of the weights.
const BUDGETS: [u64; 4] = [10, 25, 50, 75];

/// Passes in a row per sample; the bounds are measured in the same way.
const PASSES: u32 = 3;

/// Reads of 1 MiB in flight for the read that cycles through a ring.
const RING_READS: usize = 8;

/// Passes over a cold file under several budgets, each compared with two bounds. The first is the
/// larger of a direct read of the streamed bytes and the resident pass, each alone on the machine.
/// The second runs both at once, neither waiting for the other. If reading slows the kernels down
/// (or the kernels the disk, when its driver needs the same cores), only the second can be
/// reached.
///
/// The direct read is the fastest of those that read again and again into the same few MiB, which
/// stay in the processor's caches. For comparison there are also a read that cycles through as
/// much memory as the ring has, and `fio`.
pub(crate) fn real(options: &Options, args: &Args) -> Result<()> {
    let path = checkpoint(options, args.given())?;
    let weights = std::fs::metadata(&path)?.len();
    let tokens = if args.tokens() == [16, 256] { vec![16, 64, 256] } else { args.tokens() };
    for tokens in tokens {
        let resident = Runner::new(open(&path)?, tokens, u64::MAX, args)?;
        let expected = resident.pass()?;
        let mut streamed = Vec::new();
        for &percent in args.percent().as_ref().map_or(&BUDGETS[..], std::slice::from_ref) {
            let source = Arc::new(DiskMap::options().read(ReadMode::Auto).open(&path)?);
            let runner = Runner::new(source, tokens, weights * percent / 100, args)?;
            // After this the model has been measured, has a new plan if that is faster, and is
            // warm.
            for _ in 0..4 {
                drop_cache(&path)?;
                ensure!(runner.pass()? == expected, "streamed and resident differ");
            }
            streamed.push((percent, runner));
        }
        let aligned = weights / 4096 * 4096;
        let direct = |depth: usize, kib: u64| {
            let path: &Path = &path;
            let name = format!("direct read of the file, {depth} of {kib} KiB");
            Subject::each(name, aligned, PASSES, move || {
                drop_cache(path)?;
                (0..PASSES).try_for_each(|_| read_direct(path, aligned, depth, kib << 10))
            })
        };
        let mut subjects = vec![
            Subject::each("resident pass", weights, PASSES, || resident.passes(PASSES)),
            direct(4, 1024),
            direct(8, 1024),
            direct(8, 512),
        ];
        let few: Vec<usize> = (1..subjects.len()).collect();
        let (mut fio, mut skipped) = (Vec::new(), Vec::new());
        match crate::fio::subjects(&path) {
            Ok(ways) => {
                fio = (subjects.len()..subjects.len() + ways.len()).collect();
                subjects.extend(ways);
            }
            Err(why) => skipped.push(why),
        }
        let budgets = subjects.len();
        let (mut shares, path, resident) = (Vec::new(), &path, &resident);
        for (percent, runner) in &streamed {
            let bytes = runner.streamed()?;
            shares.push(bytes as f64 / aligned as f64);
            let name = format!("budget {percent} % of the weights");
            let ring = usize::try_from(runner.model.engine().plan().ring_bytes)?;
            let mut ring = Huge::new(ring.next_multiple_of(1 << 20).max(RING_READS << 20))?;
            ring.bytes().fill(1);
            subjects.push(Subject::each(
                format!("direct read of what {percent} % stream, cycling through a ring"),
                bytes,
                PASSES,
                move || {
                    drop_cache(path)?;
                    (0..PASSES).try_for_each(|_| {
                        read_direct_around(path, bytes / 4096 * 4096, ring.bytes(), RING_READS, 1 << 20)
                    })
                },
            ));
            subjects.push(Subject::each(
                format!("both bounds of {percent} % at once"),
                bytes,
                PASSES,
                move || {
                    drop_cache(path)?;
                    let read =
                        || (0..PASSES).try_for_each(|_| read_direct(path, bytes / 4096 * 4096, 8, 1 << 20));
                    std::thread::scope(|scope| {
                        let reader = scope.spawn(read);
                        resident.passes(PASSES)?;
                        reader.join().unwrap_or_else(|_| bail!("the reader panicked"))
                    })
                },
            ));
            subjects.push(Subject::each(name, bytes, PASSES, move || {
                drop_cache(path)?;
                let before = read_from_disk()?;
                runner.passes(PASSES)?;
                let read = read_from_disk()? - before;
                // Small tensors, such as biases, may be in the cache after the first pass.
                let all = u64::from(PASSES) * bytes;
                ensure!(
                    read >= all / 100 * 98,
                    "{read} of {all} bytes came from the disk: the file was not cold"
                );
                Ok(())
            }));
        }
        let title = format!("Streamed from a cold file, {tokens} tokens, bf16, several budgets");
        let row = measure(options, &format!("schedule-{tokens}"), &title, subjects, skipped)?;
        row.publish(options)?;
        print_reading(path)?;
        for (i, ((_, runner), share)) in streamed.iter().zip(shares).enumerate() {
            let plan = runner.model.engine().plan();
            let read = budgets + 3 * i;
            let (both, streamed) = (read + 1, read + 2);
            println!("{}", row.against_the_larger(streamed, &[(&few, share), (&[0], 1.0)]));
            let round = row.against_the_larger(streamed, &[(&[read], 1.0), (&[0], 1.0)]);
            println!("    with a read that cycles through a ring: {round}");
            if !fio.is_empty() {
                let by_fio = row.against_the_larger(streamed, &[(&fio, share), (&[0], 1.0)]);
                println!("    with the faster read of fio: {by_fio}");
            }
            println!("    over the two at once: {}", row.against(streamed, both));
            let report = runner.model.report();
            let last = report.passes.last().context("no pass yet")?;
            println!(
                "    predicted {:.3} s, bound {:.3} s by {:?}, ring {} MiB; {}",
                last.predicted_seconds,
                last.bound_seconds,
                plan.limited_by,
                plan.ring_bytes >> 20,
                runner.stalls()
            );
        }
    }
    Ok(())
}

/// Bytes that storage has read for this process.
fn read_from_disk() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io").context("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.context("/proc/self/io has no read_bytes")?.parse().context("read_bytes")
}

const LAYERS: usize = 720;
const WIDTH: usize = 64;

struct Stack {
    layers: Vec<Linear>,
}

module! { Stack { layers } }

impl Stack {
    fn forward(&self, fwd: &mut Forward<'_>, input: &[u8]) -> Result<Vec<u8>, Error> {
        let mut x = fwd.input(input, &TensorMeta::new(DType::BF16, [1, WIDTH])?)?;
        for layer in &self.layers {
            x = layer.forward(fwd, &x)?;
        }
        fwd.download(&x)
    }
}

/// The value of all weights. It keeps the outputs finite: a sum of 64 products of 2^-6.
const ELEMENT: [u8; 2] = [0x80, 0x3c];

/// Measures a fully resident pass of many small layers through the engine, compared with the bare
/// kernels.
pub(crate) fn overhead(options: &Options) -> Result<()> {
    let cpu = Arc::new(Cpu::new(CpuOptions::default())?);
    let net = skip_init(|| -> Result<Stack, AllocError> {
        let layers = (0..LAYERS).map(|_| Linear::new(WIDTH, WIDTH, false, DType::BF16));
        Ok(Stack { layers: layers.collect::<Result<_, _>>()? })
    })?;
    let meta = TensorMeta::new(DType::BF16, [WIDTH, WIDTH])?;
    let tensors = (0..LAYERS).map(|i| (format!("layers.{i}.weight"), meta.clone()));
    let source = GeneratedSource::new(tensors, |_, _, dst| {
        dst.chunks_exact_mut(2).for_each(|element| element.copy_from_slice(&ELEMENT));
    })?;
    let config = VramConfig::disk(DType::BF16, Budget::new(Tier::Device, 1 << 30));
    let kernels: Arc<dyn Kernels> = Arc::<Cpu>::clone(&cpu);
    let net = enable_vram_management(net, Arc::new(source), kernels, &ModuleMap::standard(), config)?;
    let input = ELEMENT.repeat(WIDTH);
    let through = || net.run(|net, fwd| net.forward(fwd, &input));

    let budget = Budget::new(Tier::Device, 1 << 30);
    let region = |bytes: u64| -> Result<Region> {
        Ok(cpu.allocate(budget.reserve(Lifetime::Weights, bytes)?)?.into_region())
    };
    let x_meta = TensorMeta::new(DType::BF16, [1, WIDTH])?;
    let w_meta = TensorMeta::new(DType::BF16, [WIDTH, WIDTH])?;
    let scratch = cpu.scratch(
        &ops::Linear::new(
            View::absent(x_meta.clone()),
            View::absent(w_meta.clone()),
            ViewMut::absent(x_meta.clone()),
        )
        .into(),
    );
    let p_meta = TensorMeta::new(DType::U8, [usize::try_from(scratch)?])?;
    let mut weights = Vec::with_capacity(LAYERS);
    for _ in 0..LAYERS {
        let mut weight = region(w_meta.bytes())?;
        let bytes = weight.host_mut().context("CPU memory is host-visible")?;
        bytes.copy_from_slice(&ELEMENT.repeat(WIDTH * WIDTH));
        weights.push(weight);
    }
    let (mut x, mut y, mut packed) = (region(x_meta.bytes())?, region(x_meta.bytes())?, region(scratch)?);
    let mut bare = || -> Result<Vec<u8>> {
        x.host_mut().context("CPU memory is host-visible")?.copy_from_slice(&input);
        let mut result = Ok(());
        cpu.scope(&mut || {
            result = (|| {
                for weight in &weights {
                    let op = ops::Linear::new(
                        View::new(&x, 0, x_meta.clone())?,
                        View::new(weight, 0, w_meta.clone())?,
                        ViewMut::new(&mut y, 0, x_meta.clone())?,
                    );
                    cpu.call(op, Some(&mut ViewMut::new(&mut packed, 0, p_meta.clone())?))?;
                    std::mem::swap(&mut x, &mut y);
                }
                Ok::<(), vram_device::DeviceError>(())
            })();
        });
        result?;
        Ok(x.host().context("CPU memory is host-visible")?.to_vec())
    };
    ensure!(through()? == bare()?, "the engine and the bare kernels differ");
    let subjects = vec![
        Subject::new("the kernels, called bare", 0, || bare().map(drop)),
        Subject::new("through the engine, fully resident", 0, || Ok(through().map(drop)?)),
    ];
    let title = format!("{LAYERS} resident layers of {WIDTH} x {WIDTH}, 1 token, bf16");
    let row = measure(options, "overhead", &title, subjects, vec![])?;
    row.publish(options)?;
    println!("{}", row.excess(1, 0, LAYERS as f64, "unit"));
    let moved: u64 = net.report().passes.iter().skip(1).map(|p| p.device_bytes).sum();
    ensure!(moved == 0, "{moved} bytes were moved for resident layers");
    println!("bytes moved by all passes after the first: {moved}");
    Ok(())
}
