//! How near passes come to the bound of their schedule: the larger of copying what is streamed and of the resident pass.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use vram_alloc::{named_parameters, skip_init};
use vram_device::{Budget, Kernels, Lifetime, Part, Queue, Staging, Tier};
use vram_layers::{Managed, ModuleMap, RunOptions, VramConfig, enable_vram_management};
use vram_models::controlnet::{Config, ControlNet, Inputs};
use vram_types::{DType, GeneratedSource, TensorMeta};

use crate::Outcome;

/// The Qwen-Image ControlNet as it is: 2.27 GB in bf16.
const MODEL: Config = Config { blocks: 60, width: 3072, inputs: 64, dtype: DType::BF16 };

/// From passes that copies bound to passes that kernels bound.
const TOKENS: [usize; 3] = [256, 4096, 16384];

/// Percent of the weights that the budget has beyond the smallest that works.
const BUDGETS: [u64; 4] = [10, 25, 50, 75];

const ROUNDS: usize = 7;

/// Passes in a row that make one sample, as a denoising loop runs them.
const PASSES: u32 = 5;

/// Pinned memory that is copied from, and memory of the card that is copied to, for the link's own speed.
const COPIED: u64 = 1 << 30;
const TARGET: u64 = 64 << 20;

fn noise(len: usize, spread: f32) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0) * spread
    };
    (0..len).flat_map(|_| ((next().to_bits() >> 16) as u16).to_le_bytes()).collect()
}

/// Small random numbers in place of trained weights: each tensor begins elsewhere in a block of them, at an element.
fn from_noise(block: &[u8], tensor: usize, offset: u64, mut dst: &mut [u8]) {
    let mut from = (tensor * 5000 + offset as usize) % block.len();
    while !dst.is_empty() {
        let (now, later) = dst.split_at_mut(dst.len().min(block.len() - from));
        now.copy_from_slice(&block[from..from + now.len()]);
        (from, dst) = (0, later);
    }
}

/// Copies alone, out of pinned memory.
struct Link<'a> {
    device: &'a dyn Kernels,
    staging: Staging,
    target: Part,
}

impl Link<'_> {
    fn new(device: &dyn Kernels) -> Outcome<Link<'_>> {
        let (near, far) = (Budget::new(Tier::Host, COPIED), Budget::new(Tier::Device, TARGET));
        let mut staging = device.stage(near.reserve(Lifetime::Pass, COPIED)?)?;
        staging.host_mut().fill(1);
        let target = device.allocate(far.reserve(Lifetime::Pass, TARGET)?)?.into_region();
        let target = target.into_parts(&[])?.pop().ok_or("a region without parts")?;
        Ok(Link { device, staging, target })
    }

    /// Bytes per second.
    fn speed(&mut self) -> Outcome<f64> {
        let start = Instant::now();
        for from in (0..COPIED).step_by(TARGET as usize) {
            self.device.upload(&self.staging, from..from + TARGET, &mut self.target, 0)?;
        }
        self.device.wait(self.device.ticket(Queue::Copy)?)?;
        Ok(COPIED as f64 / start.elapsed().as_secs_f64())
    }
}

/// A model and its inputs.
struct Runner {
    model: Managed<ControlNet>,
    img: (Vec<u8>, TensorMeta),
    conditioning: (Vec<u8>, TensorMeta),
}

impl Runner {
    fn new(device: &Arc<dyn Kernels>, tokens: usize, budget: u64) -> Outcome<Runner> {
        let model = skip_init(|| ControlNet::new(&MODEL))?;
        let block = noise(1 << 20, 1.0 / (MODEL.width as f32).sqrt());
        let tensors = named_parameters(&model).into_iter().map(|(name, p)| (name, p.meta().clone()));
        let source = GeneratedSource::new(tensors, move |tensor, offset, dst| {
            from_noise(&block, tensor, offset, dst);
        })?;
        let weights: u64 = source.tensors().map(|(_, meta)| meta.bytes()).sum();
        let host = Budget::new(Tier::Host, weights + (256 << 20));
        let config = VramConfig::host(DType::BF16, Budget::new(Tier::Device, budget), host);
        let input = |width: usize| -> Outcome<(Vec<u8>, TensorMeta)> {
            Ok((noise(tokens * width, 1.0), TensorMeta::new(DType::BF16, [1, tokens, width])?))
        };
        Ok(Runner {
            model: enable_vram_management(
                model,
                Arc::new(source),
                Arc::clone(device),
                &ModuleMap::standard(),
                config,
            )?,
            img: input(MODEL.width)?,
            conditioning: input(MODEL.inputs)?,
        })
    }

    fn inputs(&self) -> Inputs<'_> {
        let ((img, img_meta), (conditioning, conditioning_meta)) = (&self.img, &self.conditioning);
        Inputs { img: (img, img_meta.clone()), conditioning: (conditioning, conditioning_meta.clone()) }
    }

    fn pass(&self, last: bool) -> Outcome<Vec<u8>> {
        let inputs = self.inputs();
        let options = RunOptions { last, ..Default::default() };
        Ok(self.model.run_with(options, |m, fwd| m.forward(fwd, &inputs))?)
    }

    /// Seconds of a pass among several.
    fn seconds(&self) -> Outcome<f64> {
        let start = Instant::now();
        for i in 1..=PASSES {
            self.pass(i == PASSES)?;
        }
        Ok(start.elapsed().as_secs_f64() / f64::from(PASSES))
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The least, the median and the greatest.
fn spread(samples: &[f64]) -> Value {
    let fold = |start: f64, f: fn(f64, f64) -> f64| samples.iter().copied().fold(start, f);
    json!({
        "median": median(samples.to_vec()),
        "least": fold(f64::INFINITY, f64::min),
        "greatest": fold(0.0, f64::max),
    })
}

pub(crate) fn measure(device: &Arc<dyn Kernels>) -> Outcome<(Value, bool)> {
    let mut link = Link::new(&**device)?;
    let (mut all, mut passed) = (Vec::new(), true);
    for tokens in TOKENS {
        let resident = Runner::new(device, tokens, 64 << 30)?;
        let expected = resident.pass(false)?;
        let weights = resident.model.report().weights_bytes;
        let probe = Runner::new(device, tokens, 0)?;
        let smallest = probe.model.minimum_budget(|m, fwd| m.forward(fwd, &probe.inputs()))?;
        drop(probe);
        let mut streamed = Vec::new();
        for percent in BUDGETS {
            let budget = smallest + weights * percent / 100;
            let runner = Runner::new(device, tokens, budget)?;
            let mut same = true;
            // Measured, planned anew where that pays, and warm.
            for _ in 0..4 {
                same &= runner.pass(false)? == expected;
            }
            passed &= same && runner.model.report().peak_bytes <= budget;
            streamed.push((percent, budget, same, runner));
        }
        let (mut speeds, mut residents) = (Vec::new(), Vec::new());
        let mut ratios = vec![Vec::new(); streamed.len()];
        let mut times = ratios.clone();
        for _ in 0..ROUNDS {
            let speed = link.speed()?;
            let whole = resident.seconds()?;
            for ((.., runner), (ratios, times)) in streamed.iter().zip(ratios.iter_mut().zip(&mut times)) {
                let time = runner.seconds()?;
                let report = runner.model.report();
                let moved = report.passes.iter().rev().nth(1).map_or(0, |p| p.device_bytes);
                ratios.push(time / whole.max(moved as f64 / speed));
                times.push(time);
            }
            speeds.push(speed);
            residents.push(whole);
        }
        eprintln!(
            "{tokens} tokens: link {:.1} GB/s, resident pass {:.2} ms",
            median(speeds.clone()) / 1e9,
            median(residents.clone()) * 1e3
        );
        let mut budgets = Vec::new();
        for ((percent, budget, same, runner), (ratios, times)) in
            streamed.iter().zip(ratios.iter().zip(&times))
        {
            let report = runner.model.report();
            let (plan, last) = (runner.model.engine().plan(), report.passes.iter().rev().nth(1));
            let moved = last.map_or(0, |p| p.device_bytes);
            eprintln!(
                "  {percent} %: {:.2} ms, {:.3} of the bound; {} MB streamed, ring {} MiB, predicted {:.2} ms",
                median(times.clone()) * 1e3,
                median(ratios.clone()),
                moved / 1_000_000,
                plan.ring_bytes >> 20,
                last.map_or(0.0, |p| p.predicted_seconds) * 1e3,
            );
            budgets.push(json!({
                "percent": percent, "budget_bytes": budget, "peak_bytes": report.peak_bytes,
                "same_bits_as_resident": same, "streamed_bytes": moved, "ring_bytes": plan.ring_bytes,
                "seconds": spread(times), "over_the_larger_bound": spread(ratios),
                "predicted_seconds": last.map(|p| p.predicted_seconds),
                "stalled_seconds": last.map(|p| p.stall_seconds),
            }));
        }
        all.push(json!({
            "tokens": tokens, "weights_bytes": weights, "smallest_budget_bytes": smallest,
            "link_bytes_per_second": spread(&speeds), "resident_seconds": spread(&residents), "budgets": budgets,
        }));
    }
    Ok((Value::Array(all), passed))
}
