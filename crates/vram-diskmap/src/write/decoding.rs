//! Weights whose numbers need tensors beside them, decoded piece by piece as they are copied.

use std::ops::Range;

use vram_types::cast::cast_serial;
use vram_types::encoding::{Role, ScaleBlocks, Scheme, SchemeKind};
use vram_types::{
    DType, ReadOptions, ReadRequest, Shape, SourceError, SourceErrorKind, TensorMeta, WeightSource,
    WeightSourceExt,
};

use crate::write::quant_state::QuantState;

/// Elements that are decoded at a time, on the stack.
const CHUNK: usize = 1024;
/// Longest description that is read.
const MOST_STATE_BYTES: u64 = 64 << 10;

/// How the elements of one weight become numbers.
pub(super) struct Decoding {
    elements: Elements,
    factors: Factors,
}

/// What is stored of an element.
enum Elements {
    /// A number of a byte.
    Bytes(DType),
    /// Half a byte, the first in the high half, that chooses one of these.
    Halves(Box<[f32; 16]>),
}

/// What elements are multiplied with.
enum Factors {
    /// A scale for each block.
    Scales { scales: Stored, blocks: ScaleBlocks, over_127: bool },
    /// An absmax for each run of so many elements.
    AbsMax { absmax: Stored, run: u64, nested: Option<Box<Nested>> },
}

/// Absmax that are themselves chosen from a book, times an absmax of their own, and moved.
struct Nested {
    book: Vec<f32>,
    absmax: Stored,
    run: u64,
    offset: f32,
}

/// A tensor of the source.
struct Stored {
    name: String,
    meta: TensorMeta,
}

/// The factors of a piece: those from number `first` on.
#[derive(Default)]
pub(super) struct Brought {
    factors: Vec<f32>,
    first: u64,
    /// The first element of the piece.
    element: u64,
}

impl Decoding {
    /// How a scheme is decoded, and the shape that the weight then has.
    pub(super) fn new(
        source: &dyn WeightSource,
        scheme: &Scheme,
        options: &ReadOptions,
    ) -> Result<(Decoding, Shape), SourceError> {
        let weight = source.require(&scheme.weight)?.meta;
        match &scheme.kind {
            SchemeKind::Scaled(blocks) => {
                let factors = Factors::Scales {
                    scales: stored(scheme, Role::Scale)?,
                    blocks: blocks.clone(),
                    over_127: false,
                };
                Ok((Decoding { elements: Elements::Bytes(weight.dtype()), factors }, weight.shape().clone()))
            }
            SchemeKind::ScaledOver127(blocks) => {
                rows_are_in_order(source, scheme, options)?;
                let factors = Factors::Scales {
                    scales: stored(scheme, Role::Scale)?,
                    blocks: blocks.clone(),
                    over_127: true,
                };
                Ok((Decoding { elements: Elements::Bytes(weight.dtype()), factors }, weight.shape().clone()))
            }
            SchemeKind::CodeBook { nested } => code_book(source, scheme, &weight, *nested, options),
            SchemeKind::Unsupported(what) => {
                Err(refused(scheme, scheme.companions.first().map(|c| c.name.as_str()), what))
            }
            _ => Err(refused(scheme, None, "a layout")),
        }
    }

    /// The bytes of the weight that some of its elements are in.
    pub(super) fn stored_bytes(&self, elements: Range<u64>) -> Range<u64> {
        match self.elements {
            Elements::Bytes(_) => elements,
            // Pieces begin with an even element.
            Elements::Halves(_) => elements.start / 2..elements.end.div_ceil(2),
        }
    }

    /// Reads the factors of some elements.
    pub(super) fn bring(
        &self,
        source: &dyn WeightSource,
        elements: Range<u64>,
        brought: &mut Brought,
        options: &ReadOptions,
    ) -> Result<(), SourceError> {
        let count = elements.end - elements.start;
        brought.element = elements.start;
        match &self.factors {
            Factors::Scales { scales, blocks, .. } => {
                let range = blocks.range(elements.start, count);
                brought.first = range.start;
                brought.factors = scales.numbers(source, range, options)?;
            }
            Factors::AbsMax { absmax, run, nested } => {
                let range = elements.start / run..elements.end.div_ceil(*run);
                brought.first = range.start;
                brought.factors = match nested {
                    None => absmax.numbers(source, range, options)?,
                    Some(nested) => nested.absmax(source, absmax, range, options)?,
                };
            }
        }
        Ok(())
    }

    /// Decodes the elements of a piece into numbers of `dtype`.
    pub(super) fn decode(
        &self,
        stored: &[u8],
        brought: &Brought,
        dst: &mut [u8],
        dtype: DType,
    ) -> Result<(), SourceError> {
        let width = dtype.layout().block_bytes as usize;
        let (mut values, mut bytes) = ([0f32; CHUNK], [0u8; CHUNK * 4]);
        for (number, dst) in dst.chunks_mut(CHUNK * width).enumerate() {
            let (at, count) = (number * CHUNK, dst.len() / width);
            let (values, bytes) = (&mut values[..count], &mut bytes[..count * 4]);
            self.elements(stored, at, bytes, values)?;
            self.multiply(brought, at as u64, values);
            for (bytes, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&*values) {
                *bytes = value.to_le_bytes();
            }
            cast_serial(bytes, DType::F32, dst, dtype)?;
        }
        Ok(())
    }

    /// What is stored of elements from number `at` of the piece on.
    fn elements(
        &self,
        stored: &[u8],
        at: usize,
        bytes: &mut [u8],
        values: &mut [f32],
    ) -> Result<(), SourceError> {
        let short = || SourceError::new(SourceErrorKind::Truncated, "a weight has fewer bytes than elements");
        match &self.elements {
            Elements::Bytes(DType::I8) => {
                let stored = stored.get(at..at + values.len()).ok_or_else(short)?;
                values.iter_mut().zip(stored).for_each(|(value, &byte)| *value = f32::from(byte as i8));
            }
            Elements::Bytes(dtype) => {
                cast_serial(stored.get(at..at + values.len()).ok_or_else(short)?, *dtype, bytes, DType::F32)?;
                let bytes = bytes.as_chunks::<4>().0;
                values.iter_mut().zip(bytes).for_each(|(value, &bytes)| *value = f32::from_le_bytes(bytes));
            }
            Elements::Halves(book) => {
                let stored = stored.get(at / 2..(at + values.len()).div_ceil(2)).ok_or_else(short)?;
                for (pair, byte) in values.chunks_mut(2).zip(stored) {
                    pair.iter_mut()
                        .zip([byte >> 4, byte & 15])
                        .for_each(|(value, i)| *value = book[usize::from(i)]);
                }
            }
        }
        Ok(())
    }

    fn multiply(&self, brought: &Brought, at: u64, values: &mut [f32]) {
        let first = brought.element + at;
        match &self.factors {
            Factors::Scales { blocks, over_127, .. } => {
                blocks.multiply(values, first, &brought.factors, brought.first);
                if *over_127 {
                    values.iter_mut().for_each(|value| *value *= 1.0 / 127.0);
                }
            }
            Factors::AbsMax { run, .. } => {
                for (value, number) in values.iter_mut().zip(first..) {
                    let factor = brought.factors.get((number / run - brought.first) as usize);
                    *value *= factor.copied().unwrap_or(0.0);
                }
            }
        }
    }
}

impl Stored {
    /// Elements of the tensor as numbers.
    fn numbers(
        &self,
        source: &dyn WeightSource,
        elements: Range<u64>,
        options: &ReadOptions,
    ) -> Result<Vec<f32>, SourceError> {
        let count = (elements.end - elements.start) as usize;
        let mut wide = vec![0; count * 4];
        let bytes = self.bytes(source, elements, options)?;
        cast_serial(&bytes, self.meta.dtype(), &mut wide, DType::F32)
            .map_err(|e| SourceError::from(e).at_tensor(&self.name))?;
        Ok(wide.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    fn bytes(
        &self,
        source: &dyn WeightSource,
        elements: Range<u64>,
        options: &ReadOptions,
    ) -> Result<Vec<u8>, SourceError> {
        let width = u64::from(self.meta.dtype().layout().block_bytes);
        let mut bytes = vec![0; ((elements.end - elements.start) * width) as usize];
        source
            .read_many(&mut [ReadRequest::tensor(&self.name, elements.start * width, &mut bytes)], options)?;
        Ok(bytes)
    }

    /// An error unless it has so many elements.
    fn has(self, elements: u64) -> Result<Stored, SourceError> {
        if self.meta.elements() == elements {
            return Ok(self);
        }
        let message = format!("it has {} elements where {elements} are needed", self.meta.elements());
        Err(SourceError::new(SourceErrorKind::Invalid, message).at_tensor(&self.name))
    }
}

impl Nested {
    /// Absmax of a range, decoded.
    fn absmax(
        &self,
        source: &dyn WeightSource,
        chosen: &Stored,
        range: Range<u64>,
        options: &ReadOptions,
    ) -> Result<Vec<f32>, SourceError> {
        let outer = range.start / self.run..range.end.div_ceil(self.run);
        let factors = self.absmax.numbers(source, outer.clone(), options)?;
        let bytes = chosen.bytes(source, range.clone(), options)?;
        let absmax = bytes.iter().zip(range).map(|(&byte, number)| {
            let entry = self.book.get(usize::from(byte)).copied().unwrap_or(0.0);
            let factor = factors.get((number / self.run - outer.start) as usize).copied().unwrap_or(0.0);
            entry * factor + self.offset
        });
        Ok(absmax.collect())
    }
}

/// bitsandbytes' nf4 and fp4.
fn code_book(
    source: &dyn WeightSource,
    scheme: &Scheme,
    weight: &TensorMeta,
    is_nested: bool,
    options: &ReadOptions,
) -> Result<(Decoding, Shape), SourceError> {
    let state = stored(scheme, Role::State)?;
    if state.meta.bytes() > MOST_STATE_BYTES {
        let message = format!("a description of {} bytes", state.meta.bytes());
        return Err(SourceError::new(SourceErrorKind::Invalid, message).at_tensor(&state.name));
    }
    let text = state.bytes(source, 0..state.meta.bytes(), options)?;
    let QuantState { shape, run, nested } =
        QuantState::parse(&text).map_err(|f| f.into_error().at_tensor(&state.name))?;
    let elements = shape.elements().filter(|n| n.div_ceil(2) == weight.bytes()).ok_or_else(|| {
        let message = format!("{} bytes are not the {shape} of its description", weight.bytes());
        SourceError::new(SourceErrorKind::Invalid, message).at_tensor(&scheme.weight)
    })?;
    let book = stored(scheme, Role::CodeBook)?.has(16)?.numbers(source, 0..16, options)?;
    let mut halves = Box::new([0f32; 16]);
    halves.copy_from_slice(&book);
    let absmax = stored(scheme, Role::AbsMax)?.has(elements.div_ceil(run))?;
    let nested = match (is_nested, nested) {
        (false, None) => None,
        (true, Some((run, offset))) => {
            let count = absmax.meta.elements().div_ceil(run);
            let book = stored(scheme, Role::NestedCodeBook)?.has(256)?.numbers(source, 0..256, options)?;
            let absmax = stored(scheme, Role::NestedAbsMax)?.has(count)?;
            Some(Box::new(Nested { book, absmax, run, offset }))
        }
        _ => {
            let message = "it and the tensors beside the weight disagree on whether absmax are nested";
            return Err(SourceError::new(SourceErrorKind::Invalid, message).at_tensor(&state.name));
        }
    };
    let expected = if is_nested { DType::U8 } else { DType::F32 };
    if absmax.meta.dtype() != expected {
        let message = format!("absmax of the dtype {} where {expected} is needed", absmax.meta.dtype());
        return Err(SourceError::new(SourceErrorKind::Invalid, message).at_tensor(&absmax.name));
    }
    let factors = Factors::AbsMax { absmax, run, nested };
    Ok((Decoding { elements: Elements::Halves(halves), factors }, shape))
}

/// bitsandbytes writes how the rows of an int8 weight are laid out: 0 for one after the other.
fn rows_are_in_order(
    source: &dyn WeightSource,
    scheme: &Scheme,
    options: &ReadOptions,
) -> Result<(), SourceError> {
    let Some(format) = scheme.companion(Role::Order) else { return Ok(()) };
    let format = Stored { name: format.name.clone(), meta: format.meta.clone() }.has(1)?;
    let bytes = format.bytes(source, 0..1, options)?;
    match bytes.iter().all(|&byte| byte == 0) {
        true => Ok(()),
        false => Err(refused(scheme, Some(&format.name), "int8 in another order than row by row")),
    }
}

fn stored(scheme: &Scheme, role: Role) -> Result<Stored, SourceError> {
    let companion = scheme.companion(role).ok_or_else(|| {
        let message = format!("there is no {} beside it", role.name());
        SourceError::new(SourceErrorKind::NotFound, message).at_tensor(&scheme.weight)
    })?;
    Ok(Stored { name: companion.name.clone(), meta: companion.meta.clone() })
}

/// A scheme that is known and cannot be decoded.
fn refused(scheme: &Scheme, companion: Option<&str>, what: &str) -> SourceError {
    let beside = companion.map_or(String::new(), |name| format!(" (with {name:?} beside it)"));
    let message = format!("stored as {what}{beside}, which cannot be decoded; a cast alone would be wrong");
    SourceError::new(SourceErrorKind::Unsupported, message).at_tensor(&scheme.weight)
}
