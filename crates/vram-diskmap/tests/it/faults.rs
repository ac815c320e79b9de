//! Files that fail or change while they are read: errors that name file, tensor and offset, never zeros, nothing left behind,
//! and a map that can be used afterwards.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use safetensors::tensor::Dtype;
use vram_diskmap::{DiskMap, DiskMapOptions, ReadAt, ReadMode, ReadQueue};
use vram_types::{
    CancelToken, FileId, Priority, ReadOptions, ReadRequest, SourceError, SourceErrorKind, WeightSource,
};

use crate::helpers::{Written, holds, noise, write};

const MODES: [ReadMode; 4] = [ReadMode::Auto, ReadMode::Buffered, ReadMode::Direct, ReadMode::Uring];
const EIO: i32 = 5;
const ENODEV: i32 = 19;
/// What a file on a mount that has gone answers on Linux.
const ESTALE: i32 = 116;

/// What happens at every read, given its number; `None` lets it through.
type Event = dyn Fn(usize, &mut [u8]) -> Option<io::Result<usize>> + Send + Sync;

/// Counts the reads of all files of a map, and lets something happen at them.
pub(crate) struct Watch {
    armed: AtomicBool,
    reads: AtomicUsize,
    event: Box<Event>,
}

struct Watched {
    inner: Box<dyn ReadAt>,
    watch: Arc<Watch>,
}

impl ReadAt for Watched {
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        if !self.watch.armed.load(Ordering::SeqCst) {
            return self.inner.read_at(dst, offset);
        }
        let number = self.watch.reads.fetch_add(1, Ordering::SeqCst);
        match (self.watch.event)(number, dst) {
            Some(result) => result,
            None => self.inner.read_at(dst, offset),
        }
    }
}

impl Watch {
    pub(crate) fn new(
        event: impl Fn(usize, &mut [u8]) -> Option<io::Result<usize>> + Send + Sync + 'static,
    ) -> Arc<Watch> {
        let (armed, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Watch { armed, reads, event: Box::new(event) })
    }

    /// Begins to count, from now on.
    pub(crate) fn arm(&self, yes: bool) {
        self.reads.store(0, Ordering::SeqCst);
        self.armed.store(yes, Ordering::SeqCst);
    }

    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    pub(crate) fn options(self: &Arc<Self>, mode: ReadMode, queue: &Arc<ReadQueue>) -> DiskMapOptions {
        let watch = Arc::clone(self);
        let wrap = move |_: &Path, inner| -> Box<dyn ReadAt> {
            Box::new(Watched { inner, watch: Arc::clone(&watch) })
        };
        DiskMap::options().read(mode).queue(Arc::clone(queue)).read_through(wrap)
    }
}

/// Long tensors, which are cut into several reads, with short ones between them.
fn tensors() -> Vec<Written> {
    let long = |i: usize| (format!("long.{i}"), Dtype::U8, vec![5_000_001], noise(i as u64, 5_000_001));
    let short = |i: usize| (format!("short.{i}"), Dtype::U8, vec![10_007], noise(50 + i as u64, 10_007));
    (0..3).map(long).chain((0..8).map(short)).collect()
}

fn checkpoint() -> (tempfile::TempDir, PathBuf, Vec<Written>) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("model.safetensors");
    let tensors = tensors();
    write(&path, &tensors);
    evict(&path);
    (dir, path, tensors)
}

/// Makes the file cold where the system lets us, so that the modes differ.
fn evict(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// All tensors as one batch; `None` if what came is not what was written.
fn batch(map: &DiskMap, tensors: &[Written], cancel: &CancelToken) -> Result<Option<()>, SourceError> {
    let mut buffers: Vec<Vec<u8>> = tensors.iter().map(|t| vec![0; t.3.len()]).collect();
    let mut requests: Vec<ReadRequest<'_>> =
        tensors.iter().zip(&mut buffers).map(|(t, dst)| ReadRequest::tensor(&t.0, 0, dst)).collect();
    map.read_many(
        &mut requests,
        &ReadOptions::default().with_priority(Priority::ReadAhead).with_cancel(cancel),
    )?;
    drop(requests);
    Ok(tensors.iter().zip(&buffers).all(|(t, dst)| t.3 == *dst).then_some(()))
}

/// Descriptors of this process that lead to a file.
#[cfg(target_os = "linux")]
fn open_descriptors(path: &Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    all.filter(|fd| fd.as_ref().is_ok_and(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == path)))
        .count()
}

#[test]
fn every_read_may_fail_once() {
    for mode in MODES {
        for (errno, n) in (0..).map(|n| ([EIO, ENODEV, ESTALE][n % 3], n)) {
            let (_dir, path, tensors) = checkpoint();
            let queue = Arc::new(ReadQueue::new(4 << 20));
            let watch =
                Watch::new(move |number, _| (number == n).then(|| Err(io::Error::from_raw_os_error(errno))));
            let map = watch.options(mode, &queue).open(&path).unwrap();
            watch.arm(true);
            let result = batch(&map, &tensors, &CancelToken::new());
            let came = watch.reads() > n;
            watch.arm(false);
            let Err(error) = result else {
                assert!(!came, "{mode:?}: read {n} failed and nobody heard of it");
                assert!(n > 7, "{mode:?}: only {n} reads");
                break;
            };
            assert_eq!((error.kind(), error.path()), (SourceErrorKind::Io, Some(path.as_path())), "{error}");
            assert!(error.tensor().is_some() && error.offset().is_some(), "{mode:?}, read {n}: {error}");
            let info = map.tensor(error.tensor().unwrap()).unwrap().range();
            assert!((info.offset..info.end()).contains(&error.offset().unwrap()), "{error}");
            assert_eq!(queue.bytes_in_flight(), 0);
            // The fault has passed, and the same map reads on.
            holds(&map, &tensors);
            drop(map);
            #[cfg(target_os = "linux")]
            assert_eq!(open_descriptors(&path), 0);
        }
    }
}

#[test]
fn opening_may_fail_at_every_read() {
    let (_dir, path, tensors) = checkpoint();
    let queue = ReadQueue::process();
    for n in 0.. {
        let watch =
            Watch::new(move |number, _| (number == n).then(|| Err(io::Error::from_raw_os_error(EIO))));
        watch.arm(true);
        match watch.options(ReadMode::Auto, &queue).open(&path) {
            Ok(map) => {
                assert!(n >= 2, "only {n} reads");
                watch.arm(false);
                holds(&map, &tensors);
                break;
            }
            Err(e) => assert_eq!((e.kind(), e.path()), (SourceErrorKind::Io, Some(path.as_path())), "{e}"),
        }
    }
}

#[test]
fn short_and_interrupted_reads_are_continued() {
    for mode in MODES {
        let (_dir, path, tensors) = checkpoint();
        let interrupt = AtomicUsize::new(0);
        let watch = Watch::new(move |_, _| {
            let interrupted = interrupt.fetch_add(1, Ordering::SeqCst) % 3 == 2;
            interrupted.then(|| Err(io::ErrorKind::Interrupted.into()))
        });
        watch.arm(true);
        let shorten = move |_: &Path, inner| -> Box<dyn ReadAt> {
            Box::new(Short(Watched { inner, watch: Arc::clone(&watch) }))
        };
        let map = DiskMap::options().read(mode).read_through(shorten).open(&path).unwrap();
        holds(&map, &tensors);
        assert_eq!(batch(&map, &tensors, &CancelToken::new()).unwrap(), Some(()), "{mode:?}");
    }
}

/// Gives a part of what is asked for, in odd lengths.
struct Short(Watched);

impl ReadAt for Short {
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        let part = match offset % 5 {
            0 => dst.len(),
            1 => dst.len().div_ceil(2),
            2 => dst.len().div_ceil(3),
            // Whole sectors, as a disk cuts reads short.
            _ => dst.len().min(64 << 10),
        };
        self.0.read_at(&mut dst[..part], offset)
    }
}

#[test]
fn a_file_that_is_cut_short_while_it_is_read() {
    for mode in MODES {
        for n in 0..8 {
            let (_dir, path, tensors) = checkpoint();
            let cut = path.clone();
            let watch = Watch::new(move |number, _| {
                if number == n {
                    let file = OpenOptions::new().write(true).open(&cut).unwrap();
                    file.set_len(2_500_000).unwrap();
                }
                None
            });
            let queue = Arc::new(ReadQueue::new(4 << 20));
            let map = watch.options(mode, &queue).open(&path).unwrap();
            watch.arm(true);
            let error = batch(&map, &tensors, &CancelToken::new()).expect_err("bytes are missing");
            watch.arm(false);
            // Who had read its bytes before is told as well: the file is not what it was.
            assert_eq!(
                (error.kind(), error.path()),
                (SourceErrorKind::Truncated, Some(path.as_path())),
                "{error}"
            );
            assert!(error.tensor().is_some(), "{mode:?}, read {n}: {error}");
            assert_eq!(queue.bytes_in_flight(), 0);
            // Written anew it is another file: the map says so, and another map reads it.
            write(&path, &tensors);
            assert_eq!(map.get("short.1").unwrap_err().kind(), SourceErrorKind::Invalid);
            holds(&watch.options(mode, &queue).open(&path).unwrap(), &tensors);
        }
    }
}

#[test]
fn a_file_that_is_written_to_while_it_is_read() {
    for mode in MODES {
        let (_dir, path, tensors) = checkpoint();
        let written = path.clone();
        let watch = Watch::new(move |number, _| {
            if number == 3 {
                let file = OpenOptions::new().write(true).open(&written).unwrap();
                let later = file.metadata().unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
                file.set_modified(later).unwrap();
            }
            None
        });
        let map = watch.options(mode, &ReadQueue::process()).open(&path).unwrap();
        watch.arm(true);
        let error = batch(&map, &tensors, &CancelToken::new()).unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Invalid, "{mode:?}: {error}");
        assert!(error.tensor().is_some() && error.message().contains("changed"), "{error}");
    }
}

#[test]
fn cancelling_ends_a_batch() {
    for mode in MODES {
        let (_dir, path, tensors) = checkpoint();
        let token = CancelToken::new();
        let cancel = token.clone();
        let watch = Watch::new(move |number, _| {
            if number == 2 {
                cancel.cancel();
            }
            None
        });
        let queue = Arc::new(ReadQueue::new(4 << 20));
        let map = watch.options(mode, &queue).open(&path).unwrap();
        watch.arm(true);
        let error = batch(&map, &tensors, &token).unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Cancelled, "{mode:?}: {error}");
        assert_eq!(queue.bytes_in_flight(), 0);
        watch.arm(false);
        holds(&map, &tensors);
    }
}

#[test]
fn a_panic_below_the_map_comes_out_and_leaves_nothing_behind() {
    let (_dir, path, tensors) = checkpoint();
    let watch = Watch::new(|number, _| (number == 4).then(|| std::panic::panic_any("the file's own panic")));
    let queue = Arc::new(ReadQueue::new(4 << 20));
    let map = watch.options(ReadMode::Direct, &queue).open(&path).unwrap();
    watch.arm(true);
    let unwound =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batch(&map, &tensors, &CancelToken::new())));
    assert!(unwound.is_err());
    assert_eq!(queue.bytes_in_flight(), 0);
    watch.arm(false);
    holds(&map, &tensors);
}

#[test]
fn a_batch_reads_every_byte_once_and_neighbours_together() {
    let (_dir, path, tensors) = checkpoint();
    let watch = Watch::new(|_, _| None);
    let queue = Arc::new(ReadQueue::new(4 << 20));
    let map = watch.options(ReadMode::Buffered, &queue).open(&path).unwrap();
    let before = map.bytes_read();
    watch.arm(true);
    // Two requests for each tensor, in both orders, and one for a part of a long one.
    let all: Vec<&Written> = tensors.iter().chain(tensors.iter().rev()).collect();
    let mut buffers: Vec<Vec<u8>> = all.iter().map(|t| vec![0; t.3.len()]).collect();
    let mut part = vec![0; 3_000_000];
    let mut requests: Vec<ReadRequest<'_>> =
        all.iter().zip(&mut buffers).map(|(t, dst)| ReadRequest::tensor(&t.0, 0, dst)).collect();
    requests.push(ReadRequest::tensor("long.1", 1_000_001, &mut part));
    map.read_many(&mut requests, &ReadOptions::BLOCKING).unwrap();
    drop(requests);
    assert!(all.iter().zip(&buffers).all(|(t, dst)| t.3 == *dst));
    assert!(part == tensors[1].3[1_000_001..4_000_001]);
    let bytes: usize = tensors.iter().map(|t| t.3.len()).sum();
    assert_eq!(map.bytes_read() - before, bytes as u64);
    // Three pieces for each long one, one read for all short ones.
    assert_eq!(watch.reads(), 3 * 3 + 1);
    assert!(queue.peak_bytes_in_flight() <= 4 << 20, "{queue:?}");
    assert_eq!(map.get_many(&["short.3", "long.0", "short.3"]).unwrap()[2].bytes(), tensors[6].3);
}

#[test]
fn the_way_of_reading_is_told() {
    let (_dir, path, _) = checkpoint();
    for mode in MODES {
        let map = DiskMap::options().read(mode).open(&path).unwrap();
        let reading = map.reading(FileId(0)).unwrap();
        println!("{mode:?}: {reading:?}");
        assert!(!reading.why.is_empty());
        if mode == ReadMode::Buffered {
            assert_eq!(reading.path.name(), "buffered");
        }
        if mode == ReadMode::Uring && reading.path.name() != "io_uring" {
            assert!(reading.why.contains("but"), "{}", reading.why);
        }
        assert!(map.reading(FileId(1)).is_none());
    }
}
