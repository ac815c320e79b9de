//! A whole checkpoint in device memory, in one call.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use vram_device::{
    Budget, BudgetExceeded, Device, DeviceError, Lifetime, Queue, Region, Staging, Ticket, Tier, View,
};
use vram_diskmap::DiskMap;
use vram_types::{ByteSize, DType, SourceError, TensorMeta, WeightSource, WeightSourceExt};

/// Threads that read into memory that the device shares with the host.
const READERS: usize = 4;
/// Pieces in which tensors go through staging; a whole number of elements of every dtype.
const PIECE_BYTES: u64 = (4 << 20) / 24 * 24;
/// Pieces on their way at once: one is filled while another is copied.
const PIECES: usize = 2;

/// Loads every tensor of a checkpoint (a safetensors file, an index, a folder) into device memory, floating-point
/// tensors converted to `dtype` if one is given.
///
/// Bytes are read straight into the device's memory where the host sees it, else through 8 MiB of staging. The budget
/// is charged with [`DeviceMap::bytes`] bytes as [`Lifetime::Weights`], before the first byte of a tensor is read.
///
/// # Errors
/// [`Error::BudgetTooSmall`] if the tensors do not fit what is left of the budget; [`Error::Source`] for what cannot be
/// opened, read or converted; [`Error::Device`]. Nothing stays charged then.
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

/// Tensors in device memory, by name. Dropping it frees them and gives their bytes back to the budget.
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
    /// Loads every tensor of a source; [`load_to_device`] for sources of one's own.
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
            // Never `None`: the parts are what the whole was added up from.
            let Some(own) = room.split(meta.bytes()) else { break };
            let region = device.allocate(own)?.into_region();
            tensors.push(Loaded { name, meta, region });
        }
        let tensors = if device.info().topology.host_visible {
            read_in_place(source, tensors)?
        } else {
            read_staged(source, device, tensors)?
        };
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(DeviceMap { tensors, by_name, bytes })
    }

    /// A tensor for kernels to read; `None` if there is none of that name.
    pub fn get(&self, name: &str) -> Option<View<'_>> {
        let loaded = &self.tensors[*self.by_name.get(name)?];
        // Never an error: the region has the tensor's own length.
        View::new(&loaded.region, 0, loaded.meta.clone()).ok()
    }

    /// Names of all tensors, in storage order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + '_ {
        self.tensors.iter().map(|t| t.name.as_str())
    }

    /// Bytes that all tensors take on the device: what the budget was charged with.
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
                None => Err(lost("memory that the host should see is out of its sight")),
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
            // A source of somebody else's may panic; that is for its own thread to answer for, as elsewhere.
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(tensors)
}

/// Two pieces of staging by turns: one is filled from the source while the other is copied.
fn read_staged(
    source: &dyn WeightSource,
    device: &dyn Device,
    tensors: Vec<Loaded>,
) -> Result<Vec<Loaded>, Error> {
    let largest = tensors.iter().map(|t| t.meta.bytes()).max().unwrap_or(0);
    let host = Budget::new(Tier::Host, PIECES as u64 * PIECE_BYTES);
    let mut ring: Vec<(Staging, Option<Ticket>)> = Vec::with_capacity(PIECES);
    for _ in 0..PIECES {
        let room = host.reserve(Lifetime::Weights, largest.min(PIECE_BYTES)).map_err(DeviceError::from)?;
        ring.push((device.stage(room)?, None));
    }
    let copied = copy_staged(source, device, tensors, &mut ring);
    // Also after an error: staging must outlive the copies that read it.
    for (_, ticket) in &ring {
        if let Some(ticket) = *ticket {
            device.wait(ticket)?;
        }
    }
    copied
}

fn copy_staged(
    source: &dyn WeightSource,
    device: &dyn Device,
    tensors: Vec<Loaded>,
    ring: &mut [(Staging, Option<Ticket>)],
) -> Result<Vec<Loaded>, Error> {
    let mut turn = 0;
    let mut last = None;
    let mut done = Vec::with_capacity(tensors.len());
    for Loaded { name, meta, region } in tensors {
        let mut part = region.into_parts(&[])?.pop().ok_or_else(|| lost("a region without parts"))?;
        let mut at = 0;
        while at < meta.bytes() {
            let bytes = PIECE_BYTES.min(meta.bytes() - at);
            let (staging, ticket) = &mut ring[turn];
            if let Some(ticket) = ticket.take() {
                device.wait(ticket)?;
            }
            let to = staging.host_mut();
            let to = to.get_mut(..bytes as usize).ok_or_else(|| lost("staging that is too short"))?;
            source.read_range(&name, at..at + bytes, to)?;
            *ticket = Some(device.upload(staging, 0..bytes, &mut part, at)?);
            last = *ticket;
            turn = (turn + 1) % PIECES;
            at += bytes;
        }
        let region = part.finish().ok_or_else(|| lost("a region that is still in parts"))?;
        done.push(Loaded { name, meta, region });
    }
    // Tickets of one queue are in order: kernels issued from now on see every tensor.
    if let Some(last) = last {
        device.order(Queue::Compute, last)?;
    }
    Ok(done)
}

/// A device that does not do what its own description says.
fn lost(reason: &str) -> Error {
    Error::Device(DeviceError::Unavailable { what: "loading".to_owned(), reason: reason.to_owned() })
}

/// Why a checkpoint could not be loaded to a device.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The tensors do not fit what is left of the budget.
    BudgetTooSmall {
        /// Bytes of all tensors.
        needed: u64,
        /// The budget and what holds bytes of it.
        source: BudgetExceeded,
    },
    /// The checkpoint cannot be opened, read or converted.
    Source(SourceError),
    /// The device refused or failed.
    Device(DeviceError),
}

impl Error {
    /// Whether a larger budget, or more memory, may help.
    pub fn is_oom(&self) -> bool {
        match self {
            Error::BudgetTooSmall { .. } => true,
            Error::Source(_) => false,
            Error::Device(e) => e.is_oom(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BudgetTooSmall { needed, source } => write!(
                f,
                "all tensors need {needed} bytes ({}); {} of the budget's {} bytes are left",
                ByteSize(*needed),
                source.limit.saturating_sub(source.used.total()),
                source.limit
            ),
            Error::Source(e) => e.fmt(f),
            Error::Device(e) => e.fmt(f),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            Error::BudgetTooSmall { source, .. } => source,
            Error::Source(e) => e,
            Error::Device(e) => e,
        })
    }
}

impl From<SourceError> for Error {
    fn from(e: SourceError) -> Error {
        Error::Source(e)
    }
}

impl From<DeviceError> for Error {
    fn from(e: DeviceError) -> Error {
        Error::Device(e)
    }
}
