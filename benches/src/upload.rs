//! How fast bytes get to an adapter, compared with wgpu's own functions and with memory copies;
//! and how much host memory that takes while kernels are queued.

use anyhow::{Context, Result};
use vram_device::wgpu::api::{BufferDescriptor, BufferUsages, PollType};
use vram_device::wgpu::{Wgpu, WgpuOptions};
use vram_device::{
    Budget, Device, KernelsExt, Lifetime, Part, Queue, Region, Staging, Ticket, Tier, ViewMut, ops,
};
use vram_types::{DType, TensorMeta};

use crate::Options;
use crate::harness::{Subject, measure};

/// Size of a staging piece, as in the engine.
const PIECE: usize = 2 << 20;
/// Number of staging pieces, one per reader.
const PIECES: usize = 4;
/// How many times each subject runs in a round, because one run takes less than a tenth of a
/// second.
const TIMES: u32 = 4;
/// How many kernels are queued, and how many bytes each works on.
const KERNELS: usize = 16;
const WORK: u64 = 16 << 20;

pub(crate) fn run(options: &Options) -> Result<()> {
    let wgpu = match Wgpu::new(WgpuOptions::default()) {
        Ok(wgpu) => wgpu,
        Err(reason) => {
            println!("\nupload\nskipped: {reason}");
            return Ok(());
        }
    };
    let bytes: usize = if options.quick { 64 << 20 } else { 256 << 20 };
    let source: Vec<u8> = (0..bytes).map(|i| (i / 4096 * 31) as u8).collect();
    let (mut first, mut second) = (vec![0; bytes], vec![0; bytes]);
    let mut ring = Ring::new(&wgpu, bytes as u64)?;
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
    let descriptor = BufferDescriptor { label: None, size: bytes as u64, usage, mapped_at_creation: false };
    let written = wgpu.device().create_buffer(&descriptor);
    let write = |piece: usize, each: &mut dyn FnMut()| -> Result<()> {
        for (i, bytes) in source.chunks(piece).enumerate() {
            wgpu.queue().write_buffer(&written, (i * piece) as u64, bytes);
            wgpu.queue().submit([]);
            each();
        }
        wgpu.device().poll(PollType::wait_indefinitely()).context("waiting for the device")?;
        Ok(())
    };
    let mut copies = || -> Result<()> {
        first.copy_from_slice(&source);
        second.copy_from_slice(std::hint::black_box(&first));
        std::hint::black_box(&second);
        Ok(())
    };
    let mut staged = || ring.upload(&wgpu, &source, &mut || {});
    let mut at_once = || write(bytes, &mut || {});
    let mut by_pieces = || write(PIECE, &mut || {});
    let subjects = vec![
        several("two memory copies", bytes, &mut copies),
        several("staging filled and uploaded", bytes, &mut staged),
        several("write_buffer at once", bytes, &mut at_once),
        several("write_buffer by 2 MiB", bytes, &mut by_pieces),
    ];
    let title = format!("{} MiB to {}", bytes >> 20, wgpu.info().name);
    let row = measure(options, "upload", &title, subjects, vec![])?;
    row.publish(options)?;
    println!("write_buffer, over staging: {} at once, {} by pieces", row.against(2, 1), row.against(3, 1));

    let Some(_) = wgpu.usage() else {
        println!("skipped: the graphics API does not report its memory use");
        return Ok(());
    };
    let mut work = Work::new(&wgpu)?;
    let staged = work.growth(&wgpu, |each| ring.upload(&wgpu, &source, each))?;
    let written = work.growth(&wgpu, |each| write(PIECE, each))?;
    let staging = PIECES * PIECE;
    println!(
        "with {KERNELS} kernels queued: {staged} more bytes with staging (beyond its own {staging}), \
         {written} with write_buffer"
    );
    Ok(())
}

/// A subject that runs several times in a row.
fn several<'a>(name: &str, bytes: usize, run: &'a mut dyn FnMut() -> Result<()>) -> Subject<'a> {
    Subject::each(name, bytes as u64, TIMES, move || (0..TIMES).try_for_each(|_| run()))
}

/// The kernels to queue.
struct Work(Region);

impl Work {
    fn new(wgpu: &Wgpu) -> Result<Work> {
        let device = Budget::new(Tier::Device, u64::MAX);
        Ok(Work(wgpu.allocate(device.reserve(Lifetime::Pass, WORK)?)?.into_region()))
    }

    /// By how many bytes the device's memory grows while `upload` runs behind queued kernels.
    /// `upload` calls its argument after each piece.
    fn growth(&mut self, wgpu: &Wgpu, upload: impl FnOnce(&mut dyn FnMut()) -> Result<()>) -> Result<u64> {
        wgpu.wait(wgpu.ticket(Queue::Compute)?)?;
        wgpu.device().poll(PollType::wait_indefinitely()).context("waiting for the device")?;
        let allocated = || wgpu.usage().map_or(0, |usage| usage.allocated);
        let before = allocated();
        let meta = TensorMeta::new(DType::F32, [WORK as usize / 4])?;
        for _ in 0..KERNELS {
            wgpu.call(ops::Unary::gelu(ViewMut::new(&mut self.0, 0, meta.clone())?), None)?;
        }
        // This submits them.
        wgpu.is_done(wgpu.ticket(Queue::Compute)?)?;
        let mut most = before;
        upload(&mut || most = most.max(allocated()))?;
        Ok(most - before)
    }
}

/// Uses the staging pieces in turn, as readers do.
struct Ring {
    staging: Vec<(Staging, Option<Ticket>)>,
    part: Part,
}

impl Ring {
    fn new(wgpu: &Wgpu, bytes: u64) -> Result<Ring> {
        let (host, device) = (Budget::new(Tier::Host, u64::MAX), Budget::new(Tier::Device, u64::MAX));
        let stage =
            || -> Result<_> { Ok((wgpu.stage(host.reserve(Lifetime::Weights, PIECE as u64)?)?, None)) };
        let region = wgpu.allocate(device.reserve(Lifetime::Weights, bytes)?)?.into_region();
        let part = region.into_parts(&[])?.pop().context("a region without parts")?;
        Ok(Ring { staging: (0..PIECES).map(|_| stage()).collect::<Result<_>>()?, part })
    }

    fn upload(&mut self, wgpu: &Wgpu, source: &[u8], each: &mut dyn FnMut()) -> Result<()> {
        for (i, piece) in source.chunks(PIECE).enumerate() {
            let (staging, ticket) = &mut self.staging[i % PIECES];
            if let Some(ticket) = ticket.take() {
                wgpu.wait(ticket)?;
            }
            staging.host_mut()[..piece.len()].copy_from_slice(piece);
            *ticket =
                Some(wgpu.upload(staging, 0..piece.len() as u64, &mut self.part, (i * PIECE) as u64)?);
            each();
        }
        for (_, ticket) in &mut self.staging {
            if let Some(ticket) = ticket.take() {
                wgpu.wait(ticket)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_runs() {
        let dir = tempfile::tempdir().unwrap();
        run(&Options { quick: true, rounds: None, out: dir.path().to_owned() }).unwrap();
    }
}
