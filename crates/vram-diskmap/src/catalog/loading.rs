//! A map that is being put together, file after file.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use vram_types::cast::can_cast;
use vram_types::encoding::companions;
use vram_types::{DType, FileId, SourceError, SourceErrorKind, TensorMeta};

use crate::catalog::checksums::{self, Checksums};
use crate::catalog::contents::{Split, Unread, Unreadable};
use crate::catalog::index::Index;
use crate::catalog::map::DiskMap;
use crate::catalog::names::{Names, Table, count};
use crate::catalog::sets;
use crate::catalog::tensor::TensorInfo;
use crate::fault::{Fault, LENIENT, quoted};
use crate::format::{Reading, detect};
use crate::io::{MemoryStorage, Pool, ReadMode, ReadQueue, Storage, StoredFile};
use crate::read::strides::Strides;

/// A map that is being put together.
#[derive(Default)]
pub(super) struct Loading {
    files: Vec<StoredFile>,
    metadata: Vec<Box<str>>,
    tensors: Vec<TensorInfo>,
    strides: Vec<Strides>,
    unreadable: Vec<Unreadable>,
    unread: Vec<Unread>,
    lenient: Vec<String>,
    checksums: Checksums,
    names: Names,
    /// The place in a set that files state, and how many tensors each has.
    splits: Vec<(FileId, Split, usize)>,
    /// By which names a part of the files could be given instead.
    choices: Vec<String>,
    reading: Reading,
    bytes_read: u64,
}

impl Loading {
    /// Of files that are read like this.
    pub(super) fn new(reading: Reading) -> Loading {
        Loading { reading, ..Loading::default() }
    }

    /// Counts bytes that were read for all files.
    pub(super) fn has_read(&mut self, bytes: usize) {
        self.bytes_read += bytes as u64;
    }

    /// Says by which names a part of these files could be given.
    pub(super) fn could_be(&mut self, choices: Vec<String>) {
        self.choices = choices;
    }

    /// Notes what is wrong with the checkpoint and was let pass.
    pub(super) fn lets_pass(&mut self, what: String) {
        self.lenient.push(what);
    }

    /// Tensors so far.
    pub(super) fn len(&self) -> usize {
        self.tensors.len()
    }

    /// The map, whose tensors are converted to `dtype` where they can be.
    pub(super) fn finish(
        mut self,
        dtype: Option<DType>,
        mode: ReadMode,
        queue: Arc<ReadQueue>,
    ) -> Result<DiskMap, SourceError> {
        let table = self.table()?;
        self.unreadable_twice(&table)?;
        self.is_whole_set()?;
        if let Some(to) = dtype {
            self.convert(to)?;
        }
        self.tensors.shrink_to_fit();
        self.names.shrink();
        Ok(DiskMap {
            files: self.files,
            metadata: self.metadata,
            tensors: self.tensors,
            strides: self.strides,
            unreadable: self.unreadable,
            unread: self.unread,
            lenient: self.lenient,
            checksums: self.checksums,
            names: self.names,
            table,
            mode,
            pool: Pool::default(),
            queue,
            bytes_read: AtomicU64::new(self.bytes_read),
        })
    }

    /// Reads what a file says of its tensors.
    pub(super) fn add(&mut self, file: StoredFile) -> Result<(), SourceError> {
        let id = FileId(self.files.len() as u32);
        let mut contents = detect::read(file.storage(), id, self.reading, &mut self.names)?;
        checksums::collect(&contents.metadata, id, &contents.tensors, &mut self.checksums)
            .map_err(|f| file.named(f.into_error()))?;
        if !self.strides.is_empty() {
            let before = self.strides.len();
            for info in &mut contents.tensors {
                if let Some(number) = info.strides {
                    let after = number.after(before).map_err(|f| file.named(f.into_error()))?;
                    info.strides = Some(after);
                }
            }
        }
        if let Some(split) = contents.split {
            let tensors = contents.tensors.len() + contents.unreadable.len();
            self.splits.push((id, split, tensors));
        }
        if self.tensors.is_empty() {
            self.tensors = contents.tensors;
        } else {
            self.tensors.append(&mut contents.tensors);
        }
        self.strides.append(&mut contents.strides);
        self.unreadable.append(&mut contents.unreadable);
        self.unread.append(&mut contents.unread);
        self.lenient.extend(contents.lenient.iter().map(|what| format!("{}: {what}", file.describe())));
        self.metadata.push(contents.metadata);
        let decoded = std::mem::take(&mut contents.decoded);
        let beside = (!decoded.is_empty()).then(|| {
            let name = format!("{} (arrays of its pickle)", file.describe());
            StoredFile::of_storage(Arc::new(MemoryStorage::new(decoded).with_name(name)))
        });
        self.files.push(file);
        if let Some(beside) = beside {
            self.files.push(beside?);
            self.metadata.push(Box::default());
        }
        self.bytes_read += contents.bytes_read;
        Ok(())
    }

    /// Fails if a tensor that cannot be read has the name of one that can, or of another.
    fn unreadable_twice(&self, table: &Table) -> Result<(), SourceError> {
        let mut seen = HashSet::new();
        for tensor in &self.unreadable {
            let name = self.names.get(tensor.name);
            if !seen.insert(name) || table.find(name, |i| self.name(i)).is_some() {
                let message = "there is another tensor of this name";
                let error = SourceError::new(SourceErrorKind::Invalid, message);
                return Err(self.files[tensor.file.0 as usize].named(error).at_tensor(name));
            }
        }
        Ok(())
    }

    /// Fails if files that state their place in a set are not the whole set.
    fn is_whole_set(&mut self) -> Result<(), SourceError> {
        let Some(&(first, Split { of, tensors, .. }, _)) = self.splits.first() else { return Ok(()) };
        let failed = |file: FileId, kind, message| {
            let error = SourceError::new(kind, message);
            Err(match self.files.get(file.0 as usize) {
                Some(file) => file.named(error),
                None => error,
            })
        };
        let mut seen = HashSet::new();
        for &(file, split, _) in &self.splits {
            if split.of != of || split.number >= of || !seen.insert(split.number) {
                let message = format!(
                    "by its keys it is part {} of {}, which does not go with the files before it",
                    split.number.saturating_add(1),
                    split.of
                );
                return failed(file, SourceErrorKind::Invalid, message);
            }
        }
        let missing: Vec<String> = (0..of)
            .filter(|number| !seen.contains(number))
            .take(100)
            .map(|n| format!("part {}", n + 1))
            .collect();
        if !missing.is_empty() {
            let parts = sets::listed(&missing);
            if !self.reading.lenient {
                let message = format!(
                    "by its keys it is a part of a checkpoint of {of} files, without {parts}{LENIENT}"
                );
                return failed(first, SourceErrorKind::NotFound, message);
            }
            self.lenient.push(format!("a checkpoint of {of} files, without {parts}"));
            return Ok(());
        }
        let have: usize = self.splits.iter().map(|(_, _, tensors)| tensors).sum();
        match tensors {
            Some(tensors) if tensors != have as u64 => {
                let message = format!("by its keys the set has {tensors} tensors, its files have {have}");
                failed(first, SourceErrorKind::Invalid, message)
            }
            _ => Ok(()),
        }
    }

    /// The table of all names; an error if two are equal.
    fn table(&self) -> Result<Table, SourceError> {
        let numbers = count(self.tensors.len()).map_err(Fault::into_error)?;
        Table::build(numbers, |i| self.name(i)).map_err(|(first, second)| {
            let (a, b) = (&self.tensors[first as usize], &self.tensors[second as usize]);
            let file = |info: &TensorInfo| &self.files[info.file.0 as usize];
            let mut message = match a.file == b.file {
                true => "the file has a tensor of this name twice".to_owned(),
                false => format!("{} has a tensor of the same name", file(a).describe()),
            };
            if a.file != b.file && self.choices.len() > 1 {
                let choices = sets::listed(&self.choices);
                message += &format!("; a folder is read as one checkpoint: open one of {choices}");
            }
            file(b)
                .named(SourceError::new(SourceErrorKind::Invalid, message))
                .at_tensor(self.name(second))
                .at_offset(u64::from(a.named_at.max(b.named_at)))
        })
    }

    fn convert(&mut self, to: DType) -> Result<(), SourceError> {
        self.need_nothing_beside(to)?;
        for info in &mut self.tensors {
            if !info.stored.is_float() || info.stored == to {
                continue;
            }
            let at = |e: SourceError| {
                self.files[info.file.0 as usize].named(e).at_tensor(self.names.get(info.name))
            };
            let unsupported = |message| at(SourceError::new(SourceErrorKind::Unsupported, message));
            if !can_cast(info.stored, to) {
                return Err(unsupported(format!("there is no conversion from {} to {to}", info.stored)));
            }
            info.meta =
                TensorMeta::new(to, info.meta.shape().clone()).map_err(|e| unsupported(e.to_string()))?;
        }
        Ok(())
    }

    /// Fails if a tensor that is to be cast has others beside it that its numbers need: cast by
    /// itself it would be wrong.
    fn need_nothing_beside(&self, to: DType) -> Result<(), SourceError> {
        let by_name: HashMap<&str, &TensorInfo> =
            self.tensors.iter().map(|info| (self.names.get(info.name), info)).collect();
        let found = companions(by_name.keys().copied(), |name| Some(by_name.get(name)?.meta.clone()));
        for info in self.tensors.iter().filter(|info| info.stored.is_float() && info.stored != to) {
            let name = self.names.get(info.name);
            let weight = found.owner(name).unwrap_or(name);
            let beside = match found.of(weight) {
                Ok(None) => continue,
                Ok(Some(scheme)) => scheme.companions.first().map_or(String::new(), |c| c.name.clone()),
                Err(unknown) => unknown.companion,
            };
            let message = format!(
                "its numbers need {} beside it: each cast by itself, they would be wrong",
                quoted(&beside)
            );
            let error = SourceError::new(SourceErrorKind::Unsupported, message);
            return Err(self.files[info.file.0 as usize].named(error).at_tensor(weight));
        }
        Ok(())
    }

    /// Checks the tensors of the file that was read last, from number `from` on, against the
    /// index.
    pub(super) fn belongs(&mut self, from: usize, file: &str, index: &Index) -> Result<(), SourceError> {
        let mut unnamed = 0;
        for number in from..self.tensors.len() {
            let name = self.name(number as u32);
            let message = match index.file_of(name) {
                Some(of) if of == file => continue,
                Some(of) => format!("the index says that this tensor is in {}", quoted(of)),
                None if self.reading.lenient => {
                    unnamed += 1;
                    continue;
                }
                None => format!("the index does not name this tensor{LENIENT}"),
            };
            let info = &self.tensors[number];
            return Err(self.files[info.file.0 as usize]
                .named(SourceError::new(SourceErrorKind::Invalid, message))
                .at_tensor(name)
                .at_offset(u64::from(info.named_at)));
        }
        if unnamed > 0 {
            self.lenient.push(format!("{file}: {unnamed} tensors that the index does not name"));
        }
        Ok(())
    }

    /// Names a tensor of the index that no file has, or that a file has twice.
    pub(super) fn missing(&self, storage: &dyn Storage, index: &Index) -> Result<(), SourceError> {
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
                Err(storage.named(SourceError::new(SourceErrorKind::Invalid, message)).at_tensor(name))
            }
        }
    }

    fn name(&self, number: u32) -> &str {
        self.tensors.get(number as usize).map_or("", |info| self.names.get(info.name))
    }
}
