//! Everything before the tensors' bytes. Nobody says how long that is, so it is read in pieces
//! that double.

use vram_types::{BlockType, DType, FileId, Shape, SourceError, SourceErrorKind, TensorMeta};

use super::values::{Metadata, Stop, Values};
use crate::catalog::contents::{Contents, Unreadable};
use crate::catalog::names::Names;
use crate::catalog::tensor::TensorInfo;
use crate::fault::Fault;
use crate::format::reading::Reading;
use crate::io::{Storage, read_exact};

/// Longest part before the tensors' bytes that is read.
const MOST_METADATA_BYTES: u64 = 1 << 30;
const FIRST_BYTES: u64 = 8 << 10;
/// Where the tensors' bytes begin, unless the file says otherwise.
const USUAL_ALIGNMENT: u64 = 32;
const MOST_ALIGNMENT: u64 = 1 << 20;
const MOST_EXTENTS: u32 = 4;
/// Bytes that a tensor takes in the list at least.
const LEAST_ENTRY_BYTES: usize = 24;

/// How the elements of a type number are stored.
enum Kind {
    Plain(DType),
    Blocks(BlockType),
    /// Of a name that is known, or of a number that is not.
    Other(Option<&'static str>),
}

/// Reads everything before the tensors' bytes.
pub(crate) fn read(
    file: &dyn Storage,
    id: FileId,
    reading: Reading,
    names: &mut Names,
) -> Result<Contents, SourceError> {
    let failed = |f: Fault| file.named(f.into_error());
    let mut text: Vec<u8> = Vec::new();
    loop {
        let longer = (text.len() as u64 * 2).max(FIRST_BYTES).min(file.bytes());
        let before = text.len();
        text.reserve_exact(longer as usize - before);
        text.resize(longer as usize, 0);
        read_exact(file, &mut text[before..], before as u64)?;
        // Names are kept in a place of their own until the list is whole.
        let mut own = Names::default();
        match parse(&text, file.bytes(), id, reading, &mut own) {
            Err(Stop::More(_)) if longer < file.bytes() && longer < MOST_METADATA_BYTES => {}
            Err(Stop::More(fault) | Stop::Fault(fault)) => return Err(failed(fault)),
            Ok(mut contents) => {
                for info in &mut contents.tensors {
                    info.name = names.push(own.get(info.name)).map_err(failed)?;
                }
                for tensor in &mut contents.unreadable {
                    tensor.name = names.push(own.get(tensor.name)).map_err(failed)?;
                }
                return Ok(Contents { bytes_read: text.len() as u64, ..contents });
            }
        }
    }
}

fn parse(
    text: &[u8],
    file_bytes: u64,
    id: FileId,
    reading: Reading,
    names: &mut Names,
) -> Result<Contents, Stop> {
    let mut values = Values::new(text);
    values.bytes(4)?; // GGUF
    let version = values.u32()?;
    if version & 0xFFFF == 0 && version != 0 {
        return Err(unsupported(4, "a big-endian file; little-endian ones are read".to_owned()).into());
    }
    if !(2..=3).contains(&version) {
        return Err(unsupported(4, format!("version {version}; 2 and 3 are read")).into());
    }
    let (tensors, pairs) = (values.u64()?, values.u64()?);
    let mut metadata = Metadata::new(text.len());
    for _ in 0..pairs {
        metadata.pair(&mut values)?;
    }
    let alignment = metadata.alignment.unwrap_or(USUAL_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > MOST_ALIGNMENT {
        let message = format!("general.alignment is {alignment}, no power of two up to {MOST_ALIGNMENT}");
        return Err(Fault::new(SourceErrorKind::Invalid, message).into());
    }
    let mut list = List { contents: Contents::default(), names, id, reading, alignment };
    let most = values.rest() / LEAST_ENTRY_BYTES;
    list.contents.tensors.reserve_exact(usize::try_from(tensors).unwrap_or(most).min(most));
    for _ in 0..tensors {
        list.tensor(&mut values)?;
    }
    let mut contents = list.contents;
    let data = (values.offset() as u64).next_multiple_of(alignment);
    contents.tensors.sort_by_key(|info| (info.offset, info.range().bytes));
    let names = &*names;
    let mut end = 0;
    for info in &mut contents.tensors {
        let fault = |kind, message| {
            let at = Some(u64::from(info.named_at));
            Fault { at, ..Fault::new(kind, message) }.of(names.get(info.name))
        };
        if info.offset < end {
            let message = format!("begins at byte {} of the data, where another ends at {end}", info.offset);
            return Err(fault(SourceErrorKind::Invalid, message).into());
        }
        let last = info
            .offset
            .checked_add(info.range().bytes)
            .and_then(|last| Some((last, data.checked_add(last)?)));
        let Some((last, _)) = last.filter(|&(_, last)| last <= file_bytes) else {
            let have = file_bytes.saturating_sub(data);
            let message = format!(
                "begins at byte {} of the data and has {}, of which the file has {have}",
                info.offset,
                info.range().bytes
            );
            return Err(fault(SourceErrorKind::Truncated, message).into());
        };
        end = last;
        info.offset += data;
    }
    contents.split = metadata.split()?;
    contents.metadata = metadata.finish();
    Ok(contents)
}

fn unsupported(at: usize, message: String) -> Fault {
    Fault { kind: SourceErrorKind::Unsupported, ..Fault::invalid(at, message) }
}

/// The list of tensors as it is read.
struct List<'n> {
    contents: Contents,
    names: &'n mut Names,
    id: FileId,
    reading: Reading,
    alignment: u64,
}

impl List<'_> {
    fn tensor(&mut self, values: &mut Values<'_>) -> Result<(), Stop> {
        let at = values.offset();
        let name = values.text("the name of a tensor")?;
        let of = |fault: Fault| Stop::Fault(fault.of(name));
        let extents = values.u32()?;
        if extents > MOST_EXTENTS {
            return Err(of(Fault::invalid(
                at,
                format!("{extents} extents; at most {MOST_EXTENTS} are allowed"),
            )));
        }
        let mut dims = [0usize; MOST_EXTENTS as usize];
        let dims = &mut dims[..extents as usize];
        // The file gives the innermost extent first.
        for dim in dims.iter_mut().rev() {
            *dim = usize::try_from(values.u64()?)
                .map_err(|_| of(Fault::invalid(at, "an extent that does not fit")))?;
        }
        let (number, offset) = (values.u32()?, values.u64()?);
        if !offset.is_multiple_of(self.alignment) {
            let message = format!("its offset {offset} is no multiple of {}", self.alignment);
            return Err(of(Fault::invalid(at, message)));
        }
        let kind = kind(number);
        if let Kind::Other(known) = kind {
            let why = match known {
                Some(known) => format!("of the type {known}, for which there is no decoder"),
                None => format!("of the unknown type {number}"),
            };
            let name = self.names.push(name)?;
            self.contents.unreadable.push(Unreadable { name, file: self.id, why: why.into() });
            return Ok(());
        }
        let (stored, block, shape) =
            self.element(&kind, dims).map_err(|message| of(Fault::invalid(at, message)))?;
        let meta = TensorMeta::new(stored, shape).map_err(|e| of(Fault::invalid(at, e.to_string())))?;
        let named_at = u32::try_from(at).unwrap_or(0);
        let name = self.names.push(name)?;
        let file = self.id;
        let raw = match kind {
            Kind::Blocks(raw) if block.is_none() => Some(raw),
            _ => None,
        };
        let info = TensorInfo { meta, offset, name, file, named_at, strides: None, stored, block, raw };
        self.contents.tensors.push(info);
        Ok(())
    }

    /// Dtype, blocks and shape as they are read.
    fn element(&self, kind: &Kind, dims: &[usize]) -> Result<(DType, Option<BlockType>, Shape), String> {
        let shape = Shape::new(dims);
        let block = match *kind {
            Kind::Plain(dtype) => return Ok((dtype, None, shape)),
            Kind::Blocks(block) => block,
            Kind::Other(_) => return Err("of an unknown type".to_owned()),
        };
        let (row, whole) = (shape.last() as u64, block.block_elements());
        if dims.is_empty() || row % whole != 0 {
            return Err(format!("rows of {row} elements do not fill blocks of {whole}"));
        }
        if !self.reading.raw_blocks {
            return Ok((DType::F32, Some(block), shape));
        }
        let bytes =
            (row / whole).checked_mul(block.block_bytes()).and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.ok_or_else(|| "the size overflows".to_owned())?;
        Ok((DType::U8, None, shape.with_last(bytes)))
    }
}

/// What ggml's type numbers mean.
fn kind(number: u32) -> Kind {
    Kind::Plain(match number {
        0 => DType::F32,
        1 => DType::F16,
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::BF16,
        number => match block(number) {
            Some(block) => return Kind::Blocks(block),
            None => return Kind::Other(other(number)),
        },
    })
}

fn block(number: u32) -> Option<BlockType> {
    Some(match number {
        2 => BlockType::Q4_0,
        3 => BlockType::Q4_1,
        6 => BlockType::Q5_0,
        7 => BlockType::Q5_1,
        8 => BlockType::Q8_0,
        10 => BlockType::Q2_K,
        11 => BlockType::Q3_K,
        12 => BlockType::Q4_K,
        13 => BlockType::Q5_K,
        14 => BlockType::Q6_K,
        20 => BlockType::IQ4_NL,
        23 => BlockType::IQ4_XS,
        39 => BlockType::MXFP4,
        16 => BlockType::IQ2_XXS,
        17 => BlockType::IQ2_XS,
        18 => BlockType::IQ3_XXS,
        19 => BlockType::IQ1_S,
        21 => BlockType::IQ3_S,
        22 => BlockType::IQ2_S,
        29 => BlockType::IQ1_M,
        34 => BlockType::TQ1_0,
        35 => BlockType::TQ2_0,
        40 => BlockType::NVFP4,
        _ => return None,
    })
}

fn other(number: u32) -> Option<&'static str> {
    Some(match number {
        9 => "Q8_1",
        15 => "Q8_K",
        41 => "Q1_0",
        _ => return None,
    })
}
