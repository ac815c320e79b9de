//! Copying tensors of any source into new safetensors files.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use vram_types::{
    CancelToken, DType, ReadOptions, SourceError, SourceErrorKind, WeightSource, WeightSourceExt,
};

use crate::catalog::checksums::CHECKSUMS;
use crate::format::json::quote;
use crate::write::beside::Beside;
use crate::write::copying::{Copying, Way};
use crate::write::fill::{NewFile, NewTensor, write_brought};
use crate::write::partial::write_file;

/// A tensor is out of proportion to its storage if it has at least so many bytes, and so many for
/// each byte that they are read from.
const EXPANDED: (u64, u64) = (16 << 20, 16);
/// Threads that read, unless another number is asked for.
const READERS: usize = 6;
/// Copies tensors of a source into a new safetensors file, or several with an index; cast if
/// asked.
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
    expanded: bool,
    skip_unreadable: bool,
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
    /// Tensors that are not in the copy, because weights whose companions they are were decoded:
    /// scales that were applied, and what else was beside those weights.
    pub applied: Vec<String>,
    /// Tensors that cannot be read and are not in the copy, as
    /// [`skip_unreadable`](Extract::skip_unreadable) allowed, each with the reason.
    pub unreadable: Vec<(String, String)>,
}

impl<'a> Extract<'a> {
    /// Of all tensors of `source`, in its order, without metadata, read by six threads.
    pub fn new(source: &'a dyn WeightSource) -> Extract<'a> {
        let (metadata, threads) = (Vec::new(), READERS);
        Extract {
            source,
            names: None,
            dtype: None,
            metadata,
            threads,
            shard_bytes: None,
            checksums: false,
            expanded: false,
            skip_unreadable: false,
        }
    }

    /// Only these tensors, in this order.
    #[must_use]
    pub fn names(mut self, names: impl IntoIterator<Item = &'a str>) -> Extract<'a> {
        self.names = Some(names.into_iter().collect());
        self
    }

    /// Casts floating-point tensors, and decodes weights that need tensors beside them: fp8 and
    /// int8 with scales per tensor, row or block, bitsandbytes' int8, nf4 and fp4. Their
    /// companions are then not copied; a weight that has the dtype already stays with them as it
    /// is. A weight with companions that cannot be decoded, or that nothing here understands, is
    /// an error.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Extract<'a> {
        self.dtype = Some(dtype);
        self
    }

    /// The `__metadata__` of every file that is written; checksums of the files that are read are
    /// left out.
    #[must_use]
    pub fn metadata(mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Extract<'a> {
        self.metadata = pairs.into_iter().filter(|(key, _)| key != CHECKSUMS).collect();
        self
    }

    /// How many threads read. As many others as the machine runs at once, eight at most, cast and
    /// write.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Extract<'a> {
        self.threads = threads;
        self
    }

    /// Begins another file where a tensor would make one longer than this; a tensor is never
    /// split.
    #[must_use]
    pub fn shard_bytes(mut self, most: u64) -> Extract<'a> {
        self.shard_bytes = Some(most);
        self
    }

    /// Writes a checksum of each tensor, which [`DiskMap::verify`](crate::DiskMap::verify) holds
    /// the file to.
    #[must_use]
    pub fn checksums(mut self, yes: bool) -> Extract<'a> {
        self.checksums = yes;
        self
    }

    /// Writes tensors that are out of proportion to their storage as well: whose elements are
    /// repeated (by a stride of 0), so that they have 16 MiB or more and sixteen times the bytes
    /// that they are read from. A file of a few bytes can hold one of terabytes.
    #[must_use]
    pub fn allow_expanded(mut self, yes: bool) -> Extract<'a> {
        self.expanded = yes;
        self
    }

    /// Copies what can be read where the source has tensors that cannot be
    /// ([`DiskMap::unreadable`](crate::DiskMap::unreadable)); [`Extracted::unreadable`] says which
    /// are not in the copy.
    #[must_use]
    pub fn skip_unreadable(mut self, yes: bool) -> Extract<'a> {
        self.skip_unreadable = yes;
        self
    }

    /// The files that [`run`](Extract::run) would write.
    ///
    /// # Errors
    /// As [`run`](Extract::run), short of what reading and writing add.
    pub fn files(&self, out: &Path) -> Result<Vec<PathBuf>, SourceError> {
        let plan = self.plan(out, &ReadOptions::BLOCKING)?;
        Ok(plan.files.into_iter().map(|file| file.path).collect())
    }

    /// Bytes of all tensors that [`run`](Extract::run) would write.
    ///
    /// # Errors
    /// As [`files`](Extract::files).
    pub fn bytes(&self) -> Result<u64, SourceError> {
        Ok(self.plan(Path::new(""), &ReadOptions::BLOCKING)?.bytes())
    }

    /// Copies. Memory is bounded: 2 MiB for each thread that reads, and 5 MiB for each that
    /// writes, whatever the tensors' size. `progress` is told after each piece. Files appear under
    /// their names when all are complete, and may even be files of the source.
    ///
    /// # Errors
    /// `NotFound` for a name that the source has not; `Unsupported` for a tensor that cannot be
    /// read, named or, unless [skipped](Extract::skip_unreadable), one of all, for an
    /// [expanded](Extract::allow_expanded) one, where there is no cast, or
    /// where a weight has companions that cannot be applied, naming one; the errors of the source
    /// and of [`SafetensorsWriter`](crate::SafetensorsWriter); `Cancelled`. Nothing is written
    /// then.
    pub fn run(
        &self,
        out: &Path,
        cancel: &CancelToken,
        progress: &mut dyn FnMut(ExtractProgress<'_>),
    ) -> Result<Extracted, SourceError> {
        let options = ReadOptions::default().with_cancel(cancel);
        let plan = self.plan(out, &options)?;
        let bytes_total = plan.bytes();
        let Plan { files, ways, applied, unreadable } = plan;
        let align = usize::try_from(self.source.alignment()).unwrap_or(1).max(1);
        let (source, tensors) = (self.source, ways.len());
        let copying = Copying { source, ways, align, options };
        let mut bytes_done = 0;
        write_brought(&files, self.threads, cancel, &copying, &mut |tensor, bytes| {
            bytes_done += bytes;
            progress(ExtractProgress { tensor: &tensor.name, bytes_done, bytes_total });
        })?;
        let output = if self.shard_bytes.is_some() { write_index(out, &files)? } else { out.to_owned() };
        let files = files.into_iter().map(|file| file.path).collect();
        Ok(Extracted { output, files, tensors, bytes: bytes_total, applied, unreadable })
    }

    fn plan(&self, out: &Path, options: &ReadOptions) -> Result<Plan<'_>, SourceError> {
        let names = match &self.names {
            Some(names) => names.clone(),
            None => self.source.names().collect(),
        };
        let unreadable = self.unreadable(&names)?;
        let beside = Beside::new(self.source, &names, self.dtype)?;
        let mut ways = HashMap::with_capacity(names.len());
        let mut shards: Vec<Vec<NewTensor>> = vec![Vec::new()];
        let mut held = 0u64;
        let mut applied = Vec::new();
        for name in names {
            if beside.is_left_out(name) {
                applied.push(name.to_owned());
                continue;
            }
            self.proportionate(name)?;
            let way = beside.way(self.source, name, options)?;
            let full = self.shard_bytes.is_some_and(|most| held.saturating_add(way.to.bytes()) > most);
            if full && held > 0 {
                shards.push(Vec::new());
                held = 0;
            }
            held = held.saturating_add(way.to.bytes());
            if let Some(shard) = shards.last_mut() {
                shard.push(NewTensor { name: name.to_owned(), meta: way.to.clone() });
            }
            ways.insert(name, way);
        }
        let count = shards.len();
        let files = shards.into_iter().enumerate().map(|(i, tensors)| NewFile {
            path: self.shard_bytes.map_or(out.to_owned(), |_| shard_path(out, i, count)),
            tensors,
            metadata: self.metadata.clone(),
            checksums: self.checksums,
        });
        Ok(Plan { files: files.collect(), ways, applied, unreadable })
    }

    /// The tensors that cannot be read and are skipped.
    fn unreadable(&self, names: &[&str]) -> Result<Vec<(String, String)>, SourceError> {
        if self.names.is_some() {
            // The source says why there is none of that name, or why it cannot be read.
            let there = |name: &&&str| self.source.locate(name).is_none();
            return match names.iter().find(there) {
                Some(name) => self.source.read_range(name, 0..0, &mut []).map(|()| Vec::new()),
                None => Ok(Vec::new()),
            };
        }
        let unreadable = self.source.unreadable_tensors();
        match unreadable.first() {
            Some((name, why)) if !self.skip_unreadable => {
                let more = match unreadable.len() - 1 {
                    0 => String::new(),
                    more => format!(", and {more} more of the source cannot be read"),
                };
                let message = format!("cannot be read: {why}{more} (accepted with `skip_unreadable`)");
                Err(SourceError::new(SourceErrorKind::Unsupported, message).at_tensor(name))
            }
            _ => Ok(unreadable),
        }
    }

    /// Fails for a tensor that is far longer than what it is read from.
    fn proportionate(&self, name: &str) -> Result<(), SourceError> {
        let (least, times) = EXPANDED;
        let (Some(stored), Some(located)) = (self.source.stored_bytes(name), self.source.locate(name)) else {
            return Ok(());
        };
        let bytes = located.meta.bytes();
        if self.expanded || bytes < least || bytes / times < stored {
            return Ok(());
        }
        let message =
            format!("its {bytes} bytes repeat {stored} of the file (accepted with `allow_expanded`)");
        Err(SourceError::new(SourceErrorKind::Unsupported, message).at_tensor(name))
    }
}

/// What is to be written, and how it comes.
struct Plan<'a> {
    files: Vec<NewFile>,
    ways: HashMap<&'a str, Way>,
    /// Tensors that belong to others and are not copied.
    applied: Vec<String>,
    unreadable: Vec<(String, String)>,
}

impl Plan<'_> {
    fn bytes(&self) -> u64 {
        self.files.iter().map(NewFile::tensor_bytes).fold(0, u64::saturating_add)
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
            .field("expanded", &self.expanded)
            .field("skip_unreadable", &self.skip_unreadable)
            .finish_non_exhaustive()
    }
}

/// Copies the tensors called `names` into the one file `out`: [`Extract`] with everything else as
/// usual. Returns the bytes of tensors written.
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
    write_file(&path, json.as_bytes())?;
    Ok(path)
}
