//! Copying tensors of any source into new safetensors files.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use vram_types::{
    CancelToken, DType, Priority, ReadRequest, ReadTarget, SourceError, SourceErrorKind, TensorMeta,
    WeightSource, WeightSourceExt,
};

use crate::convert;
use crate::fill::{Making, NewFile, NewTensor, PIECE_UNIT, room, write_brought};
use crate::io::{Aligned, HUGE_PAGE};
use crate::write::{CHECKSUMS, quote, write_whole};

/// Threads that read, unless another number is asked for.
const READERS: usize = 6;
/// Bytes that are read at a time: they fit a huge page with the sectors at their ends, and those of all threads the processor's
/// caches.
const READ_BYTES: u64 = PIECE_UNIT * 84;

/// Copies tensors of a source into a new safetensors file, or several with an index; cast if asked.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("in.safetensors");
/// # let meta = vram_types::TensorMeta::new(vram_types::DType::F32, [2])?;
/// # let mut writer = vram_diskmap::SafetensorsWriter::create(&path, [("a", meta)], &[])?;
/// # writer.write(&[0; 8])?;
/// # writer.finish()?;
/// use vram_diskmap::{DiskMap, Extract};
/// use vram_types::{CancelToken, DType};
///
/// let map = DiskMap::open(&path)?;
/// let out = folder.path().join("out.safetensors");
/// Extract::new(&map).dtype(DType::BF16).run(&out, &CancelToken::new(), &mut |_| {})?;
/// assert_eq!(DiskMap::open(&out)?.tensor("a").unwrap().dtype(), DType::BF16);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Extract<'a> {
    source: &'a dyn WeightSource,
    names: Option<Vec<&'a str>>,
    dtype: Option<DType>,
    metadata: Vec<(String, String)>,
    threads: usize,
    shard_bytes: Option<u64>,
    checksums: bool,
}

/// How far an [`Extract`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtractProgress<'a> {
    /// The tensor that is being copied.
    pub tensor: &'a str,
    /// Bytes written so far, of all tensors.
    pub bytes_done: u64,
    /// Bytes that will be written.
    pub bytes_total: u64,
}

/// What an [`Extract`] has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// What to open: the file, or the index of the shards.
    pub output: PathBuf,
    /// The safetensors files.
    pub files: Vec<PathBuf>,
    /// How many tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// A tensor on its way: as it is, and as it is written.
struct Way {
    from: TensorMeta,
    to: TensorMeta,
    /// Where in a file it begins, if it lies there as it is.
    place: Option<u64>,
}

/// How the pieces of a copy come from its source.
struct Copying<'a> {
    source: &'a dyn WeightSource,
    ways: HashMap<&'a str, Way>,
    align: usize,
    cancel: &'a CancelToken,
}

/// Bytes as the source has them, and where they are in memory that begins at a multiple of a sector.
#[derive(Default)]
struct Stored {
    memory: Option<Aligned>,
    at: Range<usize>,
}

impl Stored {
    /// Room for whole sectors, in one huge page where the system has them.
    fn room(&mut self, bytes: usize, align: usize) -> &mut [u8] {
        let (len, align) = (bytes.max(HUGE_PAGE), align.max(HUGE_PAGE));
        if self.memory.as_ref().is_none_or(|memory| !memory.fits(len, align)) {
            self.memory = None;
        }
        &mut self.memory.get_or_insert_with(|| Aligned::new(len, align)).bytes_mut()[..bytes]
    }

    fn bytes(&self) -> &[u8] {
        self.memory.as_ref().and_then(|memory| memory.bytes().get(self.at.clone())).unwrap_or_default()
    }
}

impl Copying<'_> {
    fn way(&self, tensor: &NewTensor) -> Result<&Way, SourceError> {
        self.ways.get(tensor.name.as_str()).ok_or_else(|| {
            SourceError::new(SourceErrorKind::NotFound, "not a tensor of this copy").at_tensor(&tensor.name)
        })
    }
}

impl Making for Copying<'_> {
    type Memory = Stored;

    fn most(&self, tensor: &NewTensor) -> u64 {
        // As many elements as `READ_BYTES` of the wider side hold.
        let Ok(Way { from, to, .. }) = self.way(tensor) else { return PIECE_UNIT };
        let bits = |meta: &TensorMeta| u64::from(meta.dtype().bits());
        let bytes = READ_BYTES * bits(to) / bits(from).max(bits(to)).max(1);
        (bytes / PIECE_UNIT * PIECE_UNIT).max(PIECE_UNIT)
    }

    fn bring(
        &self,
        tensor: &NewTensor,
        at: u64,
        bytes: usize,
        memory: &mut Stored,
    ) -> Result<(), SourceError> {
        let (way, name) = (self.way(tensor)?, &tensor.name);
        let (from, to) = (way.from.dtype(), way.to.dtype());
        // Pieces are whole elements, so both sides have them.
        let elements =
            |bytes: u64| bytes / u64::from(to.layout().block_bytes) * u64::from(to.layout().block_elements);
        let stored = |bytes: u64| match from == to {
            true => bytes,
            false => from.bytes_of(elements(bytes)).unwrap_or(way.from.bytes()),
        };
        let (begin, end) = (stored(at), stored(at + bytes as u64));
        let len = (end - begin) as usize;
        // Congruent to the file, with room for whole sectors: a direct read then goes straight to where it is cast from.
        let skip = way.place.map_or(0, |place| ((place + begin) % self.align as u64) as usize);
        let room = memory.room((skip + len).next_multiple_of(self.align), self.align);
        let target = ReadTarget::Tensor { name, offset: begin };
        let request = ReadRequest { target, bytes: len as u64, dst: room, at: skip };
        self.source.read_many(&mut [request], Priority::Urgent, self.cancel)?;
        memory.at = skip..skip + len;
        Ok(())
    }

    fn make<'m>(
        &self,
        tensor: &NewTensor,
        bytes: usize,
        brought: &'m Stored,
        own: &'m mut Vec<u8>,
    ) -> Result<&'m [u8], SourceError> {
        let way = self.way(tensor)?;
        let (from, to) = (way.from.dtype(), way.to.dtype());
        if from == to {
            return Ok(brought.bytes());
        }
        let piece = room(own, bytes);
        convert::cast(brought.bytes(), from, piece, to).map_err(|e| {
            SourceError::new(SourceErrorKind::Unsupported, e.to_string()).at_tensor(&tensor.name)
        })?;
        Ok(piece)
    }
}

impl<'a> Extract<'a> {
    /// Of all tensors of `source`, in its order, without metadata, read by six threads.
    pub fn new(source: &'a dyn WeightSource) -> Extract<'a> {
        let (metadata, threads) = (Vec::new(), READERS);
        Extract { source, names: None, dtype: None, metadata, threads, shard_bytes: None, checksums: false }
    }

    /// Only these tensors, in this order.
    #[must_use]
    pub fn names(mut self, names: impl IntoIterator<Item = &'a str>) -> Extract<'a> {
        self.names = Some(names.into_iter().collect());
        self
    }

    /// Casts floating-point tensors.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Extract<'a> {
        self.dtype = Some(dtype);
        self
    }

    /// The `__metadata__` of every file that is written; checksums of the files that are read are left out.
    #[must_use]
    pub fn metadata(mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Extract<'a> {
        self.metadata = pairs.into_iter().filter(|(key, _)| key != CHECKSUMS).collect();
        self
    }

    /// How many threads read. As many others as the machine runs at once, eight at most, cast and write.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Extract<'a> {
        self.threads = threads;
        self
    }

    /// Begins another file where a tensor would make one longer than this; a tensor is never split.
    #[must_use]
    pub fn shard_bytes(mut self, most: u64) -> Extract<'a> {
        self.shard_bytes = Some(most);
        self
    }

    /// Writes a checksum of each tensor, which [`DiskMap::verify`](crate::DiskMap::verify) holds the file to.
    #[must_use]
    pub fn checksums(mut self, yes: bool) -> Extract<'a> {
        self.checksums = yes;
        self
    }

    /// The files that [`run`](Extract::run) would write.
    ///
    /// # Errors
    /// As [`run`](Extract::run), short of what reading and writing add.
    pub fn files(&self, out: &Path) -> Result<Vec<PathBuf>, SourceError> {
        Ok(self.plan(out)?.0.into_iter().map(|file| file.path).collect())
    }

    /// Copies. Memory is bounded: 2 MiB for each thread that reads, and 5 MiB for each that writes, whatever the tensors' size. `progress` is told after each
    /// piece. Files appear under their names when all are complete, and may even be files of the source.
    ///
    /// # Errors
    /// `NotFound` for a name that the source has not; `Unsupported` where there is no cast; the errors of the source and of
    /// [`SafetensorsWriter`](crate::SafetensorsWriter); `Cancelled`. Nothing is written then.
    pub fn run(
        &self,
        out: &Path,
        cancel: &CancelToken,
        progress: &mut dyn FnMut(ExtractProgress<'_>),
    ) -> Result<Extracted, SourceError> {
        let (files, ways) = self.plan(out)?;
        let bytes_total = files.iter().map(NewFile::tensor_bytes).fold(0, u64::saturating_add);
        let align = usize::try_from(self.source.alignment()).unwrap_or(1).max(1);
        let (source, tensors) = (self.source, ways.len());
        let copying = Copying { source, ways, align, cancel };
        let mut bytes_done = 0;
        write_brought(&files, self.threads, cancel, &copying, &mut |tensor, bytes| {
            bytes_done += bytes;
            progress(ExtractProgress { tensor: &tensor.name, bytes_done, bytes_total });
        })?;
        let output = if self.shard_bytes.is_some() { write_index(out, &files)? } else { out.to_owned() };
        let files = files.into_iter().map(|file| file.path).collect();
        Ok(Extracted { output, files, tensors, bytes: bytes_total })
    }

    fn plan(&self, out: &Path) -> Result<(Vec<NewFile>, HashMap<&str, Way>), SourceError> {
        let names = match &self.names {
            Some(names) => names.clone(),
            None => self.source.names().collect(),
        };
        let mut ways = HashMap::with_capacity(names.len());
        let mut shards: Vec<Vec<NewTensor>> = vec![Vec::new()];
        let mut held = 0u64;
        for name in names {
            let located = self.source.require(name)?;
            let place = match located.ranges.as_slice() {
                [only] => Some(only.offset),
                _ => None,
            };
            let from = located.meta;
            let to = target(&from, self.dtype).map_err(|e| e.at_tensor(name))?;
            let full = self.shard_bytes.is_some_and(|most| held.saturating_add(to.bytes()) > most);
            if full && held > 0 {
                shards.push(Vec::new());
                held = 0;
            }
            held = held.saturating_add(to.bytes());
            if let Some(shard) = shards.last_mut() {
                shard.push(NewTensor { name: name.to_owned(), meta: to.clone() });
            }
            ways.insert(name, Way { from, to, place });
        }
        let count = shards.len();
        let files = shards.into_iter().enumerate().map(|(i, tensors)| NewFile {
            path: self.shard_bytes.map_or(out.to_owned(), |_| shard_path(out, i, count)),
            tensors,
            metadata: self.metadata.clone(),
            checksums: self.checksums,
        });
        Ok((files.collect(), ways))
    }
}

impl std::fmt::Debug for Extract<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extract")
            .field("names", &self.names.as_ref().map(Vec::len))
            .field("dtype", &self.dtype)
            .field("threads", &self.threads)
            .field("shard_bytes", &self.shard_bytes)
            .field("checksums", &self.checksums)
            .finish_non_exhaustive()
    }
}

/// Copies the tensors called `names` into the one file `out`: [`Extract`] with everything else as usual. Returns the bytes of
/// tensors written.
///
/// # Errors
/// As [`Extract::run`].
pub fn extract(
    source: &dyn WeightSource,
    names: &[&str],
    dtype: Option<DType>,
    out: &Path,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(ExtractProgress<'_>),
) -> Result<u64, SourceError> {
    let extract = Extract { dtype, ..Extract::new(source).names(names.iter().copied()) };
    Ok(extract.run(out, cancel, progress)?.bytes)
}

/// `model.safetensors`, number 0 of 3, is `model-00001-of-00003.safetensors`.
fn shard_path(out: &Path, number: usize, count: usize) -> PathBuf {
    let stem = out.file_stem().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!("{stem}-{:05}-of-{count:05}.safetensors", number + 1))
}

/// Writes `model.safetensors.index.json` beside the shards.
fn write_index(out: &Path, files: &[NewFile]) -> Result<PathBuf, SourceError> {
    let total: u64 = files.iter().map(NewFile::tensor_bytes).fold(0, u64::saturating_add);
    let mut json = format!("{{\n  \"metadata\": {{\"total_size\": {total}}},\n  \"weight_map\": {{");
    let mut comma = "";
    for file in files {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        for tensor in &file.tensors {
            let _ = write!(json, "{comma}\n    ");
            quote(&mut json, &tensor.name);
            json.push_str(": ");
            quote(&mut json, &name);
            comma = ",";
        }
    }
    json.push_str("\n  }\n}\n");
    let path = out.with_extension("safetensors.index.json");
    write_whole(&path, json.as_bytes())?;
    Ok(path)
}

/// Dtype and shape after the cast; only floating-point tensors are cast.
fn target(from: &TensorMeta, dtype: Option<DType>) -> Result<TensorMeta, SourceError> {
    let to = match dtype {
        Some(to) if from.dtype().is_float() => to,
        _ => from.dtype(),
    };
    if !convert::converts(from.dtype(), to) {
        let message = format!("there is no conversion from {} to {to}", from.dtype());
        return Err(SourceError::new(SourceErrorKind::Unsupported, message));
    }
    TensorMeta::new(to, from.shape().clone())
        .map_err(|e| SourceError::new(SourceErrorKind::Unsupported, e.to_string()).caused_by(e))
}
