//! Copies to the device and back, to the byte.
//!
//! Adapters copy whole words. Where the two places of a copy lie alike within a word, all but its ends is copied by the
//! adapter; the ends, and copies whose places lie differently, go through a scratch buffer and a kernel that writes bytes.

use std::ops::Range;
use std::sync::PoisonError;

use ::wgpu::{BufferUsages, PollType};

use super::context::{Context, create_buffer};
use super::memory::{MappedBuffer, Readback};
use super::operand::{Operand, Window};
use super::pipeline::{Key, Pipeline};
use super::queue::{Dispatch, Stream};
use crate::{DeviceError, Part, Queue, Region, Staging};

/// Bytes that go through the scratch at a time.
const SCRATCH: u64 = 64 << 10;

/// Words that a group of the kernel writes.
const GROUP: u64 = 64;

/// Where words are shifted to their place. One is enough for all copies, which are performed one after the other.
pub(super) struct Patch(::wgpu::Buffer);

impl Patch {
    pub(super) fn new(device: &::wgpu::Device) -> Result<Patch, DeviceError> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        Ok(Patch(create_buffer(device, "vram copies", SCRATCH + 16, usage)?))
    }
}

/// Copies `src[range]` to byte `at` of a part, and says which operation the last of it is.
pub(super) fn upload(
    context: &Context,
    src: &Staging,
    range: Range<u64>,
    dst: &Part,
    at: u64,
) -> Result<u64, DeviceError> {
    let bytes = range.end.saturating_sub(range.start);
    let staging = src.region().buffer().and_then(|b| b.raw().as_any().downcast_ref::<MappedBuffer>());
    let staging = staging.filter(|s| s.is_of(context));
    let available = staging.map_or(0, |_| src.bytes());
    let Some(staging) = staging.filter(|_| range.start <= range.end && range.end <= available) else {
        let what = "the source of an upload";
        return Err(DeviceError::OutOfRange { what, offset: range.start, bytes, available });
    };
    let to = target(context, dst, at, bytes)?;
    if bytes == 0 {
        return Ok(context.stream()?.last());
    }
    let pipeline = context.pipelines.get(&context.device, Key::BYTES)?;
    let last = staging.copy_from(|buffer| {
        let mut stream = context.stream()?;
        let mut copy = Transfer { context, stream: &mut stream, pipeline: &pipeline, from: buffer, to };
        copy.all(range.start, bytes)?;
        // The copy is on its way from now on, and all that was issued before it.
        stream.submit(context)?;
        Ok(stream.last())
    })?;
    context.poll(PollType::Poll)?;
    Ok(last)
}

fn target<'a>(context: &Context, dst: &'a Part, at: u64, bytes: u64) -> Result<Operand<'a>, DeviceError> {
    let (region, part) = (dst.region(), dst.range());
    let own = context.own(region);
    let available = own.map_or(0, |_| part.end - part.start);
    let fits = at.checked_add(bytes).is_some_and(|end| end <= available);
    match own.filter(|_| fits) {
        Some(raw) => Ok(Operand {
            buffer: &raw.buffer,
            at: region.offset() + part.start + at,
            bytes,
            dtype: vram_types::DType::U8,
        }),
        None => {
            Err(DeviceError::OutOfRange { what: "the target of an upload", offset: at, bytes, available })
        }
    }
}

/// A copy that is being encoded.
struct Transfer<'a> {
    context: &'a Context,
    stream: &'a mut Stream,
    pipeline: &'a Pipeline,
    from: &'a ::wgpu::Buffer,
    to: Operand<'a>,
}

impl Transfer<'_> {
    fn all(&mut self, from: u64, bytes: u64) -> Result<(), DeviceError> {
        if from % 4 != self.to.at % 4 {
            return self.bytes(from, 0, bytes);
        }
        let head = (self.to.at.next_multiple_of(4) - self.to.at).min(bytes);
        let words = (bytes - head) / 4 * 4;
        self.bytes(from, 0, head)?;
        if words > 0 {
            let (context, to) = (self.context, self.to.at + head);
            let encoder = self.stream.encoder(&context.device);
            encoder.copy_buffer_to_buffer(self.from, from + head, self.to.buffer, to, words);
            self.stream.issued(context)?;
        }
        let done = head + words;
        self.bytes(from + done, done, bytes - done)
    }

    /// Copies bytes from `from` on to byte `at` of the target, through the scratch.
    fn bytes(&mut self, mut from: u64, mut at: u64, mut bytes: u64) -> Result<(), DeviceError> {
        let at_once = SCRATCH.min(self.context.rows_at_once("upload", 1)?);
        while bytes > 0 {
            let now = bytes.min(at_once);
            self.piece(from, at, now)?;
            (from, at, bytes) = (from + now, at + now, bytes - now);
        }
        Ok(())
    }

    fn piece(&mut self, from: u64, at: u64, bytes: u64) -> Result<(), DeviceError> {
        let Transfer { context, pipeline, .. } = *self;
        let scratch = &context.patch.0;
        let (first, end) = (from / 4 * 4, (from + bytes).next_multiple_of(4));
        let encoder = self.stream.encoder(&context.device);
        // Behind a word, so that the kernel never counts below zero.
        encoder.copy_buffer_to_buffer(self.from, first, scratch, 4, end - first);
        self.stream.issued(context)?;
        let to = context.window("upload", &self.to, at, bytes)?;
        let source = Window { buffer: scratch, at: 0, bytes: scratch.size(), skip: 0 };
        let parameters = [4 + (from % 4) as u32, to.skip, bytes as u32];
        let words = (u64::from(to.skip) % 4 + bytes).div_ceil(4);
        self.stream.dispatch(
            context,
            Dispatch {
                pipeline,
                windows: &[source, to],
                parameters: &parameters,
                groups: [words.div_ceil(GROUP) as u32, 1, 1],
            },
        )?;
        Ok(())
    }
}

/// Copies bytes from `at` on into host memory, after all that was issued.
pub(super) fn download(context: &Context, src: &Region, at: u64, dst: &mut [u8]) -> Result<(), DeviceError> {
    let bytes = dst.len() as u64;
    let own = context.own(src);
    let available = own.map_or(0, |_| src.bytes());
    let fits = at.checked_add(bytes).is_some_and(|end| end <= available);
    let Some(raw) = own.filter(|_| fits) else {
        let what = "the source of a download";
        return Err(DeviceError::OutOfRange { what, offset: at, bytes, available });
    };
    let mut kept = context.readback.lock().unwrap_or_else(PoisonError::into_inner);
    let mut from = src.offset() + at;
    // A word less, for pieces that begin within one.
    for piece in dst.chunks_mut(Readback::BYTES as usize - 4) {
        let readback = match kept.take() {
            Some(readback) => readback,
            None => Readback::new(&context.device)?,
        };
        let (first, end) = (from / 4 * 4, (from + piece.len() as u64).next_multiple_of(4));
        let mut stream = context.stream()?;
        let encoder = stream.encoder(&context.device);
        encoder.copy_buffer_to_buffer(&raw.buffer, first, &readback.0, 0, end - first);
        let last = stream.issued(context)?;
        drop(stream);
        context.wait(context.name(Queue::Compute, last))?;
        readback.read(context, (from - first) as usize, piece)?;
        // Kept only if nothing went wrong: it might be mapped.
        *kept = Some(readback);
        from += piece.len() as u64;
    }
    context.alive()
}
