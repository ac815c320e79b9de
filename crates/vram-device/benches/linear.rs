//! Linear layers of 3072 x 3072 over more weights than any cache holds, beside two yardsticks taken in the same rounds:
//! a plain parallel read of the same weights, and the `gemm` crate's f32 product of the same shapes.
//!
//! `cargo bench -p vram-device --bench linear [-- [--quick] [ROUNDS] [NAME-PART]...]`; `--quick` takes two rounds over a
//! quarter of the weights, to see whether it runs. Each round measures everything once, in turn, so that a
//! neighbour's load falls on all of it; a line gives the median and the spread over the rounds, and the rate per second of
//! processor time spent, times the threads: what it would be if nobody else ran.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use rayon::ThreadPool;
use vram_device::cpu::ops::{LinearArgs, linear, linear_pack, linear_scratch_bytes, rms_norm, unary};
use vram_device::cpu::{Isa, IsaKind};
use vram_device::ops::UnaryKind;
use vram_types::{BlockType, DType, Encoding};

const THREADS: usize = 2;
const N: usize = 3072;
const MATRIX: usize = N * N;
const BYTES: usize = 1152 << 20;
/// With `--quick`: what the smallest of the runs takes.
const QUICK_BYTES: usize = 8 * MATRIX * 4;

/// Anonymous memory in huge pages, filled with small values.
struct Huge {
    start: *mut u8,
    len: usize,
}

impl Huge {
    fn new(len: usize) -> Huge {
        // SAFETY: a fresh anonymous mapping.
        let start = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let p = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(p, libc::MAP_FAILED);
            libc::madvise(p, len, libc::MADV_HUGEPAGE);
            p.cast::<u8>()
        };
        let mut seed = 1u32;
        let mut huge = Huge { start, len };
        for c in huge.bytes_mut().chunks_exact_mut(4) {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Two bf16 numbers near 1/50, and an f32 as well.
            let pair = 0x3c80_3c80 | seed & 0x807f_807f;
            c.copy_from_slice(&pair.to_le_bytes());
        }
        huge
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and filled in `new`, unmapped on drop.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably; fresh pages read as zero.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Huge {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

fn read(bytes: &[u8], pool: &ThreadPool) {
    use rayon::prelude::*;
    let total: u64 = pool.install(|| {
        bytes.par_chunks(1 << 20).with_max_len(4).map(read_block).reduce(|| 0, u64::wrapping_add)
    });
    std::hint::black_box(total);
}

#[cfg(target_arch = "x86_64")]
fn read_block(block: &[u8]) -> u64 {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx512f")]
    fn wide(block: &[u8]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 8];
        for chunk in block.chunks_exact(512) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: eight times 64 bytes are in the chunk.
                *sum =
                    _mm512_add_epi64(*sum, unsafe { _mm512_loadu_si512(chunk.as_ptr().add(64 * i).cast()) });
            }
        }
        sums.into_iter().map(|s| _mm512_reduce_add_epi64(s) as u64).fold(0, u64::wrapping_add)
    }
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: just checked.
        return unsafe { wide(block) };
    }
    plain(block)
}

#[cfg(not(target_arch = "x86_64"))]
fn read_block(block: &[u8]) -> u64 {
    plain(block)
}

fn plain(block: &[u8]) -> u64 {
    block.as_chunks::<8>().0.iter().fold(0, |s, &c| s.wrapping_add(u64::from_le_bytes(c)))
}

struct Run<'a> {
    name: String,
    /// What a second is divided into: bytes or operations of one call.
    work: f64,
    unit: &'static str,
    call: Box<dyn FnMut() + 'a>,
    seconds: Vec<f64>,
    processor: Vec<f64>,
}

/// Seconds of processor time that this process has used.
fn processor_time() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn layer<'a>(
    isa: Isa,
    m: usize,
    act: DType,
    w: &'a [u8],
    stored: impl Into<Encoding>,
    pool: &'a ThreadPool,
) -> Run<'a> {
    let stored = stored.into();
    let size = |d: DType| d.bits() as usize / 8;
    let mut x = vec![0u8; m * N * size(act)];
    for (i, c) in x.chunks_exact_mut(size(act)).enumerate() {
        let v = ((i * 37 % 101) as f32 / 50.0 - 1.0).to_le_bytes();
        c.copy_from_slice(&v[4 - size(act)..]);
    }
    let mut scratch = vec![0u8; linear_scratch_bytes(isa, m, N, act)];
    let mut y = vec![0u8; m * N * size(act)];
    let matrix = N * stored.row_bytes(N as u64).unwrap() as usize;
    let count = w.len() / matrix;
    // On a thread of the pool, as a forward runs and as the yardsticks do: entering it costs a change of threads.
    let call = move || {
        pool.install(|| {
            for w in w.chunks_exact(matrix) {
                linear_pack(isa, &x, m, N, act, &mut scratch, Some(pool)).unwrap();
                let args = LinearArgs {
                    packed: &scratch,
                    m,
                    k: N,
                    w,
                    w_encoding: stored,
                    scales: None,
                    n: N,
                    bias: None,
                    ldy: N,
                    n0: 0,
                    act,
                };
                linear(isa, &args, &mut y, Some(pool)).unwrap();
            }
            std::hint::black_box(&y);
        });
    };
    let (work, unit) = match m {
        0..=64 => ((count * matrix) as f64, "GB/s"),
        _ => ((count * 2 * m * MATRIX) as f64, "GFLOP/s"),
    };
    Run {
        name: format!("{isa} {m} rows, {act} x {stored}"),
        work,
        unit,
        call: Box::new(call),
        seconds: Vec::new(),
        processor: Vec::new(),
    }
}

fn gemm_f32<'a>(m: usize, w: &'a [f32], pool: &'a ThreadPool) -> Run<'a> {
    let x = vec![0.01f32; m * N];
    let mut y = vec![0f32; m * N];
    let count = w.len() / MATRIX;
    let call = move || {
        for w in w.chunks_exact(MATRIX) {
            // SAFETY: y [m, N], x [m, N] and w [N, N] with the strides of row-major matrices, w transposed.
            pool.install(|| unsafe {
                gemm::gemm(
                    m,
                    N,
                    N,
                    y.as_mut_ptr(),
                    1,
                    N as isize,
                    false,
                    x.as_ptr(),
                    1,
                    N as isize,
                    w.as_ptr(),
                    N as isize,
                    1,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::Rayon(THREADS),
                );
            });
        }
        std::hint::black_box(&y);
    };
    let work = (count * 2 * m * MATRIX) as f64;
    Run {
        name: format!("gemm crate {m} rows, F32 x F32"),
        work,
        unit: "GFLOP/s",
        call: Box::new(call),
        seconds: Vec::new(),
        processor: Vec::new(),
    }
}

fn small<'a>(name: &str, elements: usize, mut call: impl FnMut() + 'a) -> Run<'a> {
    let call = move || (0..50).for_each(|_| call());
    let work = 50.0 * elements as f64;
    Run {
        name: name.to_owned(),
        work,
        unit: "Gelem/s",
        call: Box::new(call),
        seconds: Vec::new(),
        processor: Vec::new(),
    }
}

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let (rounds, bytes) = if quick { (2, QUICK_BYTES) } else { (7, BYTES) };
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(rounds);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().unwrap();
    let weights = Huge::new(bytes);
    let w = weights.bytes();
    let part = &w[..16 * MATRIX * 2];
    // SAFETY: the mapping is page aligned, and every pattern of bits is an f32.
    let floats = unsafe { w[..8 * MATRIX * 4].align_to::<f32>().1 };
    let isas: Vec<Isa> = match std::env::var_os("VRAM_CPU_ISA") {
        Some(_) => vec![Isa::detect().unwrap()],
        None => Isa::available().filter(|i| matches!(i.kind(), IsaKind::Amx | IsaKind::Avx512)).collect(),
    };
    let mut runs = vec![Run {
        name: "plain read".to_owned(),
        work: bytes as f64,
        unit: "GB/s",
        call: Box::new(|| read(w, &pool)),
        seconds: Vec::new(),
        processor: Vec::new(),
    }];
    runs.push(gemm_f32(256, floats, &pool));
    for &isa in &isas {
        for m in [1, 4, 16, 32] {
            runs.push(layer(isa, m, DType::BF16, w, DType::BF16, &pool));
        }
        runs.push(layer(isa, 256, DType::BF16, part, DType::BF16, &pool));
        if isa.kind() != IsaKind::Amx {
            runs.push(layer(isa, 1, DType::F32, w, DType::F32, &pool));
            runs.push(layer(isa, 16, DType::F32, w, DType::F32, &pool));
            runs.push(layer(isa, 256, DType::F32, part, DType::F32, &pool));
        }
    }
    for block in [BlockType::Q4_0, BlockType::Q4_1, BlockType::Q8_0, BlockType::Q4_K, BlockType::Q6_K] {
        let matrix = (MATRIX as u64 / block.block_elements() * block.block_bytes()) as usize;
        for &isa in &isas {
            runs.push(layer(isa, 1, DType::F32, &w[..(4 * matrix).min(w.len())], block, &pool));
        }
    }
    let isa = isas[0];
    for act in [DType::F32, DType::BF16] {
        let bytes = 256 * N * act.bits() as usize / 8;
        let (mut y, x, p) = (vec![0u8; bytes], vec![0x3fu8; bytes], &pool);
        let mut z = y.clone();
        runs.push(small(&format!("{isa} gelu 256 x {N} {act}"), 256 * N, move || {
            unary(isa, UnaryKind::Gelu, &mut y, act, Some(p)).unwrap();
        }));
        runs.push(small(&format!("{isa} rms_norm 256 x {N} {act}"), 256 * N, move || {
            rms_norm(isa, &x, N, Some((&w[..N * 2], DType::BF16)), 1e-6, &mut z, act, Some(p)).unwrap();
        }));
    }
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--") && a.parse::<u32>().is_err()).collect();
    runs.retain(|r| wanted.is_empty() || wanted.iter().any(|w| r.name.contains(w)));
    for round in 0..=rounds {
        for run in &mut runs {
            let (start, used) = (Instant::now(), processor_time());
            (run.call)();
            // The first round warms up.
            if round > 0 {
                run.seconds.push(start.elapsed().as_secs_f64());
                run.processor.push(processor_time() - used);
            }
        }
    }
    println!("| what | unit | median | least | most | of the yardstick | on idle cores | of the yardstick |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut yardsticks: Vec<(&'static str, f64, f64)> = Vec::new();
    for run in &mut runs {
        run.seconds.sort_by(f64::total_cmp);
        run.processor.sort_by(f64::total_cmp);
        let rate = |s: f64| run.work / s / 1e9;
        let middle = run.seconds.len() / 2;
        let (median, idle) = (rate(run.seconds[middle]), rate(run.processor[middle] / THREADS as f64));
        let (most, least) = (rate(run.seconds[0]), rate(run.seconds[run.seconds.len() - 1]));
        let (of, of_idle) = match yardsticks.iter().find(|y| y.0 == run.unit) {
            Some(y) => (format!("{:.2}", median / y.1), format!("{:.2}", idle / y.2)),
            None => Default::default(),
        };
        yardsticks.push((run.unit, median, idle));
        let (name, unit) = (&run.name, run.unit);
        println!("| {name} | {unit} | {median:.1} | {least:.1} | {most:.1} | {of} | {idle:.1} | {of_idle} |");
    }
}
