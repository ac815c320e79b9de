//! A decoder's step of one token: what the engine adds to its kernels.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use vram_alloc::{AllocError, module, skip_init};
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{Budget, DeviceError, Kernels, KernelsExt, Tier, View, ViewMut, ops};
use vram_layers::layers::{Linear, RmsNorm};
use vram_layers::{Error, Forward, ModuleMap, RunOptions, Tensor, VramConfig, enable_vram_management};
use vram_types::{DType, GeneratedSource, TensorMeta};

use crate::Options;
use crate::harness::{Subject, measure};

const BLOCKS: usize = 120;
const WIDTH: usize = 64;
const HEADS: usize = 4;
/// Tokens that the caches hold, all of which a step sees.
const TOKENS: usize = 32;
/// The value of all weights. It keeps the outputs finite: a sum of 64 products of 2^-6.
const ELEMENT: f32 = 0.015_625;

struct Decoder {
    blocks: Vec<Block>,
}

struct Block {
    norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
}

module! { Decoder { blocks } }
module! { Block { norm, q, k, v, o } }

/// Keys and values of each block, `[TOKENS, WIDTH]`.
type Caches = Mutex<Vec<[Tensor; 2]>>;

impl Decoder {
    fn step(&self, fwd: &mut Forward<'_>, caches: &Caches, input: &[u8]) -> Result<Vec<u8>, Error> {
        let mut caches = caches.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut x = fwd.input(input, &TensorMeta::new(DType::F32, [1, WIDTH])?)?;
        for (block, [keys, values]) in self.blocks.iter().zip(&mut *caches) {
            let y = block.norm.forward(fwd, &x)?;
            let q = block.q.forward(fwd, &y)?;
            let (k, v) = (block.k.forward(fwd, &y)?, block.v.forward(fwd, &y)?);
            fwd.store(&k, keys, TOKENS - 1)?;
            fwd.store(&v, values, TOKENS - 1)?;
            let mut attended = fwd.tensor(q.shape().clone())?;
            fwd.run(ops::Attention::new(q.view(), keys.view(), values.view(), HEADS, attended.view_mut()))?;
            let out = block.o.forward(fwd, &attended)?;
            fwd.add(&mut x, &out)?;
        }
        fwd.download(&x)
    }
}

/// The same kernels on memory that is simply there.
struct Bare {
    cpu: Arc<Cpu>,
    row: TensorMeta,
    rows: TensorMeta,
    weight: TensorMeta,
    /// Of each block: norm, q, k, v, o, keys, values.
    blocks: Vec<[Vec<u8>; 7]>,
    /// x, y, q, k, v, attended, out.
    activations: [Vec<u8>; 7],
    scratch: Vec<u8>,
}

impl Bare {
    fn new(cpu: Arc<Cpu>) -> Result<Bare> {
        let meta = |rows| TensorMeta::new(DType::F32, [rows, WIDTH]);
        let (row, rows, weight) = (meta(1)?, meta(TOKENS)?, meta(WIDTH)?);
        let filled = |elements: usize| ELEMENT.to_le_bytes().repeat(elements);
        let matrix = || filled(WIDTH * WIDTH);
        let block = |_| {
            let cache = || vec![0; TOKENS * WIDTH * 4];
            [filled(WIDTH), matrix(), matrix(), matrix(), matrix(), cache(), cache()]
        };
        let absent = || (View::absent(row.clone()), ViewMut::absent(row.clone()));
        let ((x, y), weights) = (absent(), View::absent(weight.clone()));
        let linear = cpu.scratch(&ops::Linear::new(x, weights, y).into());
        let ((q, y), keys) = (absent(), View::absent(rows.clone()));
        let attention = cpu.scratch(&ops::Attention::new(q, keys.clone(), keys, HEADS, y).into());
        let scratch = vec![0; usize::try_from(linear.max(attention))?];
        let activations = std::array::from_fn(|_| vec![0; WIDTH * 4]);
        Ok(Bare { cpu, row, rows, weight, blocks: (0..BLOCKS).map(block).collect(), activations, scratch })
    }

    fn step(&mut self, input: &[u8]) -> Result<Vec<u8>, DeviceError> {
        let Bare { cpu, row, rows, weight, blocks, activations, scratch } = self;
        let [x, y, q, k, v, attended, out] = activations;
        let norm = TensorMeta::new(DType::F32, [WIDTH])?;
        let room = TensorMeta::new(DType::U8, [scratch.len()])?;
        x.copy_from_slice(input);
        let mut kernels = || -> Result<(), DeviceError> {
            for [gain, wq, wk, wv, wo, keys, values] in &mut *blocks {
                let of = |bytes| View::host(bytes, row.clone());
                let op = ops::RmsNorm::new(of(x)?, View::host(gain, norm.clone())?, 1e-5, {
                    ViewMut::host(y, row.clone())?
                });
                cpu.call(op, None)?;
                for (w, from, to) in [(wq, &*y, &mut *q), (wk, &*y, &mut *k), (wv, &*y, &mut *v)] {
                    let (w, to) = (View::host(w, weight.clone())?, ViewMut::host(to, row.clone())?);
                    let op = ops::Linear::new(View::host(from, row.clone())?, w, to);
                    cpu.call(op, Some(&mut ViewMut::host(scratch, room.clone())?))?;
                }
                for (from, cache) in [(&*k, &mut *keys), (&*v, &mut *values)] {
                    let last = &mut cache[(TOKENS - 1) * WIDTH * 4..];
                    let to = ViewMut::host(last, row.clone())?;
                    cpu.call(ops::Cast::new(View::host(from, row.clone())?, to), None)?;
                }
                let (keys, values) = (View::host(keys, rows.clone())?, View::host(values, rows.clone())?);
                let to = ViewMut::host(attended, row.clone())?;
                let op = ops::Attention::new(View::host(q, row.clone())?, keys, values, HEADS, to);
                cpu.call(op, Some(&mut ViewMut::host(scratch, room.clone())?))?;
                let (w, to) = (View::host(wo, weight.clone())?, ViewMut::host(out, row.clone())?);
                let op = ops::Linear::new(View::host(attended, row.clone())?, w, to);
                cpu.call(op, Some(&mut ViewMut::host(scratch, room.clone())?))?;
                let op = ops::Binary::add(View::host(out, row.clone())?, ViewMut::host(x, row.clone())?);
                cpu.call(op, None)?;
            }
            Ok(())
        };
        let mut result = Ok(());
        cpu.scope(&mut || result = kernels());
        result?;
        Ok(x.clone())
    }
}

/// Measures a step of one token through the engine, with its caches in a session, compared with the
/// bare kernels.
pub(crate) fn step(options: &Options) -> Result<()> {
    let cpu = Arc::new(Cpu::new(CpuOptions::default())?);
    let linear = || Linear::new(WIDTH, WIDTH, false, DType::F32);
    let block = || -> Result<Block, AllocError> {
        let norm = RmsNorm::new(WIDTH, 1e-5, DType::F32)?;
        Ok(Block { norm, q: linear()?, k: linear()?, v: linear()?, o: linear()? })
    };
    let model = skip_init(|| -> Result<Decoder, AllocError> {
        Ok(Decoder { blocks: (0..BLOCKS).map(|_| block()).collect::<Result<_, _>>()? })
    })?;
    let (norm, matrix) =
        (TensorMeta::new(DType::F32, [WIDTH])?, TensorMeta::new(DType::F32, [WIDTH, WIDTH])?);
    let mut tensors = Vec::new();
    for i in 0..BLOCKS {
        tensors.push((format!("blocks.{i}.norm.weight"), norm.clone()));
        tensors.extend(["q", "k", "v", "o"].map(|m| (format!("blocks.{i}.{m}.weight"), matrix.clone())));
    }
    let source = GeneratedSource::new(tensors, |_, _, bytes| {
        bytes.chunks_exact_mut(4).for_each(|element| element.copy_from_slice(&ELEMENT.to_le_bytes()));
    })?;
    let config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, 1 << 30));
    let kernels: Arc<dyn Kernels> = Arc::<Cpu>::clone(&cpu);
    let model = enable_vram_management(model, Arc::new(source), kernels, &ModuleMap::standard(), config)?;
    let meta = TensorMeta::new(DType::F32, [TOKENS, WIDTH])?;
    let session = model.session(2 * BLOCKS as u64 * meta.bytes().next_multiple_of(256))?;
    let mut caches = Vec::with_capacity(BLOCKS);
    for _ in 0..BLOCKS {
        let mut both = [session.tensor(meta.clone())?, session.tensor(meta.clone())?];
        for tensor in &mut both {
            let bytes = tensor.view_mut().bytes().map(|bytes| bytes.fill(0));
            ensure!(bytes.is_some(), "the CPU's memory is the host's");
        }
        caches.push(both);
    }
    let caches: Caches = Mutex::new(caches);
    let input = ELEMENT.to_le_bytes().repeat(WIDTH);
    let prepared = model.prepare(|model, fwd| model.step(fwd, &caches, &input))?;
    let dry = AtomicUsize::new(0);
    let through = || {
        model.run_prepared(&prepared, RunOptions::default(), |model, fwd| {
            dry.fetch_add(usize::from(fwd.is_dry()), Ordering::Relaxed);
            model.step(fwd, &caches, &input)
        })
    };
    let mut bare = Bare::new(cpu)?;
    ensure!(through()? == bare.step(&input)?, "the engine and the bare kernels differ");
    let subjects = vec![
        Subject::new("the kernels, called bare", 0, || Ok(bare.step(&input).map(drop)?)),
        Subject::new("a step through the engine", 0, || Ok(through().map(drop)?)),
    ];
    let units = model.engine().plan().units.len();
    let title = format!("A step of one token, {BLOCKS} blocks of width {WIDTH}, {units} units, f32");
    let row = measure(options, "decode-step", &title, subjects, vec![])?;
    row.publish(options)?;
    println!("{}", row.excess(1, 0, units as f64, "unit"));
    println!("dry runs of all steps: {}", dry.into_inner());
    Ok(())
}
