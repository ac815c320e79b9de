//! Checkpoints that are in no file of this machine.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use safetensors::tensor::Dtype;
use vram_diskmap::{DiskMap, DiskMapOptions, MemoryStorage, ReadPath, Storage, StorageRead};
use vram_types::{
    CancelToken, DType, FileId, FileRange, ReadOptions, ReadRequest, SourceError, SourceErrorKind,
    WeightSource, WeightSourceExt,
};

use crate::helpers::{Written, holds, noise, serialized, some_tensors, write};
use crate::{gguf, sharded, torch};

const URL: &str = "https://example.org/model.safetensors";

/// What a remote store does: short answers, interruptions, failures, and an object that is
/// replaced.
#[derive(Default)]
struct Remote {
    bytes: Mutex<Vec<u8>>,
    tag: Mutex<Vec<u8>>,
    /// Longest answer.
    most: usize,
    calls: AtomicUsize,
    batches: Mutex<Vec<Vec<(u64, usize)>>>,
    fails: AtomicBool,
}

impl Remote {
    fn new(bytes: Vec<u8>, most: usize) -> Arc<Remote> {
        Arc::new(Remote { bytes: Mutex::new(bytes), most, ..Remote::default() })
    }
}

impl Storage for Remote {
    fn bytes(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn describe(&self) -> Cow<'_, str> {
        Cow::Borrowed(URL)
    }

    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.calls.fetch_add(1, Ordering::SeqCst) % 3 == 1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let bytes = self.bytes.lock().unwrap();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(dst.len()).min(self.most);
        dst[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn read_many(&self, reads: &mut [StorageRead<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        self.batches.lock().unwrap().push(reads.iter().map(|r| (r.offset, r.dst.len())).collect());
        for StorageRead { offset, dst } in reads {
            options.check()?;
            let mut done = 0;
            while done < dst.len() {
                match self.read_at(&mut dst[done..], *offset + done as u64) {
                    Ok(0) => {
                        return Err(SourceError::new(SourceErrorKind::Truncated, "the object has ended"));
                    }
                    Ok(n) => done += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(SourceError::io(e).at_offset(*offset)),
                }
            }
        }
        Ok(())
    }

    fn identity(&self) -> io::Result<Cow<'_, [u8]>> {
        Ok(Cow::Owned(self.tag.lock().unwrap().clone()))
    }
}

/// Some tensors, without the one whose elements are half bytes.
fn castable() -> Vec<Written> {
    some_tensors().into_iter().filter(|t| t.1 != Dtype::F4).collect()
}

fn in_memory(path: &Path) -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new(std::fs::read(path).unwrap()))
}

#[test]
fn every_format_is_read_from_memory_as_from_a_file() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    write(&path, &castable());
    let mut paths = vec![path];
    paths.extend(torch::files());
    paths.extend(["blocks.gguf", "numbers.gguf", "version2.gguf"].map(gguf::file));
    for path in paths {
        let what = path.display().to_string();
        for options in [DiskMapOptions::default(), DiskMap::options().raw_blocks(true)] {
            let file = options.open(&path).unwrap();
            let memory = options.open_storage(in_memory(&path)).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(memory.bytes_read(), file.bytes_read(), "{what}");
            torch::equals(&memory, &file, &what);
            assert_eq!(memory.metadata(FileId(0)), file.metadata(FileId(0)));
            assert!(memory.unreadable().eq(file.unreadable()), "{what}");
            for name in file.names() {
                assert_eq!(memory.locate(name), file.locate(name), "{what}");
            }
        }
    }
    for path in torch::files() {
        let map = DiskMap::open_storage(in_memory(&path)).unwrap();
        torch::equals(&map, &torch::expected(&path), "expected");
    }
}

#[test]
fn a_storage_of_the_callers_is_read_like_a_file() {
    let tensors = castable();
    for most in [1, 1000, usize::MAX] {
        let remote = Remote::new(serialized(&tensors), most);
        let map = DiskMap::open_storage(Arc::clone(&remote) as Arc<dyn Storage>).unwrap();
        assert!(remote.batches.lock().unwrap().is_empty(), "headers are read one after the other");
        holds(&map, &tensors);
        assert!(map.files().eq([URL]) && map.path(FileId(0)).is_none());
        assert_eq!(map.describe(FileId(0)).as_deref(), Some(URL));
        assert_eq!(map.file_bytes(FileId(0)), Some(remote.bytes()));
        let reading = map.reading(FileId(0)).unwrap();
        assert_eq!((reading.path, reading.alignment), (ReadPath::Storage, None));
        assert!(map.map(FileRange { file: FileId(0), offset: 0, bytes: 1 }).is_none());
        let slice = map.get_slice("a.weight", &[3..5, 7..9]).unwrap();
        assert_eq!(slice.bytes().len(), 8);
        let cast = DiskMap::options()
            .dtype(DType::F32)
            .open_storage(Arc::clone(&remote) as Arc<dyn Storage>)
            .unwrap();
        let mut expected = vec![0; 64 * 48 * 4];
        let stored = map.get("a.weight").unwrap();
        vram_types::cast::cast(stored.bytes(), DType::BF16, &mut expected, DType::F32).unwrap();
        assert!(cast.get("a.weight").unwrap().bytes() == expected);
    }
}

/// What read_many does unless a storage does it itself.
struct Plain(Arc<Remote>);

impl Storage for Plain {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }
    fn describe(&self) -> Cow<'_, str> {
        self.0.describe()
    }
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(dst, offset)
    }
}

#[test]
fn a_batch_is_one_call_of_its_storage_with_neighbours_together() {
    let long = |i: usize| (format!("long.{i}"), Dtype::U8, vec![5_000_001], noise(i as u64, 5_000_001));
    let short = |i: usize| (format!("short.{i}"), Dtype::U8, vec![10_007], noise(50 + i as u64, 10_007));
    let tensors: Vec<Written> = (0..3).map(long).chain((0..400).map(short)).collect();
    let remote = Remote::new(serialized(&tensors), usize::MAX);
    let own: Arc<dyn Storage> = Arc::clone(&remote) as Arc<dyn Storage>;
    let by_default: Arc<dyn Storage> = Arc::new(Plain(Arc::clone(&remote)));
    for (storage, counted) in [(own, true), (by_default, false)] {
        let map = DiskMap::open_storage(storage).unwrap();
        let before = map.bytes_read();
        let mut buffers: Vec<Vec<u8>> = tensors.iter().map(|t| vec![0; t.3.len()]).collect();
        let mut requests: Vec<ReadRequest<'_>> =
            tensors.iter().zip(&mut buffers).map(|(t, dst)| ReadRequest::tensor(&t.0, 0, dst)).collect();
        map.read_many(&mut requests, &ReadOptions::default()).unwrap();
        drop(requests);
        assert!(tensors.iter().zip(&buffers).all(|(t, dst)| t.3 == *dst));
        assert_eq!(map.bytes_read() - before, tensors.iter().map(|t| t.3.len() as u64).sum::<u64>());
        if counted {
            let batches = remote.batches.lock().unwrap();
            assert_eq!(batches.len(), 1);
            assert!(batches[0].len() < 10, "{:?}", batches[0]);
        }
        let cancel = CancelToken::new();
        cancel.cancel();
        let options = ReadOptions::default().with_cancel(&cancel);
        let mut dst = [0; 4];
        let cancelled = map.read_many(&mut [ReadRequest::tensor("long.0", 0, &mut dst)], &options);
        assert_eq!(cancelled.unwrap_err().kind(), SourceErrorKind::Cancelled);
    }
}

#[test]
fn failures_and_changes_name_the_storage() {
    let tensors = some_tensors();
    let remote = Remote::new(serialized(&tensors), usize::MAX);
    let own: Arc<dyn Storage> = Arc::clone(&remote) as Arc<dyn Storage>;
    let map = DiskMap::open_storage(own).unwrap();
    let mut dst = vec![0; 64 * 48 * 2];
    remote.fails.store(true, Ordering::SeqCst);
    let batch = map.read_many(&mut [ReadRequest::tensor("a.weight", 0, &mut dst)], &ReadOptions::BLOCKING);
    for error in [map.get("a.weight").unwrap_err(), batch.unwrap_err()] {
        assert_eq!((error.kind(), error.is_retryable()), (SourceErrorKind::Io, true), "{error}");
        assert_eq!((error.file().as_deref(), error.path()), (Some(URL), None));
        assert_eq!((error.tensor(), error.offset().is_some()), (Some("a.weight"), true), "{error}");
    }
    remote.fails.store(false, Ordering::SeqCst);
    *remote.tag.lock().unwrap() = b"another".to_vec();
    let error = map.get("a.weight").unwrap_err();
    assert_eq!((error.kind(), error.file().as_deref()), (SourceErrorKind::Invalid, Some(URL)), "{error}");
    remote.tag.lock().unwrap().clear();
    assert!(map.get("a.weight").is_ok());
    let rest = remote.bytes.lock().unwrap().split_off(1000);
    for error in [map.get("a.weight").unwrap_err(), map.get("big").unwrap_err()] {
        assert_eq!((error.kind(), error.file().as_deref()), (SourceErrorKind::Truncated, Some(URL)));
    }
    let error = map.read_range("big", 0..4, &mut [0; 4]).unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Truncated);
    remote.bytes.lock().unwrap().extend(rest);
    holds(&map, &tensors);
    let short: Arc<dyn Storage> = Remote::new(vec![1, 2, 3], 1);
    let error = DiskMap::open_storage(short).unwrap_err();
    assert_eq!((error.kind(), error.file().as_deref()), (SourceErrorKind::Truncated, Some(URL)));
}

#[test]
fn shards_come_from_where_the_caller_finds_them() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tensors = sharded::sharded(dir.path());
    let index = MemoryStorage::new(std::fs::read(dir.path().join("model.safetensors.index.json")).unwrap());
    let mut asked = Vec::new();
    let open = |asked: &mut Vec<String>, name: &str| -> Result<Arc<dyn Storage>, SourceError> {
        asked.push(name.to_owned());
        let bytes = std::fs::read(dir.path().join(name)).map_err(SourceError::io)?;
        let bytes: Arc<[u8]> = bytes.into();
        Ok(Arc::new(MemoryStorage::new(bytes).with_name(format!("memory:{name}"))))
    };
    let map = DiskMap::options().open_sharded(&index, |name| open(&mut asked, name)).unwrap();
    holds(&map, &tensors);
    assert_eq!(asked, ["model-1.safetensors", "model-2.safetensors"]);
    assert!(map.files().eq(["memory:model-1.safetensors", "memory:model-2.safetensors"]));
    let list = asked.iter().map(|name| open(&mut Vec::new(), name).unwrap()).collect::<Vec<_>>();
    holds(&DiskMap::options().open_storages(list).unwrap(), &tensors);
    // The errors of whoever finds them, and an index that does not agree with what is found.
    let lost = DiskMap::options()
        .open_sharded(&index, |_| Err(SourceError::new(SourceErrorKind::NotFound, "no such object")));
    assert_eq!(lost.unwrap_err().message(), "no such object");
    let same = DiskMap::options().open_sharded(&index, |_| open(&mut Vec::new(), "model-1.safetensors"));
    let error = same.unwrap_err();
    assert_eq!(error.file().as_deref(), Some("memory:model-1.safetensors"), "{error}");
    let wrong = MemoryStorage::new(b"{}".as_slice()).with_name("the index");
    let error = DiskMap::options().open_sharded(&wrong, |name| open(&mut Vec::new(), name)).unwrap_err();
    assert_eq!(error.file().as_deref(), Some("the index"));
}
