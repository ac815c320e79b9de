//! How far copies run beside kernels: copies alone, kernels alone, and both at once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vram_device::{
    Budget, Kernels, KernelsExt, Lifetime, Part, Queue, Region, Staging, Tier, View, ViewMut, ops,
};
use vram_types::{DType, TensorMeta};

use crate::Outcome;

/// Bytes of a copy, how many of them there are, and in how many rounds each figure is the best.
const PIECE: u64 = 16 << 20;
const PIECES: usize = 16;
const ROUNDS: usize = 5;

/// Rows, inputs and outputs of a product in bf16.
const EXTENTS: [usize; 3] = [512, 2048, 2048];

struct Work<'a> {
    device: &'a dyn Kernels,
    staging: Staging,
    target: Part,
    x: Region,
    weight: Region,
    scratch: Region,
    y: Region,
}

impl Work<'_> {
    fn copies(&mut self) -> Outcome<()> {
        for _ in 0..PIECES {
            self.device.upload(&self.staging, 0..PIECE, &mut self.target, 0)?;
        }
        Ok(())
    }

    fn kernels(&mut self, count: usize) -> Outcome<()> {
        let [rows, inputs, outputs] = EXTENTS;
        for _ in 0..count {
            let x = View::new(&self.x, 0, TensorMeta::new(DType::BF16, [rows, inputs])?)?;
            let weight = View::new(&self.weight, 0, TensorMeta::new(DType::BF16, [outputs, inputs])?)?;
            let y = ViewMut::new(&mut self.y, 0, TensorMeta::new(DType::BF16, [rows, outputs])?)?;
            let room = TensorMeta::new(DType::U8, [self.scratch.bytes() as usize])?;
            let mut scratch = ViewMut::new(&mut self.scratch, 0, room)?;
            self.device.call(ops::Linear::new(x, weight, y), Some(&mut scratch))?;
        }
        Ok(())
    }

    /// The best time of some rounds, from the first call until both queues are idle.
    fn best(&mut self, copies: bool, kernels: usize) -> Outcome<Duration> {
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            // Copies first: issuing so many kernels takes the host about as long as they run.
            if copies {
                self.copies()?;
            }
            self.kernels(kernels)?;
            for queue in [Queue::Copy, Queue::Compute] {
                self.device.wait(self.device.ticket(queue)?)?;
            }
            best = best.min(start.elapsed());
        }
        Ok(best)
    }
}

/// Kernels enough to take as long as the copies do.
fn balanced(work: &mut Work<'_>, copies: Duration) -> Outcome<usize> {
    // The first ones compile what they need.
    work.best(false, 2)?;
    let one = work.best(false, 8)?.as_secs_f64() / 8.0;
    Ok(((copies.as_secs_f64() / one).ceil() as usize).clamp(1, 100_000))
}

pub(crate) fn measure(device: &dyn Kernels) -> Outcome<(Value, bool)> {
    let (near, far) = (Budget::new(Tier::Host, 1 << 30), Budget::new(Tier::Device, 1 << 30));
    let [rows, inputs, outputs] = EXTENTS;
    let region = |elements: usize| -> Outcome<Region> {
        Ok(device.allocate(far.reserve(Lifetime::Pass, (elements * 2) as u64)?)?.into_region())
    };
    let mut staging = device.stage(near.reserve(Lifetime::Pass, PIECE)?)?;
    staging.host_mut().fill(1);
    let target = device.allocate(far.reserve(Lifetime::Pass, PIECE)?)?.into_region();
    let target = target.into_parts(&[])?.pop().ok_or("a region without parts")?;
    let bf16 = |extents: [usize; 2]| TensorMeta::new(DType::BF16, extents);
    let [x, weight, y] = [[rows, inputs], [outputs, inputs], [rows, outputs]].map(bf16);
    let room = device
        .scratch(&ops::Linear::new(View::absent(x?), View::absent(weight?), ViewMut::absent(y?)).into());
    let mut work = Work {
        device,
        staging,
        target,
        x: zeroed(device, region(rows * inputs)?)?,
        weight: zeroed(device, region(outputs * inputs)?)?,
        scratch: device.allocate(far.reserve(Lifetime::Pass, room)?)?.into_region(),
        y: region(rows * outputs)?,
    };
    let copies = work.best(true, 0)?;
    let count = balanced(&mut work, copies)?;
    let kernels = work.best(false, count)?;
    let both = work.best(true, count)?;
    let [copies, kernels, both] = [copies, kernels, both].map(|time| time.as_secs_f64());
    let hidden = (copies + kernels - both) / copies.min(kernels);
    let bytes = PIECE as f64 * PIECES as f64;
    eprintln!("copies {:.1} GB/s; {hidden:.2} of the shorter hidden behind the longer", bytes / copies / 1e9);
    let found = json!({
        "copies_seconds": copies, "kernels_seconds": kernels, "both_seconds": both, "products": count,
        "copy_bytes_per_second": bytes / copies,
        "product_operations_per_second": 2.0 * (rows * inputs * outputs * count) as f64 / kernels,
        "hidden_share_of_the_shorter": hidden,
    });
    // A device that says it copies beside kernels has to hide most of the shorter one.
    Ok((found, !device.info().topology.separate_copy_queue || hidden > 0.5))
}

/// Memory of zeros: whatever else it held might be slow to compute with.
fn zeroed(device: &dyn Kernels, region: Region) -> Outcome<Region> {
    let near = Budget::new(Tier::Host, 1 << 30);
    let bytes = region.bytes();
    let mut staging = device.stage(near.reserve(Lifetime::Pass, bytes)?)?;
    staging.host_mut().fill(0);
    let mut part = region.into_parts(&[])?.pop().ok_or("a region without parts")?;
    let ticket = device.upload(&staging, 0..bytes, &mut part, 0)?;
    device.order(Queue::Compute, ticket)?;
    device.wait(ticket)?;
    Ok(part.finish().ok_or("the region did not come back")?)
}
