//! The directory of a zip archive whose entries are read in place: stored, not compressed; zip64
//! where it is large.

use std::borrow::Cow;

use vram_types::{SourceError, SourceErrorKind};

use crate::fault::{Fault, quoted};
use crate::format::safetensors::header::MOST_HEADER_BYTES;
use crate::io::{Storage, read_exact};

/// Bytes of the record that ends an archive, without its comment.
const END_BYTES: usize = 22;
/// Bytes of the record that says where the zip64 record is.
const LOCATOR_BYTES: usize = 20;
const END64_BYTES: usize = 56;
const CENTRAL_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;
/// Longest comment.
const MOST_COMMENT_BYTES: usize = 0xFFFF;
/// Tail that is read first: without a comment the end is in it.
const FIRST_TAIL_BYTES: usize = END_BYTES + LOCATOR_BYTES + END64_BYTES;

/// One entry of the central directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    name: (u32, u16),
    flags: u16,
    method: u16,
    /// Bytes of its contents.
    pub(crate) bytes: u64,
    /// Where its local header is.
    header: u64,
}

/// All entries, by name.
#[derive(Debug)]
pub(crate) struct Archive {
    directory: Vec<u8>,
    directory_at: u64,
    entries: Vec<Entry>,
    /// Bytes that were read to know this.
    pub(crate) bytes_read: u64,
}

/// Where the central directory is.
#[derive(Clone, Copy, Debug)]
struct Directory {
    at: u64,
    bytes: u64,
    entries: u64,
}

impl Archive {
    /// Reads the directory at the end of `file`.
    pub(crate) fn read(file: &dyn Storage) -> Result<Archive, SourceError> {
        let failed = |f: Fault| file.named(f.into_error());
        let mut bytes_read = 0;
        let mut read = |at: u64, len: u64| -> Result<Vec<u8>, SourceError> {
            let mut bytes = vec![0; len as usize];
            read_exact(file, &mut bytes, at)?;
            bytes_read += len;
            Ok(bytes)
        };
        let tail_at = |bytes: usize| file.bytes().saturating_sub(bytes as u64);
        let mut at = tail_at(FIRST_TAIL_BYTES);
        let mut tail = read(at, file.bytes() - at)?;
        let end = match find_end(&tail) {
            Some(end) => end,
            None => {
                at = tail_at(END_BYTES + MOST_COMMENT_BYTES + LOCATOR_BYTES);
                tail = read(at, file.bytes() - at)?;
                find_end(&tail).or_else(|| end_before_others(&tail, at)).ok_or_else(|| {
                    let message = "a zip archive without its end: the file is cut off, or is none";
                    failed(Fault::new(SourceErrorKind::Truncated, message))
                })?
            }
        };
        let directory = match locator(&tail, end).map_err(failed)? {
            None => small_directory(&tail[end..]),
            Some(end64) => {
                let record = match inside(end64, END64_BYTES as u64, at + end as u64) {
                    true => read(end64, END64_BYTES as u64)?,
                    false => return Err(failed(Fault::invalid(end, "the zip64 end is outside the file"))),
                };
                large_directory(&record).map_err(failed)?
            }
        };
        if !inside(directory.at, directory.bytes, at + end as u64) || directory.bytes > MOST_HEADER_BYTES {
            let message = format!(
                "a directory of {} bytes at {}; it must be inside the file and at most {MOST_HEADER_BYTES} long",
                directory.bytes, directory.at
            );
            return Err(failed(Fault { at: Some(at + end as u64), ..Fault::invalid(0, message) }));
        }
        drop(tail);
        let text = read(directory.at, directory.bytes)?;
        let entries = entries(&text, directory).map_err(failed)?;
        Ok(Archive { directory: text, directory_at: directory.at, entries, bytes_read })
    }

    /// Names of all entries, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| name(&self.directory, entry))
    }

    /// The number of the entry of that name.
    pub(crate) fn find(&self, wanted: &str) -> Option<usize> {
        self.entries.binary_search_by(|entry| name(&self.directory, entry).cmp(wanted)).ok()
    }

    pub(crate) fn entry(&self, number: usize) -> Option<&Entry> {
        self.entries.get(number)
    }

    /// Bytes of the directory.
    pub(crate) fn directory_bytes(&self) -> usize {
        self.directory.len()
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where the contents of an entry begin: reads its local header.
    pub(crate) fn contents(&mut self, file: &dyn Storage, number: usize) -> Result<u64, SourceError> {
        let Some(entry) = self.entries.get(number).copied() else {
            return Err(file.named(SourceError::new(SourceErrorKind::NotFound, "no such entry")));
        };
        let name = name(&self.directory, &entry);
        let failed = |kind, message: Cow<'static, str>| {
            let message = format!("the entry {}: {message}", quoted(name));
            file.named(SourceError::new(kind, message)).at_offset(entry.header)
        };
        let unsupported = |message| failed(SourceErrorKind::Unsupported, message);
        let invalid = |message: &'static str| failed(SourceErrorKind::Invalid, message.into());
        if entry.flags & 1 != 0 {
            return Err(unsupported("encrypted".into()));
        }
        if entry.method != 0 {
            let message = format!(
                "compressed (method {}); only stored entries are read in place: save it again with torch.save, or \
                 unpack it and pack it with zip -0",
                entry.method
            );
            return Err(unsupported(message.into()));
        }
        let len = LOCAL_BYTES + name.len();
        if !inside(entry.header, len as u64, self.directory_at) {
            return Err(invalid("its header is outside the file"));
        }
        let mut local = vec![0; len];
        read_exact(file, &mut local, entry.header)?;
        let mut cursor = Bytes(&local);
        let signature = cursor.u32();
        cursor.skip(22);
        let (name_bytes, extra_bytes) = (cursor.u16(), cursor.u16());
        if signature != 0x0403_4b50 || usize::from(name_bytes) != name.len() || cursor.0 != name.as_bytes() {
            return Err(invalid("its own header is not what the directory says"));
        }
        let at = entry.header + len as u64 + u64::from(extra_bytes);
        if !inside(at, entry.bytes, self.directory_at) {
            return Err(failed(SourceErrorKind::Truncated, "its contents reach beyond the archive".into()));
        }
        self.bytes_read += len as u64;
        Ok(at)
    }
}

fn inside(at: u64, bytes: u64, end: u64) -> bool {
    at.checked_add(bytes).is_some_and(|last| last <= end)
}

/// Little-endian numbers one after the other; zeros where the bytes end, which the callers have
/// made sure of.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn number(&mut self, bytes: usize) -> u64 {
        let (head, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        head.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    fn u16(&mut self) -> u16 {
        self.number(2) as u16
    }

    fn u32(&mut self) -> u32 {
        self.number(4) as u32
    }

    fn skip(&mut self, bytes: usize) {
        self.0 = self.0.get(bytes..).unwrap_or_default();
    }
}

/// Where in `tail` the last record begins whose comment ends with the file.
fn find_end(tail: &[u8]) -> Option<usize> {
    let last = tail.len().checked_sub(END_BYTES)?;
    (0..=last).rev().find(|&at| {
        let comment = usize::from(u16::from_le_bytes([tail[at + 20], tail[at + 21]]));
        tail[at..].starts_with(b"PK\x05\x06") && at + END_BYTES + comment == tail.len()
    })
}

/// Where in `tail`, which begins at `at` of the file, the last record begins that is right about
/// its directory, whatever follows it.
fn end_before_others(tail: &[u8], at: u64) -> Option<usize> {
    let last = tail.len().checked_sub(END_BYTES)?;
    (0..=last).rev().find(|&end| {
        let Some(record) = tail.get(end..).filter(|rest| rest.starts_with(b"PK\x05\x06")) else {
            return false;
        };
        let Directory { at: begin, bytes, .. } = small_directory(record);
        let Some(locator) = end.checked_sub(LOCATOR_BYTES).and_then(|at| tail.get(at..end)) else {
            return false;
        };
        let is_large = locator.starts_with(b"PK\x06\x07");
        is_large || begin.checked_add(bytes) == Some(at + end as u64)
    })
}

/// How many bytes come before the archive that a file ends with; `None` if it ends with none.
pub(crate) fn before(file: &dyn Storage) -> Result<Option<u64>, SourceError> {
    let Some(at) = file.bytes().checked_sub(END_BYTES as u64) else { return Ok(None) };
    let mut record = [0; END_BYTES];
    read_exact(file, &mut record, at)?;
    let Directory { at: begin, bytes, .. } = small_directory(&record);
    let mut own = begin.checked_add(bytes).filter(|_| record.starts_with(b"PK\x05\x06"));
    if let Some(locator) = at.checked_sub(LOCATOR_BYTES as u64) {
        let mut signature = [0; 4];
        read_exact(file, &mut signature, locator)?;
        if signature == *b"PK\x06\x07" {
            own = own.map(|own| own.saturating_add((END64_BYTES + LOCATOR_BYTES) as u64));
        }
    }
    Ok(own.and_then(|own| at.checked_sub(own)).filter(|&before| before > 0))
}

/// Where the zip64 record is, if the archive has one.
fn locator(tail: &[u8], end: usize) -> Result<Option<u64>, Fault> {
    let Some(locator) = end.checked_sub(LOCATOR_BYTES).and_then(|at| tail.get(at..end)) else {
        return Ok(None);
    };
    let mut cursor = Bytes(locator);
    if cursor.u32() != 0x0706_4b50 {
        return Ok(None);
    }
    let (disk, at, disks) = (cursor.u32(), cursor.number(8), cursor.u32());
    if disk != 0 || disks > 1 {
        return Err(Fault::new(SourceErrorKind::Unsupported, "an archive of several files"));
    }
    Ok(Some(at))
}

fn small_directory(record: &[u8]) -> Directory {
    let mut cursor = Bytes(record);
    cursor.skip(10);
    let (entries, bytes, at) = (cursor.number(2), cursor.number(4), cursor.number(4));
    Directory { at, bytes, entries }
}

fn large_directory(record: &[u8]) -> Result<Directory, Fault> {
    let mut cursor = Bytes(record);
    if cursor.u32() != 0x0606_4b50 {
        return Err(Fault::new(SourceErrorKind::Invalid, "the zip64 end is not where its locator says"));
    }
    cursor.skip(28);
    let (entries, bytes, at) = (cursor.number(8), cursor.number(8), cursor.number(8));
    Ok(Directory { at, bytes, entries })
}

/// Reads the central directory.
fn entries(text: &[u8], directory: Directory) -> Result<Vec<Entry>, Fault> {
    let invalid = |at: usize, message: &'static str| Fault {
        at: Some(directory.at + at as u64),
        ..Fault::invalid(0, message)
    };
    let mut entries = Vec::with_capacity(text.len() / (2 * CENTRAL_BYTES));
    let mut at = 0;
    while at < text.len() {
        let Some(record) = text.get(at..at + CENTRAL_BYTES) else {
            return Err(invalid(at, "the directory ends inside an entry"));
        };
        let mut c = Bytes(record);
        let signature = c.u32();
        c.skip(4);
        let (flags, method) = (c.u16(), c.u16());
        c.skip(8);
        let (packed, bytes) = (c.number(4), c.number(4));
        let (name, extra, comment) = (c.u16(), c.u16(), c.u16());
        c.skip(8);
        let header = c.number(4);
        if signature != 0x0201_4b50 {
            return Err(invalid(at, "an entry of the directory that is none"));
        }
        let name_at = at + CENTRAL_BYTES;
        let extra_at = name_at + usize::from(name);
        let next = extra_at + usize::from(extra) + usize::from(comment);
        let Some(extra) = text.get(..next).and_then(|t| t.get(extra_at..extra_at + usize::from(extra)))
        else {
            return Err(invalid(at, "the directory ends inside an entry"));
        };
        if std::str::from_utf8(&text[name_at..extra_at]).is_err() {
            return Err(invalid(name_at, "a name that is not UTF-8"));
        }
        let mut fields = [bytes, packed, header];
        large_fields(extra, &mut fields).map_err(|message| invalid(extra_at, message))?;
        let [bytes, packed, header] = fields;
        if method == 0 && bytes != packed {
            return Err(invalid(at, "a stored entry of two different sizes"));
        }
        entries.push(Entry { name: (name_at as u32, name), flags, method, bytes, header });
        at = next;
    }
    if entries.len() as u64 != directory.entries {
        return Err(invalid(0, "the directory has not as many entries as the archive's end says"));
    }
    entries.sort_unstable_by(|a, b| name(text, a).cmp(name(text, b)));
    match entries.windows(2).find(|pair| name(text, &pair[0]) == name(text, &pair[1])) {
        Some(pair) => {
            let message = format!("two entries are called {}", quoted(name(text, &pair[0])));
            Err(Fault { at: Some(directory.at), ..Fault::invalid(0, message) })
        }
        None => Ok(entries),
    }
}

/// Replaces the fields that are all ones by those of the zip64 extra field.
fn large_fields(extra: &[u8], fields: &mut [u64; 3]) -> Result<(), &'static str> {
    if fields.iter().all(|&field| field != 0xFFFF_FFFF) {
        return Ok(());
    }
    let mut cursor = Bytes(extra);
    while cursor.0.len() >= 4 {
        let (id, len) = (cursor.u16(), usize::from(cursor.u16()));
        let Some(mut large) = cursor.0.get(..len).map(Bytes) else { break };
        cursor.skip(len);
        if id != 1 {
            continue;
        }
        for field in fields.iter_mut().filter(|field| **field == 0xFFFF_FFFF) {
            if large.0.len() < 8 {
                return Err("a zip64 field that is too short");
            }
            *field = large.number(8);
        }
        return Ok(());
    }
    Err("a size of 4 GiB without its zip64 field")
}

fn name<'a>(directory: &'a [u8], entry: &Entry) -> &'a str {
    let (start, len) = (entry.name.0 as usize, usize::from(entry.name.1));
    directory.get(start..start + len).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
}
