//! Opening: from paths to a [`DiskMap`].

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use vram_types::{DType, FileId, SourceError, SourceErrorKind, TensorMeta};

use crate::checksums::{self, Checksums};
use crate::contents::Unreadable;
use crate::convert;
use crate::diskmap::{DiskMap, TensorInfo};
use crate::fault::{Fault, quoted};
use crate::folder::{Folder, in_folder};
use crate::format::{self, Reading};
use crate::header::MOST_HEADER_BYTES;
use crate::index::Index;
use crate::io::{Pool, ReadAt, ReadMode, ReadQueue, StoredFile, Wrap};
use crate::names::{Names, Table, count};
use crate::strides::Strides;

/// How a [`DiskMap`] is opened.
#[derive(Default)]
pub struct DiskMapOptions {
    mode: ReadMode,
    dtype: Option<DType>,
    reading: Reading,
    queue: Option<Arc<ReadQueue>>,
    wrap: Option<Wrap>,
}

impl DiskMapOptions {
    /// How tensors' bytes are read.
    #[must_use]
    pub fn read(mut self, mode: ReadMode) -> DiskMapOptions {
        self.mode = mode;
        self
    }

    /// Stands in this line instead of the [process's](ReadQueue::process).
    #[must_use]
    pub fn queue(mut self, queue: Arc<ReadQueue>) -> DiskMapOptions {
        self.queue = Some(queue);
        self
    }

    /// Puts something between the map and its files: all reads, of headers too, go through what `wrap` makes of each file.
    /// It is asked once for each way in which a file is opened, through the page cache and past it.
    #[must_use]
    pub fn read_through(
        mut self,
        wrap: impl Fn(&Path, Box<dyn ReadAt>) -> Box<dyn ReadAt> + Send + Sync + 'static,
    ) -> DiskMapOptions {
        self.wrap = Some(Arc::new(wrap));
        self
    }

    /// Converts floating-point tensors to `dtype` while they are read; others keep theirs.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> DiskMapOptions {
        self.dtype = Some(dtype);
        self
    }

    /// Lets pass what real safetensors files get wrong and what leaves no doubt about any tensor: bytes after the last
    /// tensor, holes between tensors, blanks before the header. Each is reported by [`DiskMap::leniencies`].
    #[must_use]
    pub fn lenient(mut self, yes: bool) -> DiskMapOptions {
        self.reading.lenient = yes;
        self
    }

    /// Gives quantised tensors of GGUF files as their raw blocks: `U8`, the innermost extent in bytes.
    #[must_use]
    pub fn raw_blocks(mut self, yes: bool) -> DiskMapOptions {
        self.reading.raw_blocks = yes;
        self
    }

    /// Opens a file, an index or a folder; see [`DiskMap::open`].
    ///
    /// # Errors
    /// As [`DiskMap::open`]; `Unsupported` also where a tensor has no conversion to the dtype asked for.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<DiskMap, SourceError> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(|e| SourceError::io(e).at_path(path))?;
        if meta.is_dir() {
            return match in_folder(path)? {
                Folder::Index(index) => self.open_index(&index),
                Folder::Files(files) => self.open_files(files),
            };
        }
        match path.extension() {
            Some(extension) if extension == "json" => self.open_index(path),
            _ => self.open_files([path]),
        }
    }

    /// Opens a list of files as one map; see [`DiskMap::open_files`].
    ///
    /// # Errors
    /// As [`DiskMapOptions::open`].
    pub fn open_files<P: AsRef<Path>>(
        &self,
        paths: impl IntoIterator<Item = P>,
    ) -> Result<DiskMap, SourceError> {
        let mut loading = self.loading();
        for path in paths {
            loading.file(path.as_ref())?;
        }
        self.finish(loading)
    }

    /// Opens and maps the files into memory; see [`DiskMap::open_mapped`].
    ///
    /// # Safety
    /// As [`DiskMap::open_mapped`]: nobody changes the files while the map lives.
    ///
    /// # Errors
    /// As [`DiskMapOptions::open`].
    pub unsafe fn open_mapped(&self, path: impl AsRef<Path>) -> Result<DiskMap, SourceError> {
        let mut map = self.open(path)?;
        for file in &mut map.files {
            // SAFETY: the caller's promise is the same.
            unsafe { file.set_map() }?;
        }
        Ok(map)
    }

    fn open_index(&self, path: &Path) -> Result<DiskMap, SourceError> {
        let file = StoredFile::open(path, self.mode, self.wrap.as_ref())?;
        let invalid = |f: Fault| f.into_error().at_path(path);
        if file.bytes() > MOST_HEADER_BYTES {
            let message = format!("an index of {} bytes; at most {MOST_HEADER_BYTES} are read", file.bytes());
            return Err(SourceError::new(SourceErrorKind::Invalid, message).at_path(path));
        }
        let mut json = vec![0; file.bytes() as usize];
        file.read_plain(&mut json, 0)?;
        let index = Index::parse(&json).map_err(invalid)?;
        let mut loading = Loading { bytes_read: json.len() as u64, ..self.loading() };
        drop(json);
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in index.files() {
            let from = loading.tensors.len();
            loading.file(&folder.join(file))?;
            loading.belongs(from, file, &index)?;
        }
        if loading.tensors.len() != index.len() {
            loading.missing(path, &index)?;
        }
        self.finish(loading)
    }

    fn loading(&self) -> Loading {
        let (mode, reading, wrap) = (self.mode, self.reading, self.wrap.clone());
        Loading { mode, reading, wrap, ..Loading::default() }
    }

    fn finish(&self, mut loading: Loading) -> Result<DiskMap, SourceError> {
        let table = loading.table()?;
        loading.unreadable_twice(&table)?;
        if let Some(to) = self.dtype {
            loading.convert(to)?;
        }
        loading.tensors.shrink_to_fit();
        loading.names.shrink();
        let Loading {
            files,
            metadata,
            tensors,
            strides,
            unreadable,
            lenient,
            checksums,
            names,
            bytes_read,
            ..
        } = loading;
        let bytes_read = AtomicU64::new(bytes_read);
        let (mode, pool) = (self.mode, Pool::default());
        let queue = self.queue.clone().unwrap_or_else(ReadQueue::process);
        Ok(DiskMap {
            files,
            metadata,
            tensors,
            strides,
            unreadable,
            lenient,
            checksums,
            names,
            table,
            mode,
            pool,
            queue,
            bytes_read,
        })
    }
}

impl fmt::Debug for DiskMapOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskMapOptions")
            .field("read", &self.mode)
            .field("dtype", &self.dtype)
            .field("reading", &self.reading)
            .field("reads_through", &self.wrap.is_some())
            .finish_non_exhaustive()
    }
}

/// A map that is being put together.
#[derive(Default)]
struct Loading {
    files: Vec<StoredFile>,
    metadata: Vec<Box<str>>,
    tensors: Vec<TensorInfo>,
    strides: Vec<Strides>,
    unreadable: Vec<Unreadable>,
    lenient: Vec<String>,
    checksums: Checksums,
    names: Names,
    mode: ReadMode,
    reading: Reading,
    wrap: Option<Wrap>,
    bytes_read: u64,
}

impl Loading {
    /// Opens a file and reads what it says of its tensors.
    fn file(&mut self, path: &Path) -> Result<(), SourceError> {
        let file = StoredFile::open(path, self.mode, self.wrap.as_ref())?;
        let id = FileId(self.files.len() as u32);
        let mut contents = format::read(&file, id, self.reading, &mut self.names)?;
        checksums::collect(&contents.metadata, id, &contents.tensors, &mut self.checksums)
            .map_err(|f| f.into_error().at_path(path))?;
        if !self.strides.is_empty() {
            let before = self.strides.len();
            for info in &mut contents.tensors {
                if let Some(number) = info.strides {
                    let after = number.after(before).map_err(|f| f.into_error().at_path(path))?;
                    info.strides = Some(after);
                }
            }
        }
        if self.tensors.is_empty() {
            self.tensors = contents.tensors;
        } else {
            self.tensors.append(&mut contents.tensors);
        }
        self.strides.append(&mut contents.strides);
        self.unreadable.append(&mut contents.unreadable);
        self.lenient.extend(contents.lenient.iter().map(|what| format!("{}: {what}", path.display())));
        self.metadata.push(contents.metadata);
        self.files.push(file);
        self.bytes_read += contents.bytes_read;
        Ok(())
    }

    /// Fails if a tensor that cannot be read has the name of one that can, or of another.
    fn unreadable_twice(&self, table: &Table) -> Result<(), SourceError> {
        let mut seen = std::collections::HashSet::new();
        for tensor in &self.unreadable {
            let name = self.names.get(tensor.name);
            if !seen.insert(name) || table.find(name, |i| self.name(i)).is_some() {
                let message = "there is another tensor of this name";
                return Err(SourceError::new(SourceErrorKind::Invalid, message)
                    .at_path(self.files[tensor.file.0 as usize].path())
                    .at_tensor(name));
            }
        }
        Ok(())
    }

    /// The table of all names; an error if two are equal.
    fn table(&self) -> Result<Table, SourceError> {
        let numbers = count(self.tensors.len()).map_err(Fault::into_error)?;
        Table::build(numbers, |i| self.name(i)).map_err(|(first, second)| {
            let (a, b) = (&self.tensors[first as usize], &self.tensors[second as usize]);
            let path = |info: &TensorInfo| self.files[info.file.0 as usize].path();
            let message = match a.file == b.file {
                true => "the file has a tensor of this name twice".to_owned(),
                false => format!("{} has a tensor of the same name", path(a).display()),
            };
            SourceError::new(SourceErrorKind::Invalid, message)
                .at_path(path(b))
                .at_tensor(self.name(second))
                .at_offset(u64::from(a.named_at.max(b.named_at)))
        })
    }

    fn convert(&mut self, to: DType) -> Result<(), SourceError> {
        for info in &mut self.tensors {
            if !info.stored.is_float() || info.stored == to {
                continue;
            }
            let at = |e: SourceError| {
                e.at_path(self.files[info.file.0 as usize].path()).at_tensor(self.names.get(info.name))
            };
            let unsupported = |message| at(SourceError::new(SourceErrorKind::Unsupported, message));
            if !convert::converts(info.stored, to) {
                return Err(unsupported(format!("there is no conversion from {} to {to}", info.stored)));
            }
            info.meta =
                TensorMeta::new(to, info.meta.shape().clone()).map_err(|e| unsupported(e.to_string()))?;
        }
        Ok(())
    }

    /// Checks the tensors of the file that was read last, from number `from` on, against the index.
    fn belongs(&self, from: usize, file: &str, index: &Index) -> Result<(), SourceError> {
        for number in from..self.tensors.len() {
            let name = self.name(number as u32);
            let message = match index.file_of(name) {
                Some(of) if of == file => continue,
                Some(of) => format!("the index says that this tensor is in {}", quoted(of)),
                None => "the index does not name this tensor".to_owned(),
            };
            let info = &self.tensors[number];
            return Err(SourceError::new(SourceErrorKind::Invalid, message)
                .at_path(self.files[info.file.0 as usize].path())
                .at_tensor(name)
                .at_offset(u64::from(info.named_at)));
        }
        Ok(())
    }

    /// Names a tensor of the index that no file has, or that a file has twice.
    fn missing(&self, path: &Path, index: &Index) -> Result<(), SourceError> {
        let table = self.table()?;
        match index.tensors().find(|name| table.find(name, |i| self.name(i)).is_none()) {
            None => Ok(()),
            Some(name) => {
                let message = match index.file_of(name) {
                    Some(file) => {
                        format!("the index says that it is in {}, which does not have it", quoted(file))
                    }
                    None => "no file has this tensor".to_owned(),
                };
                Err(SourceError::new(SourceErrorKind::Invalid, message).at_path(path).at_tensor(name))
            }
        }
    }

    fn name(&self, number: u32) -> &str {
        self.tensors.get(number as usize).map_or("", |info| self.names.get(info.name))
    }
}
