//! Device memory that the host does not see, and staging that it does.

use std::any::Any;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::race::Access;
use crate::{Buffer, RawBuffer};

/// Contents of unwritten and freed memory: NaN in f32, bf16, f16 and both f8.
pub(super) const POISON: u8 = 0xff;

/// Bytes and buffers that callers hold on a simulated device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimUsage {
    /// Buffers of device memory.
    pub buffers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Buffers of staging.
    pub staging_buffers: u64,
    /// Their bytes.
    pub staging_bytes: u64,
}

impl SimUsage {
    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        *self == SimUsage::default()
    }
}

/// Counts bytes. Its lock is always the last one taken, so that memory can be dropped anywhere.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    held: SimUsage,
    /// Device memory taken: held, or still in use by operations after which it is freed.
    taken: u64,
}

impl Ledger {
    pub(super) fn held(&self) -> SimUsage {
        self.books().held
    }

    pub(super) fn taken(&self) -> u64 {
        self.books().taken
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of one allocation. Operations share it with the buffer, so it outlives both.
pub(super) struct Memory {
    pub(super) id: u64,
    pub(super) bytes: u64,
    ledger: Arc<Ledger>,
    inside: Mutex<Inside>,
}

pub(super) struct Inside {
    pub(super) bytes: Vec<u8>,
    /// Operations that touched it, as long as an operation may still come that is not ordered after them.
    pub(super) accesses: Vec<Access>,
}

impl Memory {
    /// Poisoned memory, if the device has that much left.
    pub(super) fn new(id: u64, bytes: u64, ledger: &Arc<Ledger>, capacity: u64) -> Result<Memory, String> {
        let len = usize::try_from(bytes).map_err(|e| e.to_string())?;
        {
            let mut books = ledger.books();
            let free = capacity.saturating_sub(books.taken);
            if bytes > free {
                return Err(format!("{free} bytes of {capacity} are free"));
            }
            books.taken += bytes;
        }
        let mut memory = Memory {
            id,
            bytes,
            ledger: Arc::clone(ledger),
            inside: Mutex::new(Inside { bytes: Vec::new(), accesses: Vec::new() }),
        };
        let inside = memory.inside.get_mut().unwrap_or_else(PoisonError::into_inner);
        inside.bytes.try_reserve_exact(len).map_err(|e| e.to_string())?;
        inside.bytes.resize(len, POISON);
        Ok(memory)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.ledger.books().taken -= self.bytes;
    }
}

/// Some bytes of an allocation.
#[derive(Clone)]
pub(super) struct Span {
    pub(super) memory: Arc<Memory>,
    pub(super) range: Range<u64>,
}

impl Span {
    pub(super) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub(super) fn read(&self) -> Vec<u8> {
        self.memory.lock().bytes[self.indices()].to_vec()
    }

    pub(super) fn write(&self, bytes: &[u8]) {
        self.memory.lock().bytes[self.indices()].copy_from_slice(bytes);
    }

    // Fits: the memory was allocated, and the range is checked where spans are made.
    fn indices(&self) -> Range<usize> {
        self.range.start as usize..self.range.end as usize
    }
}

/// The caller's side of device memory.
pub(super) struct SimBuffer {
    pub(super) device: u64,
    pub(super) memory: Arc<Memory>,
}

impl SimBuffer {
    pub(super) fn new(device: u64, memory: Memory) -> SimBuffer {
        let mut books = memory.ledger.books();
        books.held.buffers += 1;
        books.held.bytes += memory.bytes;
        drop(books);
        SimBuffer { device, memory: Arc::new(memory) }
    }
}

impl Drop for SimBuffer {
    fn drop(&mut self) {
        let mut books = self.memory.ledger.books();
        books.held.buffers -= 1;
        books.held.bytes -= self.memory.bytes;
    }
}

// SAFETY: the host does not see it, so there is no pointer that would need a promise.
unsafe impl RawBuffer for SimBuffer {
    fn bytes(&self) -> u64 {
        self.memory.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Staging: pages of the inner CPU, with an id by which uploads recognise them.
pub(super) struct SimStaging {
    pub(super) device: u64,
    pub(super) id: u64,
    pages: Buffer,
    ledger: Arc<Ledger>,
}

impl SimStaging {
    pub(super) fn new(device: u64, id: u64, pages: Buffer, ledger: &Arc<Ledger>) -> SimStaging {
        let mut books = ledger.books();
        books.held.staging_buffers += 1;
        books.held.staging_bytes += pages.bytes();
        drop(books);
        SimStaging { device, id, pages, ledger: Arc::clone(ledger) }
    }
}

impl Drop for SimStaging {
    fn drop(&mut self) {
        let mut books = self.ledger.books();
        books.held.staging_buffers -= 1;
        books.held.staging_bytes -= self.pages.bytes();
    }
}

// SAFETY: the pointer is that of the pages, which keep the same promise, live as long as `self`, and are not
// turned into any other region; nothing here reads or writes through it.
unsafe impl RawBuffer for SimStaging {
    fn bytes(&self) -> u64 {
        self.pages.bytes()
    }

    fn host(&self) -> Option<NonNull<u8>> {
        self.pages.raw().host()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
