//! The one queue: work is encoded as it is issued, and submitted in bundles in that order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::wgpu::{BindGroupEntry, BufferBinding, BufferUsages, CommandEncoder, SubmissionIndex};

use super::driver::{Driver, create_buffer};
use crate::DeviceError;

/// Operations that are encoded before they are submitted without being asked for: enough to make submitting
/// cheap, few enough for the device to begin while the host still encodes.
const BUNDLE: u64 = 32;

/// Bytes of parameters in a bundle.
const PARAMETER_BYTES: u64 = 256 << 10;

/// Alignment of the parameters of an operation, which every adapter supports.
const PARAMETER_ALIGN: usize = 256;

/// The issued work.
pub(super) struct Stream {
    // Invariants:
    // 1. The encoder holds the operations `submitted + 1 ..= issued`, in that order, and nothing is encoded
    //    or submitted elsewhere, so no operation ever overtakes another.
    // 2. `parameters` belong to the same operations. They are written before them in the queue's own order,
    //    which is after the operations of the previous submission have read theirs.
    encoder: Option<CommandEncoder>,
    parameters: Vec<u8>,
    buffer: ::wgpu::Buffer,
    issued: u64,
    submitted: u64,
    /// Submissions not known to be done: the last operation of each.
    in_flight: VecDeque<(u64, SubmissionIndex)>,
}

/// The binding of an operand: whole words from an aligned offset on.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) buffer: &'a ::wgpu::Buffer,
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// Where the operand begins in it, in bytes.
    pub(super) skip: u32,
}

/// One launch of a kernel.
pub(super) struct Dispatch<'a> {
    pub(super) pipeline: &'a ::wgpu::ComputePipeline,
    /// The layout of its bindings: parameters first, then the windows.
    pub(super) layout: &'a ::wgpu::BindGroupLayout,
    /// Its windows, by binding.
    pub(super) windows: &'a [Window<'a>],
    pub(super) parameters: &'a [u32],
    pub(super) groups: [u32; 3],
}

impl Stream {
    pub(super) fn new(device: &::wgpu::Device) -> Result<Stream, DeviceError> {
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        Ok(Stream {
            encoder: None,
            parameters: Vec::with_capacity(PARAMETER_BYTES as usize),
            buffer: create_buffer(device, "vram parameters", PARAMETER_BYTES, usage)?,
            issued: 0,
            submitted: 0,
            in_flight: VecDeque::new(),
        })
    }

    /// The last operation.
    pub(super) fn last(&self) -> u64 {
        self.issued
    }

    /// The encoder for the next operation; [`issued`](Stream::issued) must follow.
    pub(super) fn encoder(&mut self, device: &::wgpu::Device) -> &mut CommandEncoder {
        self.encoder.get_or_insert_with(|| device.create_command_encoder(&Default::default()))
    }

    /// Counts the encoded work as an operation.
    pub(super) fn issued(&mut self, driver: &Driver) -> Result<u64, DeviceError> {
        self.issued += 1;
        if self.issued - self.submitted >= BUNDLE {
            self.submit(driver)?;
        }
        Ok(self.issued)
    }

    /// Encodes a kernel.
    pub(super) fn dispatch(
        &mut self,
        driver: &Driver,
        Dispatch { pipeline, layout, windows, parameters, groups }: Dispatch<'_>,
    ) -> Result<u64, DeviceError> {
        if groups.contains(&0) {
            return Ok(self.issued);
        }
        let size = (parameters.len() * 4).next_multiple_of(PARAMETER_ALIGN);
        if self.parameters.len() + size > PARAMETER_BYTES as usize {
            self.submit(driver)?;
        }
        let at = self.parameters.len();
        self.parameters.extend(parameters.iter().flat_map(|word| word.to_le_bytes()));
        self.parameters.resize(at + size, 0);
        let group = bind(&driver.device, layout, (&self.buffer, at as u64, size as u64), windows);
        let mut pass = self.encoder(&driver.device).begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &group, &[]);
        let [x, y, z] = groups;
        pass.dispatch_workgroups(x, y, z);
        drop(pass);
        self.issued(driver)
    }

    /// Submits everything that has been encoded.
    pub(super) fn submit(&mut self, driver: &Driver) -> Result<(), DeviceError> {
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        if !self.parameters.is_empty() {
            driver.queue.write_buffer(&self.buffer, 0, &self.parameters);
            self.parameters.clear();
        }
        let index = driver.queue.submit([encoder.finish()]);
        self.submitted = self.issued;
        let (done, through) = (Arc::clone(&driver.done), self.issued);
        driver.queue.on_submitted_work_done(move || {
            done.fetch_max(through, Ordering::AcqRel);
        });
        self.in_flight.push_back((through, index));
        let done = driver.done.load(Ordering::Acquire);
        while self.in_flight.front().is_some_and(|(through, _)| *through <= done) {
            self.in_flight.pop_front();
        }
        driver.alive()
    }

    /// Submits what is necessary for an operation to be done, and returns its submission; `None` if it is
    /// done.
    pub(super) fn submit_until(
        &mut self,
        driver: &Driver,
        value: u64,
    ) -> Result<Option<(u64, SubmissionIndex)>, DeviceError> {
        if value > self.submitted {
            self.submit(driver)?;
        }
        Ok(self.in_flight.iter().find(|(through, _)| *through >= value).cloned())
    }
}

fn bind(
    device: &::wgpu::Device,
    layout: &::wgpu::BindGroupLayout,
    (parameters, at, size): (&::wgpu::Buffer, u64, u64),
    windows: &[Window<'_>],
) -> ::wgpu::BindGroup {
    let binding = |buffer, offset, size| {
        ::wgpu::BindingResource::Buffer(BufferBinding {
            buffer,
            offset,
            size: std::num::NonZeroU64::new(size),
        })
    };
    let windows = windows.iter().map(|w| binding(w.buffer, w.at, w.bytes));
    let entries: smallvec::SmallVec<[BindGroupEntry<'_>; 5]> = std::iter::once(binding(parameters, at, size))
        .chain(windows)
        .zip(0..)
        .map(|(resource, binding)| BindGroupEntry { binding, resource })
        .collect();
    device.create_bind_group(&::wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}
