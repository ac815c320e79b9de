//! Device memory for regions.

use vram_device::{Arena, Device, Reservation};

use crate::error::Error;

/// Alignment of activations in bytes: a cache line, and what BLAS libraries ask for.
pub(crate) const ALIGN: u64 = 256;

/// An arena over reserved bytes: one buffer, or several if the device limits the size of an allocation. A dry
/// run measures in the same segments.
pub(super) fn first_fit(device: &dyn Device, mut room: Reservation) -> Result<Arena, Error> {
    let most = device.info().max_allocation.max(1);
    let mut chunks = Vec::with_capacity(1);
    while room.bytes() > most {
        chunks.extend(room.split(most).map(|part| device.allocate(part)).transpose()?);
    }
    chunks.push(device.allocate(room)?);
    Ok(Arena::first_fit(chunks))
}
