//! Typed views of device memory: what operations read and write.

use std::fmt;

use vram_types::encoding::{ScaleBlocks, ScaledRows};
use vram_types::{DType, Encoding, Shape, TensorMeta};

use crate::{DeviceError, Region};

/// A tensor for reading: a dtype and a shape over bytes in a [`Region`], or in host memory for host-visible
/// devices. The bytes may be unaligned.
///
/// The bytes of a weight may be [encoded](View::encoded), or numbers [with scales](View::scaled); dtype and
/// shape are then those after decoding. Operations that do not decode them refuse them.
///
/// An [absent](View::absent) view has no bytes. It stands for a tensor in a dry run.
#[derive(Clone)]
pub struct View<'a> {
    place: Place<'a>,
    meta: TensorMeta,
    encoding: Encoding,
    /// Stored size.
    bytes: u64,
    /// Present if and only if the encoding is [`Encoding::Scaled`].
    scales: Option<Box<(View<'a>, ScaledRows)>>,
}

#[derive(Clone, Copy)]
enum Place<'a> {
    Region { region: &'a Region, at: u64 },
    Host(&'a [u8]),
    Absent,
}

impl<'a> View<'a> {
    /// A tensor that begins at byte `at` of a region.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] if it does not fit the region.
    pub fn new(region: &'a Region, at: u64, meta: TensorMeta) -> Result<View<'a>, DeviceError> {
        View::plain(Place::Region { region, at }, meta).checked()
    }

    /// A tensor in host memory, for kernels of host-visible devices. Others refuse it.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] unless the slice has exactly the tensor's length.
    pub fn host(bytes: &'a [u8], meta: TensorMeta) -> Result<View<'a>, DeviceError> {
        View::plain(Place::Host(bytes), meta).checked()
    }

    /// A dtype and a shape without bytes. Operations over it can be checked and measured; every backend
    /// refuses to run them.
    pub fn absent(meta: TensorMeta) -> View<'a> {
        View::plain(Place::Absent, meta)
    }

    /// A tensor of this shape whose encoded bytes begin at byte `at` of a region.
    ///
    /// # Errors
    /// [`DeviceError::Type`] if the encoding does not support the shape, for example if rows are not whole
    /// blocks; [`DeviceError::OutOfRange`] if it does not fit the region.
    pub fn encoded(
        region: &'a Region,
        at: u64,
        shape: impl Into<Shape>,
        encoding: Encoding,
    ) -> Result<View<'a>, DeviceError> {
        View::with_encoding(Place::Region { region, at }, shape.into(), encoding)?.checked()
    }

    /// A tensor of this shape whose encoded bytes are in host memory, for kernels of host-visible devices.
    ///
    /// ```
    /// use vram_device::{KernelsExt, View, ViewMut, cpu::Cpu, ops};
    /// use vram_types::{BlockType, DType, Encoding, TensorMeta};
    ///
    /// // A block of 32 elements: the scale 0.5 as f16, and 4 bits for each element, where 8 stands for 0.
    /// let block = [&[0x00, 0x38][..], &[0x9a; 16]].concat();
    /// let x = View::encoded_host(&block, [1, 32], Encoding::Blocks(BlockType::Q4_0))?;
    /// assert_eq!((x.dtype(), x.stored_bytes(), x.meta().bytes()), (DType::F32, 18, 128));
    ///
    /// let mut y = [0; 128];
    /// let decoded = ViewMut::host(&mut y, TensorMeta::new(DType::F32, [1, 32])?)?;
    /// Cpu::new(Default::default())?.call(ops::Cast::new(x, decoded), None)?;
    /// assert_eq!((&y[..4], &y[64..68]), (&1f32.to_le_bytes()[..], &0.5f32.to_le_bytes()[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`encoded`](View::encoded); the slice must have exactly the length of the encoded tensor.
    pub fn encoded_host(
        bytes: &'a [u8],
        shape: impl Into<Shape>,
        encoding: Encoding,
    ) -> Result<View<'a>, DeviceError> {
        View::with_encoding(Place::Host(bytes), shape.into(), encoding)?.checked()
    }

    /// A shape and an encoding without bytes; see [`absent`](View::absent). A weight with scales gets one for
    /// the whole tensor.
    ///
    /// # Errors
    /// [`DeviceError::Type`] if the encoding does not support the shape.
    pub fn encoded_absent(shape: impl Into<Shape>, encoding: Encoding) -> Result<View<'a>, DeviceError> {
        let shape = shape.into();
        if let Encoding::Scaled(dtype) = encoding
            && let Some(rows) =
                ScaleBlocks::new(&shape, &Shape::scalar()).and_then(|one| ScaledRows::all(&one))
        {
            let scale = View::absent(TensorMeta::new(DType::F32, Shape::scalar())?);
            return View::absent(TensorMeta::new(dtype, shape)?).scaled(scale, rows);
        }
        View::with_encoding(Place::Absent, shape, encoding)
    }

    /// This view `[rows, columns]` with its numbers multiplied by scales, in f32. `scales` are those that the
    /// [rows need](ScaledRows::scales), one after the other.
    ///
    /// ```
    /// use vram_device::{KernelsExt, View, ViewMut, cpu::Cpu, ops};
    /// use vram_types::encoding::{ScaleBlocks, ScaledRows};
    /// use vram_types::{DType, TensorMeta};
    ///
    /// // 1 and 2 as fp8, in a row whose scale is 0.5.
    /// let (numbers, scale) = ([0x38, 0x40], 0.5f32.to_le_bytes());
    /// let numbers = View::host(&numbers, TensorMeta::new(DType::F8_E4M3, [1, 2])?)?;
    /// let scale = View::host(&scale, TensorMeta::new(DType::F32, [1])?)?;
    /// let per_row = ScaleBlocks::new(&[1, 2].into(), &[1, 1].into()).expect("they fit");
    /// let x = numbers.scaled(scale, ScaledRows::all(&per_row).expect("a matrix"))?;
    ///
    /// let mut y = [0; 8];
    /// let decoded = ViewMut::host(&mut y, TensorMeta::new(DType::F32, [1, 2])?)?;
    /// Cpu::new(Default::default())?.call(ops::Cast::new(x, decoded), None)?;
    /// assert_eq!(y, [0.5f32.to_le_bytes(), 1f32.to_le_bytes()].as_flattened());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DeviceError::Shape`] for numbers that are already encoded, and if numbers, scales and rows do not
    /// fit together.
    pub fn scaled(self, scales: View<'a>, rows: ScaledRows) -> Result<View<'a>, DeviceError> {
        let refused = |what: String| Err(DeviceError::shape("a weight with scales", what));
        let Encoding::Plain(dtype) = self.encoding else {
            return refused(format!("its numbers are {}", self.encoding));
        };
        if self.shape().dims() != [rows.rows().len(), rows.columns()] {
            let (count, columns) = (rows.rows().len(), rows.columns());
            return refused(format!("it has shape {} and scales for [{count}, {columns}]", self.shape()));
        }
        let needed = rows.scales().end - rows.scales().start;
        if scales.is_encoded() || scales.meta().elements() != needed {
            return refused(format!("its scales are {scales:?}, and {needed} numbers are needed"));
        }
        let encoding = Encoding::Scaled(dtype);
        let meta = TensorMeta::new(encoding.decoded(), self.meta.shape().clone())?;
        Ok(View { meta, encoding, scales: Some(Box::new((scales, rows))), ..self })
    }

    /// Element type after decoding.
    pub fn dtype(&self) -> DType {
        self.meta.dtype()
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        self.meta.shape()
    }

    /// Dtype, shape and size after decoding.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// What the bytes are: numbers of the dtype, quantised blocks, or numbers with scales.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// For a view [with scales](View::scaled): the scales, and which number has which scale.
    pub fn scales(&self) -> Option<(&View<'a>, &ScaledRows)> {
        self.scales.as_deref().map(|(values, rows)| (values, rows))
    }

    /// The same with the scales in other memory.
    pub(crate) fn with_scales(self, values: View<'a>) -> View<'a> {
        let scales = self.scales.map(|scales| Box::new((values, scales.1)));
        View { scales, ..self }
    }

    /// Whether the bytes are anything but numbers of the dtype.
    pub fn is_encoded(&self) -> bool {
        self.encoding != Encoding::Plain(self.meta.dtype())
    }

    /// Size of the stored bytes, without scales.
    pub fn stored_bytes(&self) -> u64 {
        self.bytes
    }

    /// The same tensor without bytes.
    pub fn to_absent<'b>(&self) -> View<'b> {
        let scales = self.scales().map(|(values, rows)| Box::new((values.to_absent(), rows.clone())));
        let View { encoding, bytes, .. } = *self;
        View { place: Place::Absent, meta: self.meta.clone(), encoding, bytes, scales }
    }

    /// The same tensor in other host memory. Its scales have no bytes.
    ///
    /// # Errors
    /// See [`host`](View::host).
    pub fn to_host<'b>(&self, bytes: &'b [u8]) -> Result<View<'b>, DeviceError> {
        View { place: Place::Host(bytes), ..self.to_absent() }.checked()
    }

    /// The region and the offset in it; `None` for host memory and for an absent view.
    pub fn region(&self) -> Option<(&'a Region, u64)> {
        match self.place {
            Place::Region { region, at } => Some((region, at)),
            Place::Host(_) | Place::Absent => None,
        }
    }

    /// The stored bytes, if the host sees them.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self.place {
            Place::Host(bytes) => Some(bytes),
            // Fits: checked when the view was made.
            Place::Region { region, at } => region.host()?.get(at as usize..(at + self.bytes) as usize),
            Place::Absent => None,
        }
    }

    fn plain(place: Place<'a>, meta: TensorMeta) -> View<'a> {
        let (encoding, bytes) = (Encoding::Plain(meta.dtype()), meta.bytes());
        View { place, meta, encoding, bytes, scales: None }
    }

    fn with_encoding(place: Place<'a>, shape: Shape, encoding: Encoding) -> Result<View<'a>, DeviceError> {
        let bytes = encoding.bytes(&shape)?;
        if matches!(encoding, Encoding::Scaled(_)) {
            return Err(DeviceError::shape("a weight with scales", "it has none"));
        }
        let meta = TensorMeta::new(encoding.decoded(), shape)?;
        Ok(View { place, meta, encoding, bytes, scales: None })
    }

    /// Checks that it fits its place.
    fn checked(self) -> Result<View<'a>, DeviceError> {
        match self.place {
            Place::Region { region, at } => check_range(region, at, self.bytes)?,
            Place::Host(bytes) => check_len(bytes.len(), self.bytes)?,
            Place::Absent => {}
        }
        Ok(self)
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({} {})", self.encoding, self.meta.shape())
    }
}

/// A tensor for writing: all of a range in a [`Region`] or in host memory, or an [absent](ViewMut::absent)
/// one.
pub struct ViewMut<'a> {
    place: PlaceMut<'a>,
    meta: TensorMeta,
}

enum PlaceMut<'a> {
    Region { region: &'a mut Region, at: u64 },
    Host(&'a mut [u8]),
    Absent,
}

impl<'a> ViewMut<'a> {
    /// A tensor that begins at byte `at` of a region.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] if it does not fit the region.
    pub fn new(region: &'a mut Region, at: u64, meta: TensorMeta) -> Result<ViewMut<'a>, DeviceError> {
        check_range(region, at, meta.bytes())?;
        Ok(ViewMut { place: PlaceMut::Region { region, at }, meta })
    }

    /// A tensor in host memory, for kernels of host-visible devices. Others refuse it.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] unless the slice has exactly the tensor's length.
    pub fn host(bytes: &'a mut [u8], meta: TensorMeta) -> Result<ViewMut<'a>, DeviceError> {
        check_len(bytes.len(), meta.bytes())?;
        Ok(ViewMut { place: PlaceMut::Host(bytes), meta })
    }

    /// A dtype and a shape without bytes; see [`View::absent`].
    pub fn absent(meta: TensorMeta) -> ViewMut<'a> {
        ViewMut { place: PlaceMut::Absent, meta }
    }

    /// The same tensor with a shorter lifetime, so that an operation can take it and the caller keeps it.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        let place = match &mut self.place {
            PlaceMut::Region { region, at } => PlaceMut::Region { region, at: *at },
            PlaceMut::Host(bytes) => PlaceMut::Host(bytes),
            PlaceMut::Absent => PlaceMut::Absent,
        };
        ViewMut { place, meta: self.meta.clone() }
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

    /// The region and the offset in it; `None` for host memory and for an absent view.
    pub fn region(&self) -> Option<(&Region, u64)> {
        match &self.place {
            PlaceMut::Region { region, at } => Some((region, *at)),
            PlaceMut::Host(_) | PlaceMut::Absent => None,
        }
    }

    /// The bytes, if the host sees them.
    pub fn bytes(&mut self) -> Option<&mut [u8]> {
        match &mut self.place {
            PlaceMut::Host(bytes) => Some(bytes),
            // Fits: checked when the view was made.
            PlaceMut::Region { region, at } => {
                region.host_mut()?.get_mut(*at as usize..(*at + self.meta.bytes()) as usize)
            }
            PlaceMut::Absent => None,
        }
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

fn check_len(len: usize, bytes: u64) -> Result<(), DeviceError> {
    let available = len as u64;
    if available != bytes {
        return Err(DeviceError::OutOfRange { what: "a view of host memory", offset: 0, bytes, available });
    }
    Ok(())
}
