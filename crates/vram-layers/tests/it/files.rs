//! The engine over a real file that fails or is cut short in the middle of a pass.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vram_diskmap::{DiskMap, ReadAt, ReadQueue, SafetensorsWriter};
use vram_layers::{Error, Split};
use vram_types::{DType, SourceError, SourceErrorKind, TensorMeta, WeightSource};

use crate::common::{Raw, in_time, options};
use crate::source::Layout;

const ALL: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
const BUDGET: u64 = 3 << 20;

/// Something that happens at one read of the file, of all that come after the header.
struct AtRead<F> {
    inner: Box<dyn ReadAt>,
    reads: Arc<AtomicUsize>,
    at: usize,
    event: Arc<F>,
}

impl<F: Fn() -> io::Result<()> + Send + Sync> ReadAt for AtRead<F> {
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset > 4096 && self.reads.fetch_add(1, Ordering::SeqCst) == self.at {
            (self.event)()?;
        }
        self.inner.read_at(dst, offset)
    }
}

/// Eight layers of half a MiB, in memory and in a file.
fn layers() -> (tempfile::TempDir, PathBuf, Raw) {
    let raw = Raw::new(&[(512, 1024, Split::Whole); 8], &Layout::plain(), 7);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("layers.safetensors");
    let meta = TensorMeta::new(DType::U8, [512, 1024]).unwrap();
    let tensors = ALL.map(|i| (format!("layer.{i}"), meta.clone()));
    let mut writer = SafetensorsWriter::create(&path, tensors, &[]).unwrap();
    raw.layers.iter().for_each(|bytes| writer.write(bytes).unwrap());
    writer.finish().unwrap();
    (dir, path, raw)
}

fn open<F: Fn() -> io::Result<()> + Send + Sync + 'static>(
    path: &Path,
    queue: &Arc<ReadQueue>,
    at: usize,
    event: F,
) -> Arc<dyn WeightSource> {
    let (reads, event) = (Arc::new(AtomicUsize::new(0)), Arc::new(event));
    let wrap = move |_: &Path, inner| -> Box<dyn ReadAt> {
        Box::new(AtRead { inner, reads: Arc::clone(&reads), at, event: Arc::clone(&event) })
    };
    Arc::new(DiskMap::options().queue(Arc::clone(queue)).read_through(wrap).open(path).unwrap())
}

fn source_error(error: &Error) -> &SourceError {
    match error {
        Error::Source(e) => e,
        other => panic!("not an error of the source: {other:?}"),
    }
}

#[test]
fn a_disk_that_fails_once_fails_one_pass() {
    for n in 0..16 {
        in_time(&format!("read {n}"), move || {
            let (_dir, path, raw) = layers();
            let queue = Arc::new(ReadQueue::new(1 << 20));
            let source = open(&path, &queue, n, || Err(io::Error::from_raw_os_error(5)));
            let options = options(BUDGET, Some(1 << 20), 3);
            let budget = options.budget.clone();
            let engine = raw.engine_over(source, options, false);
            let failed = (0..8).find_map(|_| raw.pass(&engine, &ALL).err());
            let failed = failed.unwrap_or_else(|| panic!("read {n} was never made"));
            let e = source_error(&failed);
            assert_eq!((e.kind(), e.path()), (SourceErrorKind::Io, Some(path.as_path())), "{e}");
            assert!(e.offset().is_some() && e.tensor().is_some_and(|t| t.starts_with("layer.")), "{e}");
            for _ in 0..3 {
                raw.pass(&engine, &ALL).unwrap();
            }
            drop(engine);
            assert_eq!((budget.used(), queue.bytes_in_flight()), (0, 0));
        });
    }
}

#[test]
fn a_file_that_is_cut_short_in_a_pass_is_an_error_and_never_zeros() {
    for n in [0, 1, 5, 11] {
        in_time(&format!("read {n}"), move || {
            let (_dir, path, raw) = layers();
            let queue = Arc::new(ReadQueue::new(1 << 20));
            let cut = path.clone();
            let source =
                open(&path, &queue, n, move || OpenOptions::new().write(true).open(&cut)?.set_len(1 << 20));
            let options = options(BUDGET, Some(1 << 20), 3);
            let budget = options.budget.clone();
            let engine = raw.engine_over(source, options, false);
            // `check` compares every byte of every layer that a pass did give.
            let failed = (0..8).find_map(|_| raw.pass(&engine, &ALL).err());
            let failed = failed.unwrap_or_else(|| panic!("read {n} was never made"));
            let e = source_error(&failed);
            assert_eq!((e.kind(), e.path()), (SourceErrorKind::Truncated, Some(path.as_path())), "{e}");
            assert!(e.tensor().is_some_and(|t| t.starts_with("layer.")), "{e}");
            // What is not there stays an error.
            assert_eq!(
                source_error(&raw.pass(&engine, &ALL).unwrap_err()).kind(),
                SourceErrorKind::Truncated
            );
            drop(engine);
            assert_eq!((budget.used(), queue.bytes_in_flight()), (0, 0));
        });
    }
}
