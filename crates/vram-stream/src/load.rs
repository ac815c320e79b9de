//! Loads a whole checkpoint into device memory with one call.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use vram_device::{Budget, Device, DeviceError, Lifetime, Memory, Queue, Region, Stage, Tier, View};
use vram_diskmap::DiskMap;
use vram_types::{DType, TensorMeta, WeightSource, WeightSourceExt};

use crate::Error;

/// Reader threads, if the host can write to the device's memory.
const READERS: usize = 4;
/// Size of the pieces that go through staging; a whole number of elements of every dtype.
const PIECE_BYTES: u64 = (4 << 20) / 24 * 24;
/// Number of staging buffers: one is filled while another is copied.
const PIECES: usize = 2;

/// Loads every tensor of a checkpoint (a safetensors file, an index, a folder) into device memory.
/// Floating-point tensors are converted to `dtype`, if given.
///
/// If the host can write to the device's memory, tensors are read straight into it; otherwise they
/// go through 8 MiB of staging. [`DeviceMap::bytes`] bytes are charged to the budget as
/// [`Lifetime::Weights`] before any tensor is read.
///
/// # Errors
/// [`Error::BudgetTooSmall`] if the tensors do not fit the rest of the budget; [`Error::Source`]
/// if the checkpoint cannot be opened, read or converted; [`Error::Device`]. On error nothing
/// stays charged.
pub fn load_to_device(
    path: impl AsRef<Path>,
    device: &dyn Device,
    dtype: Option<DType>,
    budget: &Budget,
) -> Result<DeviceMap, Error> {
    let mut options = DiskMap::options();
    if let Some(dtype) = dtype {
        options = options.dtype(dtype);
    }
    DeviceMap::load(&options.open(path)?, device, budget)
}

/// Tensors in device memory, by name. Dropping it frees them and returns their bytes to the
/// budget.
pub struct DeviceMap {
    tensors: Vec<Loaded>,
    by_name: HashMap<String, usize>,
    bytes: u64,
}

struct Loaded {
    name: String,
    meta: TensorMeta,
    region: Region,
}

impl DeviceMap {
    /// Like [`load_to_device`], for any source.
    ///
    /// # Errors
    /// As [`load_to_device`].
    pub fn load(source: &dyn WeightSource, device: &dyn Device, budget: &Budget) -> Result<DeviceMap, Error> {
        let mut metas = Vec::new();
        let mut bytes = 0u64;
        for name in source.names() {
            let meta = source.require(name)?.meta;
            bytes = bytes.saturating_add(meta.bytes());
            metas.push((name.to_owned(), meta));
        }
        let mut room = budget
            .reserve(Lifetime::Weights, bytes)
            .map_err(|source| Error::BudgetTooSmall { needed: bytes, source })?;
        let mut tensors = Vec::with_capacity(metas.len());
        for (name, meta) in metas {
            // Never `None`: the whole is the sum of these parts.
            let Some(own) = room.split(meta.bytes()) else { break };
            let region = device.allocate(own)?.into_region();
            tensors.push(Loaded { name, meta, region });
        }
        let tensors = if device.info().topology.memory == Memory::Shared {
            read_in_place(source, tensors)?
        } else {
            read_staged(source, device, tensors)?
        };
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(DeviceMap { tensors, by_name, bytes })
    }

    /// A tensor for kernels to read; `None` if there is no tensor of this name.
    pub fn get(&self, name: &str) -> Option<View<'_>> {
        let loaded = &self.tensors[*self.by_name.get(name)?];
        // Never an error: the region has exactly the length of the tensor.
        View::new(&loaded.region, 0, loaded.meta.clone()).ok()
    }

    /// Names of all tensors, in storage order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + '_ {
        self.tensors.iter().map(|t| t.name.as_str())
    }

    /// Size of all tensors on the device, as charged to the budget.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for DeviceMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMap").field("tensors", &self.tensors.len()).field("bytes", &self.bytes).finish()
    }
}

fn read_in_place(source: &dyn WeightSource, mut tensors: Vec<Loaded>) -> Result<Vec<Loaded>, Error> {
    let work = Mutex::new(tensors.iter_mut());
    // A reader that fails empties the queue, so that the others stop.
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let read = || -> Result<(), Error> {
        while let Some(Loaded { name, meta, region }) = next() {
            let done = match region.host_mut() {
                Some(to) => source.read_range(name, 0..meta.bytes(), to).map_err(Error::from),
                None => Err(lost("host-visible memory has no host address")),
            };
            if done.is_err() {
                while next().is_some() {}
                return done;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        readers.into_iter().try_for_each(|reader| match reader.join() {
            Ok(done) => done,
            // A custom source may panic; propagate that panic to its own thread, as elsewhere.
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(tensors)
}

/// Two staging buffers in turn: one is filled from the source while the other is copied.
fn read_staged(
    source: &dyn WeightSource,
    device: &dyn Device,
    tensors: Vec<Loaded>,
) -> Result<Vec<Loaded>, Error> {
    let largest = tensors.iter().map(|t| t.meta.bytes()).max().unwrap_or(0);
    let host = Budget::new(Tier::Host, PIECES as u64 * PIECE_BYTES);
    let mut ring = Vec::with_capacity(PIECES);
    for _ in 0..PIECES {
        let room = host.reserve(Lifetime::Weights, largest.min(PIECE_BYTES)).map_err(DeviceError::from)?;
        ring.push(Stage::new(device.stage(room)?));
    }
    let copied = copy_staged(source, device, tensors, &mut ring);
    // Wait after errors too: staging must outlive the copies that read it.
    for stage in &mut ring {
        stage.settle(device)?;
    }
    copied
}

fn copy_staged(
    source: &dyn WeightSource,
    device: &dyn Device,
    tensors: Vec<Loaded>,
    ring: &mut [Stage],
) -> Result<Vec<Loaded>, Error> {
    let mut turn = 0;
    let mut last = None;
    let mut done = Vec::with_capacity(tensors.len());
    for Loaded { name, meta, region } in tensors {
        let mut part = region.into_parts(&[])?.pop().ok_or_else(|| lost("a region without parts"))?;
        let mut at = 0;
        while at < meta.bytes() {
            let bytes = PIECE_BYTES.min(meta.bytes() - at);
            let read = |to: &mut [u8]| -> Result<(), Error> {
                let to = to.get_mut(..bytes as usize).ok_or_else(|| lost("staging that is too short"))?;
                Ok(source.read_range(&name, at..at + bytes, to)?)
            };
            last = Some(ring[turn].upload(device, 0..bytes, (&mut part, at), read)?);
            turn = (turn + 1) % PIECES;
            at += bytes;
        }
        let region = part.finish().ok_or_else(|| lost("a region that is still in parts"))?;
        done.push(Loaded { name, meta, region });
    }
    // Tickets of one queue are ordered: kernels issued from now on see every tensor.
    if let Some(last) = last {
        device.order(Queue::Compute, last)?;
    }
    Ok(done)
}

/// The error for a device that does not behave as it describes itself.
fn lost(reason: &str) -> Error {
    Error::Device(DeviceError::Unavailable { what: "loading".to_owned(), reason: reason.to_owned() })
}
