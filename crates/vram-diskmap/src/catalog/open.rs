//! Opening: from paths to a [`DiskMap`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vram_types::{DType, SourceError, SourceErrorKind};

use crate::catalog::folder::{Folder, in_folder};
use crate::catalog::index::Index;
use crate::catalog::loading::Loading;
use crate::catalog::map::DiskMap;
use crate::catalog::sets;
use crate::format::Reading;
use crate::format::safetensors::header::MOST_HEADER_BYTES;
use crate::io::{ReadAt, ReadMode, ReadQueue, Storage, StoredFile, Wrap, read_exact};

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
    /// How tensors' bytes are read, from files of this machine.
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

    /// Puts something between the map and its files: all reads, of headers too, go through what
    /// `wrap` makes of each file. It is asked once for each way in which a file is opened, through
    /// the page cache and past it.
    #[must_use]
    pub fn read_through(
        mut self,
        wrap: impl Fn(&Path, Box<dyn ReadAt>) -> Box<dyn ReadAt> + Send + Sync + 'static,
    ) -> DiskMapOptions {
        self.wrap = Some(Arc::new(wrap));
        self
    }

    /// Converts floating-point tensors to `dtype` while they are read; others keep theirs. A
    /// checkpoint whose weights need scales beside them is not opened so:
    /// [`Extract`](crate::Extract) applies them.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> DiskMapOptions {
        self.dtype = Some(dtype);
        self
    }

    /// Lets pass what real checkpoints get wrong and what leaves no doubt about any tensor: bytes
    /// after the last tensor, holes between tensors, blanks around the header, a `__metadata__`
    /// that is null, unknown fields of a tensor, tensors that an index does not name, and sets of
    /// which files are missing. Each is reported by [`DiskMap::leniencies`]; an error about one of
    /// these says so.
    #[must_use]
    pub fn lenient(mut self, yes: bool) -> DiskMapOptions {
        self.reading.lenient = yes;
        self
    }

    /// Gives quantised tensors of GGUF files as their raw blocks: `U8`, the innermost extent in
    /// bytes.
    #[must_use]
    pub fn raw_blocks(mut self, yes: bool) -> DiskMapOptions {
        self.reading.raw_blocks = yes;
        self
    }

    /// Opens a file, an index or a folder; see [`DiskMap::open`].
    ///
    /// # Errors
    /// As [`DiskMap::open`]; `Unsupported` also where a tensor has no conversion to the dtype
    /// asked for.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<DiskMap, SourceError> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(|e| SourceError::io(e).at_path(path))?;
        if meta.is_dir() {
            return match in_folder(path)? {
                Folder::Index(index) => self.open_index_at(&index),
                Folder::Files(files) => {
                    let missing = sets::missing(&files);
                    self.open_set(path, &files, &missing, sets::choices(&files))
                }
            };
        }
        match (path.extension(), sets::siblings(path)) {
            (Some(extension), _) if extension == "json" => self.open_index_at(path),
            (_, Some((files, missing))) => self.open_set(path, &files, &missing, Vec::new()),
            (_, None) => self.open_files([path]),
        }
    }

    /// Opens files of which `path` stands for, unless some are missing. `choices` are the names by
    /// which a part of them could be given instead.
    fn open_set(
        &self,
        path: &Path,
        files: &[PathBuf],
        missing: &[String],
        choices: Vec<String>,
    ) -> Result<DiskMap, SourceError> {
        let mut loading = self.loading();
        loading.could_be(choices);
        if !missing.is_empty() {
            if !self.reading.lenient {
                return Err(sets::incomplete(missing).at_path(path));
            }
            loading.lets_pass(format!("{}: missing files: {}", path.display(), sets::listed(missing)));
        }
        for file in files {
            loading.add(self.stored(file)?)?;
        }
        self.finish(loading)
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
            loading.add(self.stored(path.as_ref())?)?;
        }
        self.finish(loading)
    }

    /// Opens a file of any [format](crate#formats) that is in a storage of the caller's.
    ///
    /// What concerns files of this machine ([`read`](DiskMapOptions::read),
    /// [`queue`](DiskMapOptions::queue), [`read_through`](DiskMapOptions::read_through)) does not
    /// concern it.
    ///
    /// # Errors
    /// As [`DiskMapOptions::open`]; they name the storage as it [describes](Storage::describe)
    /// itself.
    pub fn open_storage(&self, storage: Arc<dyn Storage>) -> Result<DiskMap, SourceError> {
        self.open_storages([storage])
    }

    /// Opens files in storages of the caller's as one map, in that order.
    ///
    /// # Errors
    /// As [`DiskMapOptions::open_storage`]; `Invalid` also where two files have a tensor of the
    /// same name.
    pub fn open_storages(
        &self,
        storages: impl IntoIterator<Item = Arc<dyn Storage>>,
    ) -> Result<DiskMap, SourceError> {
        let mut loading = self.loading();
        for storage in storages {
            loading.add(StoredFile::of_storage(storage)?)?;
        }
        self.finish(loading)
    }

    /// Opens a sharded checkpoint whose `*.index.json` and files are in storages of the caller's:
    /// `file` opens one by the name that the index gives it, which may have folders in it and
    /// never leads out of the index's own.
    ///
    /// # Errors
    /// As [`DiskMapOptions::open_storage`]; `Invalid` also where the index and the files do not
    /// agree; the errors of `file`.
    pub fn open_sharded(
        &self,
        index: &dyn Storage,
        mut file: impl FnMut(&str) -> Result<Arc<dyn Storage>, SourceError>,
    ) -> Result<DiskMap, SourceError> {
        self.open_index(index, |name| StoredFile::of_storage(file(name)?))
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
        for file in map.files.iter_mut().filter_map(StoredFile::local_mut) {
            // SAFETY: the caller's promise is the same.
            unsafe { file.set_map() }?;
        }
        Ok(map)
    }

    fn open_index_at(&self, path: &Path) -> Result<DiskMap, SourceError> {
        let index = self.stored(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        self.open_index(index.storage(), |file| self.stored(&folder.join(file)))
    }

    fn open_index(
        &self,
        storage: &dyn Storage,
        mut open: impl FnMut(&str) -> Result<StoredFile, SourceError>,
    ) -> Result<DiskMap, SourceError> {
        let bytes = storage.bytes();
        if bytes > MOST_HEADER_BYTES {
            let message = format!("an index of {bytes} bytes; at most {MOST_HEADER_BYTES} are read");
            return Err(storage.named(SourceError::new(SourceErrorKind::Invalid, message)));
        }
        let mut json = vec![0; bytes as usize];
        read_exact(storage, &mut json, 0)?;
        let index = Index::parse(&json).map_err(|f| storage.named(f.into_error()))?;
        let mut loading = self.loading();
        loading.has_read(json.len());
        drop(json);
        for file in index.files() {
            let from = loading.len();
            loading.add(open(file)?)?;
            loading.belongs(from, file, &index)?;
        }
        if self.reading.lenient || loading.len() != index.len() {
            loading.missing(storage, &index)?;
        }
        self.finish(loading)
    }

    fn stored(&self, path: &Path) -> Result<StoredFile, SourceError> {
        StoredFile::open(path, self.mode, self.wrap.as_ref())
    }

    fn loading(&self) -> Loading {
        Loading::new(self.reading)
    }

    fn finish(&self, loading: Loading) -> Result<DiskMap, SourceError> {
        let queue = self.queue.clone().unwrap_or_else(ReadQueue::process);
        loading.finish(self.dtype, self.mode, queue)
    }
}

impl DiskMap {
    /// Opens a file of any [format](crate#formats), a `*.index.json`, or a folder that holds
    /// either.
    ///
    /// A folder with one index is read by it; without one, all its `*.safetensors` are read. A
    /// folder without either is read by its PyTorch file, set of files or index, of which there
    /// must be one, and a folder without those by all its `*.gguf`.
    ///
    /// One file of a set (`model-00001-of-00003.safetensors`) stands for the whole set, whose other
    /// files must be beside it. [`open_files`](DiskMap::open_files) opens it alone, but for GGUF
    /// files, which say themselves that they are parts.
    ///
    /// # Errors
    /// `NotFound` where there is no such file, or where files of a set are missing; `Invalid` or
    /// `Truncated` with file, tensor and offset for whatever the format forbids; `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<DiskMap, SourceError> {
        DiskMap::options().open(path)
    }

    /// Opens a list of files as one map, in that order.
    ///
    /// # Errors
    /// As [`DiskMap::open`]; `Invalid` also where two files have a tensor of the same name.
    pub fn open_files<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<DiskMap, SourceError> {
        DiskMap::options().open_files(paths)
    }

    /// Opens a file of any [format](crate#formats) that is in a storage of the caller's: in
    /// memory, in an object store.
    ///
    /// # Errors
    /// As [`DiskMap::open`]; they name the storage as it describes itself.
    pub fn open_storage(storage: Arc<dyn Storage>) -> Result<DiskMap, SourceError> {
        DiskMap::options().open_storage(storage)
    }

    /// Options for opening: how to read, another dtype.
    pub fn options() -> DiskMapOptions {
        DiskMapOptions::default()
    }

    /// Opens as [`DiskMap::open`] does and serves all reads from a memory map of the files.
    ///
    /// # Safety
    /// Nobody, in this process or another, writes to the files or shortens them while the map or
    /// any [`HostBytes`](vram_types::HostBytes) of it lives. Changed bytes under a shared
    /// reference are undefined behaviour, and a read beyond the end of a shortened file is a fatal
    /// signal.
    ///
    /// # Errors
    /// As [`DiskMap::open`].
    pub unsafe fn open_mapped(path: impl AsRef<Path>) -> Result<DiskMap, SourceError> {
        // SAFETY: the caller's promise is the same.
        unsafe { DiskMap::options().open_mapped(path) }
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
