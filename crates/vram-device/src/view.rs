//! Typed views of device memory: what kernels read and write.

use std::fmt;

use vram_types::{DType, Shape, TensorMeta};

use crate::{DeviceError, Region};

/// A tensor to read: bytes in a [`Region`] (or in host memory, for host-visible devices) with a dtype and shape.
/// The bytes may be unaligned.
#[derive(Clone)]
pub struct View<'a> {
    place: Place<'a>,
    meta: TensorMeta,
}

#[derive(Clone, Copy)]
enum Place<'a> {
    Region { region: &'a Region, at: u64 },
    Host(&'a [u8]),
}

impl<'a> View<'a> {
    /// A tensor that begins at byte `at` of a region.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] if it does not fit the region.
    pub fn new(region: &'a Region, at: u64, meta: TensorMeta) -> Result<View<'a>, DeviceError> {
        check_range(region, at, meta.bytes())?;
        Ok(View { place: Place::Region { region, at }, meta })
    }

    /// A tensor in host memory, for kernels of host-visible devices. Others refuse it.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] if the slice has not exactly the tensor's length.
    pub fn host(bytes: &'a [u8], meta: TensorMeta) -> Result<View<'a>, DeviceError> {
        if bytes.len() as u64 != meta.bytes() {
            return Err(DeviceError::OutOfRange {
                what: "a view of host memory",
                offset: 0,
                bytes: meta.bytes(),
                available: bytes.len() as u64,
            });
        }
        Ok(View { place: Place::Host(bytes), meta })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.meta.dtype()
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        self.meta.shape()
    }

    /// Dtype, shape and size.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// The region and the offset in it, `None` for host memory.
    pub fn region(&self) -> Option<(&'a Region, u64)> {
        match self.place {
            Place::Region { region, at } => Some((region, at)),
            Place::Host(_) => None,
        }
    }

    /// The bytes, where the host sees them.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self.place {
            Place::Host(bytes) => Some(bytes),
            // Fits: checked when the view was made.
            Place::Region { region, at } => {
                region.host()?.get(at as usize..(at + self.meta.bytes()) as usize)
            }
        }
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({} {})", self.meta.dtype(), self.meta.shape())
    }
}

/// A tensor to write: all of a range in a [`Region`].
pub struct ViewMut<'a> {
    region: &'a mut Region,
    at: u64,
    meta: TensorMeta,
}

impl<'a> ViewMut<'a> {
    /// A tensor that begins at byte `at` of a region.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] if it does not fit the region.
    pub fn new(region: &'a mut Region, at: u64, meta: TensorMeta) -> Result<ViewMut<'a>, DeviceError> {
        check_range(region, at, meta.bytes())?;
        Ok(ViewMut { region, at, meta })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.meta.dtype()
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        self.meta.shape()
    }

    /// Dtype, shape and size.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// The region and the offset in it.
    pub fn region(&mut self) -> (&mut Region, u64) {
        (self.region, self.at)
    }

    /// The bytes, where the host sees them.
    pub fn bytes(&mut self) -> Option<&mut [u8]> {
        let range = self.at as usize..(self.at + self.meta.bytes()) as usize;
        self.region.host_mut()?.get_mut(range)
    }
}

impl fmt::Debug for ViewMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ViewMut({} {})", self.meta.dtype(), self.meta.shape())
    }
}

fn check_range(region: &Region, at: u64, bytes: u64) -> Result<(), DeviceError> {
    match at.checked_add(bytes) {
        Some(end) if end <= region.bytes() => Ok(()),
        _ => Err(DeviceError::OutOfRange {
            what: "a view of a region",
            offset: at,
            bytes,
            available: region.bytes(),
        }),
    }
}
