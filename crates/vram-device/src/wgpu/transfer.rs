//! Copies to the device and back, to the byte.
//!
//! Adapters copy whole words. If the two places of a copy have the same offset within a word, the adapter
//! copies all but the ends. The ends, and copies with different offsets, go through a scratch buffer and a
//! kernel that writes bytes.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use ::wgpu::{BufferUsages, MapMode, PollType};
use vram_types::DType;

use super::context::Context;
use super::driver::{Driver, create_buffer, failed};
use super::launch::Launcher;
use super::memory::{MappedBuffer, own};
use super::operand::Operand;
use super::pipeline::{Key, Pipeline, Program, Writes};
use super::queue::{Dispatch, Stream, Window};
use crate::{DeviceError, Part, Queue, Region, Staging};

/// Bytes that go through the scratch at a time.
const SCRATCH: u64 = 64 << 10;

/// Words that a workgroup of the kernel writes.
const GROUP: u64 = 64;

/// Copies bytes of one buffer to any place in another.
static BYTES: Program = Program {
    name: "bytes",
    source: include_str!("shaders/bytes.wgsl"),
    writes: Writes::Itself { buffers: 2 },
};

/// What copies need besides source and target.
pub(super) struct Transfers {
    /// Where words are shifted into place. One is enough for all copies, because they run one after the
    /// other.
    patch: ::wgpu::Buffer,
    // Lock order: this comes before the stream's.
    readback: Mutex<Option<Readback>>,
}

impl Transfers {
    pub(super) fn new(driver: &Driver) -> Result<Transfers, DeviceError> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let patch = create_buffer(&driver.device, "vram copies", SCRATCH + 16, usage)?;
        Ok(Transfers { patch, readback: Mutex::new(None) })
    }

    /// Copies `src[range]` to byte `at` of a part, and returns the last operation of the copy.
    pub(super) fn upload(
        &self,
        launcher: &Launcher,
        src: &Staging,
        range: Range<u64>,
        dst: &Part,
        at: u64,
    ) -> Result<u64, DeviceError> {
        let context = &*launcher.context;
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
        let pipeline = launcher.pipeline(Key { act: DType::F32, ..Key::new(&BYTES, &[], DType::U8) })?;
        let last = staging.copy_from(|buffer| {
            let mut stream = context.stream()?;
            let (pipeline, patch) = (&*pipeline, &self.patch);
            let mut copy = Transfer { launcher, stream: &mut stream, pipeline, patch, from: buffer, to };
            copy.all(range.start, bytes)?;
            // Submits the copy, and everything issued before it.
            stream.submit(&context.driver)?;
            Ok(stream.last())
        })?;
        context.driver.poll(PollType::Poll)?;
        Ok(last)
    }

    /// Copies bytes from `at` on into host memory, after everything issued so far.
    pub(super) fn download(
        &self,
        context: &Context,
        src: &Region,
        at: u64,
        dst: &mut [u8],
    ) -> Result<(), DeviceError> {
        let bytes = dst.len() as u64;
        let own = own(context, src);
        let available = own.map_or(0, |_| src.bytes());
        let fits = at.checked_add(bytes).is_some_and(|end| end <= available);
        let Some(raw) = own.filter(|_| fits) else {
            let what = "the source of a download";
            return Err(DeviceError::OutOfRange { what, offset: at, bytes, available });
        };
        let mut kept = self.readback.lock().unwrap_or_else(PoisonError::into_inner);
        let mut from = src.offset() + at;
        // One word less, for pieces that begin within one.
        for piece in dst.chunks_mut(Readback::BYTES as usize - 4) {
            let readback = match kept.take() {
                Some(readback) => readback,
                None => Readback::new(&context.driver)?,
            };
            let (first, end) = (from / 4 * 4, (from + piece.len() as u64).next_multiple_of(4));
            let mut stream = context.stream()?;
            let encoder = stream.encoder(&context.driver.device);
            encoder.copy_buffer_to_buffer(&raw.buffer, first, &readback.0, 0, end - first);
            let last = stream.issued(&context.driver)?;
            drop(stream);
            context.wait(context.name(Queue::Compute, last))?;
            readback.read(&context.driver, (from - first) as usize, piece)?;
            // Kept only on success: otherwise it might be mapped.
            *kept = Some(readback);
            from += piece.len() as u64;
        }
        context.driver.alive()
    }
}

fn target<'a>(context: &Context, dst: &'a Part, at: u64, bytes: u64) -> Result<Operand<'a>, DeviceError> {
    let (region, part) = (dst.region(), dst.range());
    let own = own(context, region);
    let available = own.map_or(0, |_| part.end - part.start);
    let fits = at.checked_add(bytes).is_some_and(|end| end <= available);
    match own.filter(|_| fits) {
        Some(raw) => Ok(Operand {
            buffer: &raw.buffer,
            at: region.offset() + part.start + at,
            bytes,
            dtype: DType::U8,
        }),
        None => {
            Err(DeviceError::OutOfRange { what: "the target of an upload", offset: at, bytes, available })
        }
    }
}

/// A copy that is being encoded.
struct Transfer<'a> {
    launcher: &'a Launcher,
    stream: &'a mut Stream,
    pipeline: &'a Pipeline,
    patch: &'a ::wgpu::Buffer,
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
            let (context, to) = (&self.launcher.context, self.to.at + head);
            let encoder = self.stream.encoder(&context.driver.device);
            encoder.copy_buffer_to_buffer(self.from, from + head, self.to.buffer, to, words);
            self.stream.issued(&context.driver)?;
        }
        let done = head + words;
        self.bytes(from + done, done, bytes - done)
    }

    /// Copies bytes from `from` on to byte `at` of the target, through the scratch.
    fn bytes(&mut self, mut from: u64, mut at: u64, mut bytes: u64) -> Result<(), DeviceError> {
        let at_once = SCRATCH.min(self.launcher.rows_at_once("upload", 1)?);
        while bytes > 0 {
            let now = bytes.min(at_once);
            self.piece(from, at, now)?;
            (from, at, bytes) = (from + now, at + now, bytes - now);
        }
        Ok(())
    }

    fn piece(&mut self, from: u64, at: u64, bytes: u64) -> Result<(), DeviceError> {
        let Transfer { launcher, pipeline: Pipeline { pipeline, layout }, patch: scratch, .. } = *self;
        let context = &launcher.context;
        let (first, end) = (from / 4 * 4, (from + bytes).next_multiple_of(4));
        let encoder = self.stream.encoder(&context.driver.device);
        // After a leading word, so that the kernel never counts below zero.
        encoder.copy_buffer_to_buffer(self.from, first, scratch, 4, end - first);
        self.stream.issued(&context.driver)?;
        let to = launcher.window("upload", &self.to, at, bytes)?;
        let source = Window { buffer: scratch, at: 0, bytes: scratch.size(), skip: 0 };
        let parameters = [4 + (from % 4) as u32, to.skip, bytes as u32];
        let words = (u64::from(to.skip) % 4 + bytes).div_ceil(4);
        self.stream.dispatch(
            &context.driver,
            Dispatch {
                pipeline,
                layout,
                windows: &[source, to],
                parameters: &parameters,
                groups: [words.div_ceil(GROUP) as u32, 1, 1],
            },
        )?;
        Ok(())
    }
}

/// Memory that the adapter copies to and the host reads.
struct Readback(::wgpu::Buffer);

impl Readback {
    /// Bytes that are read back at a time.
    const BYTES: u64 = 4 << 20;

    fn new(driver: &Driver) -> Result<Readback, DeviceError> {
        let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        Ok(Readback(create_buffer(&driver.device, "vram read back", Readback::BYTES, usage)?))
    }

    /// Copies out what finished operations have brought here.
    fn read(&self, driver: &Driver, skip: usize, to: &mut [u8]) -> Result<(), DeviceError> {
        driver.map(&self.0, MapMode::Read)?;
        let view = self.0.get_mapped_range(..).map_err(|e| failed(e.to_string()))?;
        match view.get(skip..skip + to.len()) {
            Some(from) => to.copy_from_slice(from),
            None => return Err(failed("less was mapped than requested".into())),
        }
        drop(view);
        self.0.unmap();
        Ok(())
    }
}
