//! The header of a safetensors file: from bytes to tensors, without I/O.
//!
//! Format: 8 bytes little-endian length, that many bytes of JSON, then the tensors' bytes. The
//! rules are those of the format's own text, which is stricter than its crate; what the crate
//! accepts and we do not is listed in the crate's documentation.

use vram_types::{DType, Shape, SourceErrorKind, TensorMeta};

use crate::catalog::names::{NameRef, Names, Table, count};
use crate::fault::{Fault, LENIENT, quoted};
use crate::format::json::Cursor;
use crate::format::safetensors::compact::{self, Fields};

/// Longest header that the format allows, in bytes.
pub(crate) const MOST_HEADER_BYTES: u64 = 100_000_000;
/// Bytes of JSON that a tensor usually takes at least; memory for so many entries is set aside at
/// once.
const USUAL_BYTES: usize = 96;
/// Bytes before the header: its length.
pub(crate) const LENGTH_BYTES: usize = 8;

/// One tensor as the header states it, checked.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: NameRef,
    pub(crate) meta: TensorMeta,
    /// First byte after the header's end at which the tensor begins.
    pub(crate) begin: u64,
    /// Where the header names the tensor, as an offset in the file.
    pub(crate) named_at: u32,
}

/// What a header says.
pub(crate) struct Header {
    /// In order of their bytes.
    pub(crate) entries: Vec<Entry>,
    /// The JSON object of `__metadata__`, empty if there is none; see [`metadata_pairs`].
    pub(crate) metadata: Box<str>,
    /// What was wrong and was let pass.
    pub(crate) lenient: Vec<String>,
}

/// The header's length from the first 8 bytes of a file of `file_bytes`.
pub(crate) fn length(first: [u8; LENGTH_BYTES], file_bytes: u64) -> Result<u64, Fault> {
    let bytes = u64::from_le_bytes(first);
    if bytes > MOST_HEADER_BYTES {
        return Err(Fault::invalid(
            0,
            format!(
                "a header of {bytes} bytes; the format allows {MOST_HEADER_BYTES} (is this a safetensors file?)"
            ),
        ));
    }
    let end = bytes + LENGTH_BYTES as u64;
    if end > file_bytes {
        let message = format!("the header should end at byte {end}, the file ends at byte {file_bytes}");
        return Err(Fault { at: Some(0), ..Fault::new(SourceErrorKind::Truncated, message) });
    }
    Ok(bytes)
}

/// Reads the JSON of a header, names going to `names`. `data_bytes` is what the file holds after
/// the header. `lenient` lets pass what leaves no doubt about any tensor.
pub(crate) fn parse(json: &[u8], data_bytes: u64, lenient: bool, names: &mut Names) -> Result<Header, Fault> {
    let blanks = json.iter().take_while(|b| b.is_ascii_whitespace()).count();
    let mut passed = Passed { lenient, notes: Vec::new(), fields: 0 };
    if lenient && blanks > 0 {
        passed.notes.push(format!("{blanks} blanks before the header's '{{'"));
    } else if json.first() != Some(&b'{') {
        let hint = if json.get(blanks) == Some(&b'{') { LENIENT } else { "" };
        return Err(Fault::invalid(LENGTH_BYTES, format!("the header does not begin with '{{'{hint}")));
    }
    let text = std::str::from_utf8(json)
        .map_err(|e| Fault::invalid(LENGTH_BYTES + e.valid_up_to(), "the header is not UTF-8"))?;
    let mut cursor = Cursor::new(text, LENGTH_BYTES);
    let entries = Vec::with_capacity(json.len() / USUAL_BYTES);
    let mut header = Header { entries, metadata: Box::default(), lenient: Vec::new() };
    names.reserve(json.len() / 2);
    let mut has_metadata = false;
    cursor.object(|c, key, at| {
        if key != "__metadata__" {
            let entry = tensor(c, &key, at, names, &mut passed).map_err(|f| f.of(&key))?;
            header.entries.push(entry);
            return Ok(());
        }
        if std::mem::replace(&mut has_metadata, true) {
            return Err(Fault::invalid(at, "__metadata__ occurs twice"));
        }
        if c.rest().starts_with(b"null") {
            if !lenient {
                return Err(c.fault(format!("__metadata__ is not an object but null{LENIENT}")));
            }
            passed.notes.push("a __metadata__ that is null".to_owned());
            return c.skip();
        }
        header.metadata = metadata(c)?;
        Ok(())
    })?;
    // Some KiB of padding are checked a line at a time, which the processor does at once.
    let spaces = |line: &[u8]| line.iter().fold(true, |all, &b| all & (b == b' '));
    if !cursor.rest().chunks(64).all(spaces) {
        let passes = |b: u8| b == 0 || b.is_ascii_whitespace();
        let allowed = |b: u8| b == b' ' || lenient && passes(b);
        if let Some(extra) = cursor.rest().iter().position(|&b| !allowed(b)) {
            let at = cursor.offset() + extra;
            let hint = if cursor.rest().iter().all(|&b| passes(b)) { LENIENT } else { "" };
            let message = format!("bytes other than spaces after the header's closing '}}'{hint}");
            return Err(Fault::invalid(at, message));
        }
        passed.notes.push("bytes other than spaces after the header's '}'".to_owned());
    }
    if !header.entries.is_sorted_by_key(range) {
        header.entries.sort_by_key(range);
    }
    let free = covers(&header.entries, data_bytes, lenient, names)?;
    if free > 0 {
        passed.notes.push(format!("{free} bytes of the data belong to no tensor"));
    }
    if passed.fields > 0 {
        passed.notes.push(format!("{} fields of tensors that the format has not", passed.fields));
    }
    header.lenient = passed.notes;
    Ok(header)
}

/// What is let pass.
struct Passed {
    lenient: bool,
    notes: Vec<String>,
    /// Unknown fields of tensors.
    fields: usize,
}

fn range(entry: &Entry) -> (u64, u64) {
    (entry.begin, entry.begin + entry.meta.bytes())
}

/// Reads the `{"dtype":..., "shape":..., "data_offsets":...}` of one tensor.
fn tensor(
    c: &mut Cursor<'_>,
    name: &str,
    named_at: usize,
    names: &mut Names,
    passed: &mut Passed,
) -> Result<Entry, Fault> {
    let object_at = c.offset();
    let Fields { dtype, shape, shape_at, offsets: (begin, end), offsets_at } = match compact::read(c.rest()) {
        Some((fields, len)) => {
            c.pass(len);
            Fields {
                shape_at: object_at + fields.shape_at,
                offsets_at: object_at + fields.offsets_at,
                ..fields
            }
        }
        None => fields(c, passed)?,
    };
    let bytes = size(dtype, &shape, shape_at)?;
    let stored = end.checked_sub(begin).ok_or_else(|| {
        Fault::invalid(offsets_at, format!("data_offsets end at {end}, before they begin at {begin}"))
    })?;
    if stored != bytes {
        let message = format!(
            "data_offsets [{begin}, {end}] span {stored} bytes, dtype {dtype} and shape need {bytes}"
        );
        return Err(Fault::invalid(offsets_at, message));
    }
    let meta = TensorMeta::new(dtype, shape).map_err(|e| Fault::invalid(shape_at, e.to_string()))?;
    Ok(Entry { name: names.push(name)?, meta, begin, named_at: named_at as u32 })
}

/// The size in bytes, multiplied in order as the format's crate does: a zero after an overflow
/// does not undo it.
fn size(dtype: DType, shape: &Shape, at: usize) -> Result<u64, Fault> {
    let bits = shape
        .iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d as u64))
        .and_then(|elements| elements.checked_mul(u64::from(dtype.bits())))
        .ok_or_else(|| Fault::invalid(at, "the shape's size overflows"))?;
    if bits % 8 != 0 {
        return Err(Fault::invalid(at, format!("{bits} bits of {dtype} are not a whole number of bytes")));
    }
    Ok(bits / 8)
}

/// Reads the object of one tensor, however it is spelt.
fn fields(c: &mut Cursor<'_>, passed: &mut Passed) -> Result<Fields, Fault> {
    let (mut dtype, mut shape, mut offsets) = (None, None, None);
    let object_at = c.offset();
    c.object(|c, key, at| {
        let twice = match &*key {
            "dtype" => dtype.replace(dtype_of(c)?).is_some(),
            "shape" => shape.replace((shape_of(c)?, at)).is_some(),
            "data_offsets" => offsets.replace((offsets_of(c)?, at)).is_some(),
            _ if passed.lenient => {
                passed.fields += 1;
                return c.skip();
            }
            other => return Err(Fault::invalid(at, format!("unknown field {}{LENIENT}", quoted(other)))),
        };
        if twice {
            return Err(Fault::invalid(at, format!("the field {key} occurs twice")));
        }
        Ok::<(), Fault>(())
    })?;
    let missing = |field| Fault::invalid(object_at, format!("the field {field} is missing"));
    let dtype = dtype.ok_or_else(|| missing("dtype"))?;
    let (shape, shape_at) = shape.ok_or_else(|| missing("shape"))?;
    let (offsets, offsets_at) = offsets.ok_or_else(|| missing("data_offsets"))?;
    Ok(Fields { dtype, shape, shape_at, offsets, offsets_at })
}

fn dtype_of(c: &mut Cursor<'_>) -> Result<DType, Fault> {
    let at = c.offset();
    let name = c.string()?;
    compact::dtype(name.as_bytes())
        .ok_or_else(|| Fault::invalid(at, format!("unknown dtype {}", quoted(&name))))
}

fn shape_of(c: &mut Cursor<'_>) -> Result<Shape, Fault> {
    // Four extents fit in place; a hostile list of more grows by doubling.
    let mut dims = smallvec::SmallVec::<[usize; 4]>::new();
    c.array(|c| {
        let at = c.offset();
        let extent = c.unsigned()?;
        dims.push(usize::try_from(extent).map_err(|_| Fault::invalid(at, "an extent that does not fit"))?);
        Ok(())
    })?;
    Ok(if dims.spilled() { Shape::from(dims.into_vec()) } else { Shape::new(&dims) })
}

fn offsets_of(c: &mut Cursor<'_>) -> Result<(u64, u64), Fault> {
    let at = c.offset();
    let (mut pair, mut count) = ([0u64; 2], 0usize);
    c.array(|c| {
        let value = c.unsigned()?;
        if let Some(place) = pair.get_mut(count) {
            *place = value;
        }
        count += 1;
        Ok(())
    })?;
    match count {
        2 => Ok((pair[0], pair[1])),
        _ => Err(Fault::invalid(at, format!("data_offsets has {count} numbers, not 2"))),
    }
}

/// Checks `__metadata__` and gives its JSON. It is kept as text, which is the smallest form that
/// it has.
fn metadata(c: &mut Cursor<'_>) -> Result<Box<str>, Fault> {
    if c.peek() != Some(b'{') {
        return Err(c.fault("__metadata__ is not an object"));
    }
    let (text, start) = (c.rest_text(), c.offset());
    let (mut keys, mut places) = (Names::default(), Vec::new());
    c.object(|c, key, at| {
        if c.peek() != Some(b'"') {
            return Err(c.fault(format!("__metadata__ has a value that is no string, of {}", quoted(&key))));
        }
        places.push((keys.push(&key)?, at));
        c.string().map(drop)
    })?;
    let key_of = |i: u32| places.get(i as usize).map_or("", |(key, _)| keys.get(*key));
    match Table::build(count(places.len())?, key_of) {
        Ok(_) => Ok(text[..c.offset() - start].into()),
        Err((_, second)) => {
            let at = places.get(second as usize).map_or(start, |(_, at)| *at);
            Err(Fault::invalid(at, format!("__metadata__ has {} twice", quoted(key_of(second)))))
        }
    }
}

/// The pairs of a checked `__metadata__`, as [`Header::metadata`] keeps it.
pub(crate) fn metadata_pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    // Cannot fail: the text was checked when it was kept.
    let _checked: Result<(), Fault> = Cursor::new(text, 0).object(|c, key, _| {
        pairs.push((key.into_owned(), c.string()?.into_owned()));
        Ok(())
    });
    pairs
}

/// Checks that the sorted entries lie side by side from 0 to the end of the file; gives the bytes
/// between and after them, of which there are none unless `lenient`.
fn covers(entries: &[Entry], data_bytes: u64, lenient: bool, names: &Names) -> Result<u64, Fault> {
    let (mut end, mut free) = (0u64, 0);
    for entry in entries {
        let fault = |message| Fault::invalid(entry.named_at as usize, message).of(names.get(entry.name));
        let begin = entry.begin;
        if begin > end && !lenient {
            return Err(fault(format!(
                "a hole: bytes {end} to {begin} of the data belong to no tensor{LENIENT}"
            )));
        }
        if begin < end {
            return Err(fault(format!(
                "overlap: begins at byte {begin} of the data, the tensor before it ends at {end}"
            )));
        }
        free += begin - end;
        end = range(entry).1;
        if end > data_bytes {
            let message = format!("ends at byte {end} of the data, of which the file has {data_bytes}");
            return Err(Fault { kind: SourceErrorKind::Truncated, ..fault(message) });
        }
    }
    if end != data_bytes && !lenient {
        let message =
            format!("the tensors end at byte {end} of the data, of which the file has {data_bytes}{LENIENT}");
        return Err(Fault::new(SourceErrorKind::Invalid, message));
    }
    Ok(free + (data_bytes - end))
}
