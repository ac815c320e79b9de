//! Writing safetensors files as a stream.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use vram_types::{SourceError, SourceErrorKind, TensorMeta};

use crate::catalog::checksums::CHECKSUMS;
use crate::fault::quoted;
use crate::format::json::quote;
use crate::format::safetensors::header::{LENGTH_BYTES, MOST_HEADER_BYTES};
use crate::write::partial::Partial;

/// The tensors' bytes begin at a multiple of this, so that a file's own layout never forces a
/// direct read to copy.
const DATA_ALIGNMENT: usize = 4096;
/// Small writes are gathered up to this many bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes one safetensors file: all tensors are declared first, then their bytes follow in that
/// order.
///
/// Memory is bounded by the header, whatever the tensors' size. The file appears under its name at
/// [`finish`](SafetensorsWriter::finish), complete; a writer that is dropped before leaves nothing
/// behind.
///
/// ```
/// use vram_diskmap::{DiskMap, SafetensorsWriter};
/// use vram_types::{DType, TensorMeta};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("two.safetensors");
/// let tensors = [("a", TensorMeta::new(DType::F32, [2])?), ("b", TensorMeta::new(DType::U8, [3])?)];
/// let mut writer = SafetensorsWriter::create(&path, tensors, &[])?;
/// writer.write(&1f32.to_le_bytes())?;
/// writer.write(&2f32.to_le_bytes())?;
/// writer.write(&[7, 8, 9])?;
/// writer.finish()?;
/// assert_eq!(DiskMap::open(&path)?.get("b")?.bytes(), [7, 8, 9]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SafetensorsWriter {
    pub(crate) out: BufWriter<File>,
    pub(crate) path: PathBuf,
    partial: Partial,
    /// Each tensor and where it ends in the data.
    ends: Vec<(String, u64)>,
    /// The tensor that the next byte belongs to.
    current: usize,
    pub(crate) written: u64,
    total: u64,
    sync: bool,
    pub(crate) checksums: Option<Checksums>,
}

/// Checksums as they come to be, and where in the header they go.
pub(crate) struct Checksums {
    /// Offset in the file of the first one's first digit.
    at: u64,
    current: crc32fast::Hasher,
    done: String,
}

impl Checksums {
    fn tensor_ends(&mut self) {
        let sum = std::mem::take(&mut self.current).finalize();
        let blank = if self.done.is_empty() { "" } else { " " };
        self.done.push_str(&format!("{blank}{sum:08x}"));
    }
}

impl SafetensorsWriter {
    /// Begins a file: writes the header of `tensors`, with `metadata` as its `__metadata__` unless
    /// that is empty.
    ///
    /// # Errors
    /// `Invalid` if a name occurs twice or is `__metadata__`, if sizes overflow, or if the header
    /// is longer than the format allows; `Io`.
    pub fn create<N: Into<String>>(
        path: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = (N, TensorMeta)>,
        metadata: &[(String, String)],
    ) -> Result<SafetensorsWriter, SourceError> {
        let tensors = tensors.into_iter().map(|(name, meta)| (name.into(), meta)).collect();
        SafetensorsWriter::begin(path.as_ref(), tensors, metadata)
    }

    /// The same with a checksum of each tensor in the metadata, which
    /// [`DiskMap::verify`](crate::DiskMap::verify) holds the file to.
    ///
    /// # Errors
    /// As [`create`](SafetensorsWriter::create).
    pub fn create_with_checksums<N: Into<String>>(
        path: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = (N, TensorMeta)>,
        metadata: &[(String, String)],
    ) -> Result<SafetensorsWriter, SourceError> {
        let tensors: Vec<(String, TensorMeta)> =
            tensors.into_iter().map(|(name, meta)| (name.into(), meta)).collect();
        // Zeros until they are known; they come first, so that the place is known.
        let count = tensors.iter().filter(|(_, meta)| meta.bytes() > 0).count();
        let zeros = vec!["00000000"; count].join(" ");
        let mut pairs = vec![(CHECKSUMS.to_owned(), zeros)];
        pairs.extend(metadata.iter().filter(|(key, _)| key != CHECKSUMS).cloned());
        let mut writer = SafetensorsWriter::begin(path.as_ref(), tensors, &pairs)?;
        let before = format!("{{\"__metadata__\":{{\"{CHECKSUMS}\":\"");
        let at = (LENGTH_BYTES + before.len()) as u64;
        writer.checksums = Some(Checksums { at, current: crc32fast::Hasher::new(), done: String::new() });
        Ok(writer)
    }

    fn begin(
        path: &Path,
        tensors: Vec<(String, TensorMeta)>,
        metadata: &[(String, String)],
    ) -> Result<SafetensorsWriter, SourceError> {
        let path = path.to_owned();
        let Header { bytes: header, ends } = header(&tensors, metadata).map_err(|e| e.at_path(&path))?;
        let (file, partial) = Partial::create(&path).map_err(|e| SourceError::io(e).at_path(&path))?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
        out.write_all(&header).map_err(|e| SourceError::io(e).at_path(&path))?;
        let total = ends.last().map_or(0, |(_, end)| *end);
        Ok(SafetensorsWriter {
            out,
            path,
            partial,
            ends,
            current: 0,
            written: 0,
            total,
            sync: false,
            checksums: None,
        })
    }

    /// Makes [`finish`](SafetensorsWriter::finish) wait until the bytes are on the disk.
    #[must_use]
    pub fn sync(mut self, yes: bool) -> SafetensorsWriter {
        self.sync = yes;
        self
    }

    /// Writes the next bytes. A call may end one tensor and begin the next.
    ///
    /// # Errors
    /// `OutOfRange` if the tensors have not so many bytes; `Io`, naming the tensor.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        if bytes.len() as u64 > self.remaining() {
            let message = format!("{} bytes where {} remain", bytes.len(), self.remaining());
            return Err(SourceError::new(SourceErrorKind::OutOfRange, message).at_path(&self.path));
        }
        while self.ends.get(self.current).is_some_and(|(_, end)| *end <= self.written) {
            self.current += 1;
        }
        self.out.write_all(bytes).map_err(|e| {
            let error = SourceError::io(e).at_path(&self.path);
            match self.ends.get(self.current) {
                Some((name, _)) => error.at_tensor(name),
                None => error,
            }
        })?;
        self.sum(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Takes the bytes that are being written into the checksums of their tensors.
    fn sum(&mut self, mut bytes: &[u8]) {
        let Some(checksums) = &mut self.checksums else { return };
        let (mut number, mut at) = (self.current, self.written);
        while let Some((_, end)) = self.ends.get(number) {
            let (part, rest) = bytes.split_at(bytes.len().min((end - at) as usize));
            checksums.current.update(part);
            at += part.len() as u64;
            bytes = rest;
            if at < *end || part.is_empty() && bytes.is_empty() {
                return;
            }
            let begin = number.checked_sub(1).and_then(|n| self.ends.get(n)).map_or(0, |(_, end)| *end);
            if *end > begin {
                checksums.tensor_ends();
            }
            number += 1;
        }
    }

    /// Takes the checksums of bytes that are in their places, sorted by those.
    pub(crate) fn set_sums(&mut self, sums: Vec<(u64, crc32fast::Hasher)>) {
        let Some(checksums) = &mut self.checksums else { return };
        let mut sums = sums.into_iter().peekable();
        let mut begin = 0;
        for (_, end) in &self.ends {
            while let Some((_, sum)) = sums.next_if(|(at, _)| at < end) {
                checksums.current.combine(&sum);
            }
            if *end > begin {
                checksums.tensor_ends();
            }
            begin = *end;
        }
    }

    /// Bytes of tensors that have not been written.
    pub fn remaining(&self) -> u64 {
        self.total - self.written
    }

    /// Completes the file and gives it its name, replacing a file of that name. A symbolic link is
    /// followed.
    ///
    /// # Errors
    /// `Truncated`, naming the tensor, if bytes are missing; `Io`. There is no file then.
    pub fn finish(mut self) -> Result<(), SourceError> {
        if self.remaining() > 0 {
            let next = self.ends.iter().find(|(_, end)| *end > self.written);
            let message = format!("{} bytes have not been written", self.remaining());
            let error = SourceError::new(SourceErrorKind::Truncated, message).at_path(&self.path);
            return Err(error.at_tensor(next.map_or("", |(name, _)| name)));
        }
        self.give_name().map_err(|e| SourceError::io(e).at_path(&self.path))
    }

    fn give_name(&mut self) -> std::io::Result<()> {
        self.out.flush()?;
        if let Some(checksums) = &self.checksums {
            let file = self.out.get_mut();
            file.seek(SeekFrom::Start(checksums.at))?;
            file.write_all(checksums.done.as_bytes())?;
        }
        if self.sync {
            self.out.get_ref().sync_all()?;
        }
        self.partial.give_name()
    }
}

impl fmt::Debug for SafetensorsWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SafetensorsWriter")
            .field("path", &self.path)
            .field("tensors", &self.ends.len())
            .field("written", &self.written)
            .field("total", &self.total)
            .finish()
    }
}

/// The bytes of a safetensors file before its data, for a file that is written to somewhere that
/// is not a file: a pipe, a buffer. The tensors' bytes follow in the same order.
///
/// # Errors
/// As [`SafetensorsWriter::create`], short of `Io`.
pub fn safetensors_header<N: Into<String>>(
    tensors: impl IntoIterator<Item = (N, TensorMeta)>,
    metadata: &[(String, String)],
) -> Result<Vec<u8>, SourceError> {
    let tensors: Vec<(String, TensorMeta)> =
        tensors.into_iter().map(|(name, meta)| (name.into(), meta)).collect();
    Ok(header(&tensors, metadata)?.bytes)
}

/// The bytes before the data.
struct Header {
    bytes: Vec<u8>,
    /// Each tensor and where it ends in the data.
    ends: Vec<(String, u64)>,
}

fn header(tensors: &[(String, TensorMeta)], metadata: &[(String, String)]) -> Result<Header, SourceError> {
    let invalid = |message: String| SourceError::new(SourceErrorKind::Invalid, message);
    let mut json = String::from("{");
    if !metadata.is_empty() {
        let mut seen = HashSet::new();
        json.push_str("\"__metadata__\":{");
        for (key, value) in metadata {
            if !seen.insert(key) {
                return Err(invalid(format!("the metadata has {} twice", quoted(key))));
            }
            quote(&mut json, key);
            json.push(':');
            quote(&mut json, value);
            json.push(',');
        }
        json.pop();
        json.push_str("},");
    }
    let mut seen = HashSet::new();
    let mut ends = Vec::with_capacity(tensors.len());
    let mut begin = 0u64;
    for (name, meta) in tensors {
        let at = |message: &str| invalid(message.to_owned()).at_tensor(name);
        if name == "__metadata__" || !seen.insert(name) {
            return Err(at("the name is taken"));
        }
        let end = begin.checked_add(meta.bytes()).ok_or_else(|| at("all tensors together are too large"))?;
        quote(&mut json, name);
        let dims: Vec<String> = meta.shape().iter().map(ToString::to_string).collect();
        json.push_str(&format!(
            ":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{begin},{end}]}},",
            meta.dtype().name(),
            dims.join(",")
        ));
        ends.push((name.clone(), end));
        begin = end;
    }
    if json.ends_with(',') {
        json.pop();
    }
    json.push('}');
    let bytes = (LENGTH_BYTES + json.len()).next_multiple_of(DATA_ALIGNMENT) - LENGTH_BYTES;
    if bytes as u64 > MOST_HEADER_BYTES {
        return Err(invalid(format!("a header of {bytes} bytes; the format allows {MOST_HEADER_BYTES}")));
    }
    let mut header = (bytes as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header.resize(LENGTH_BYTES + bytes, b' ');
    Ok(Header { bytes: header, ends })
}
