//! The engine over a real file that fails or is cut short in the middle of a pass.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vram_device::Budget;
use vram_diskmap::{DiskMap, ReadAt, ReadMode, ReadQueue, SafetensorsWriter};
use vram_layers::{Engine, Error, Split};
use vram_types::{DType, SourceErrorKind, TensorMeta, WeightSource};

use crate::common::{Raw, in_time, options, source_error};
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

/// An engine over a file to which something happened in a pass, and what that pass said.
struct Failed {
    raw: Raw,
    engine: Engine,
    error: Error,
    budget: Budget,
    queue: Arc<ReadQueue>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Failed {
    /// `event` happens at read `n`. `pass` compares every byte of every layer that a pass did give.
    fn at_read<F>(n: usize, event: impl FnOnce(PathBuf) -> F) -> Failed
    where
        F: Fn() -> io::Result<()> + Send + Sync + 'static,
    {
        let (dir, path, raw) = layers();
        let queue = Arc::new(ReadQueue::new(1 << 20));
        let source = open(&path, &queue, n, event(path.clone()));
        let options = options(BUDGET, Some(1 << 20), 3);
        let budget = options.budget.clone();
        let engine = raw.engine_over(source, options, false);
        let failed = (0..8).find_map(|_| raw.pass(&engine, &ALL).err());
        let error = failed.unwrap_or_else(|| panic!("read {n} was never made"));
        let said = source_error(&error);
        assert_eq!(said.path(), Some(path.as_path()), "{said}");
        assert!(said.tensor().is_some_and(|t| t.starts_with("layer.")), "{said}");
        Failed { raw, engine, error, budget, queue, path, _dir: dir }
    }

    /// Ends the engine, and nothing is held any more.
    fn end(self) {
        drop(self.engine);
        assert_eq!((self.budget.used(), self.queue.bytes_in_flight()), (0, 0), "{}", self.path.display());
    }
}

/// Where in a page the memory and the file's bytes of each long read begin.
struct Within {
    inner: Box<dyn ReadAt>,
    reads: Arc<Mutex<Vec<(usize, u64)>>>,
}

impl ReadAt for Within {
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        if dst.len() >= 64 << 10 {
            self.reads.lock().unwrap().push((dst.as_ptr() as usize % 4096, offset % 4096));
        }
        self.inner.read_at(dst, offset)
    }
}

/// A file system that is content with sectors of 512 bytes brings them a quarter slower to memory that begins within a page.
#[test]
fn long_reads_begin_with_a_page_of_memory_and_of_the_file() {
    let (dir, written, raw) = layers();
    // Our own writer begins the tensors with a page. Others do not.
    let (path, bytes) = (dir.path().join("others.safetensors"), std::fs::read(written).unwrap());
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let shorter = bytes[8..8 + header].trim_ascii_end();
    let spaces = vec![b' '; 3000 - shorter.len()];
    std::fs::write(&path, [&3000u64.to_le_bytes(), shorter, &spaces, &bytes[8 + header..]].concat()).unwrap();
    for mode in [ReadMode::Direct, ReadMode::Buffered] {
        let reads = Arc::new(Mutex::new(Vec::new()));
        for discrete in [false, true] {
            let seen = Arc::clone(&reads);
            let wrap = move |_: &Path, inner| -> Box<dyn ReadAt> {
                Box::new(Within { inner, reads: Arc::clone(&seen) })
            };
            let source = DiskMap::options().read(mode).read_through(wrap).open(&path).unwrap();
            assert_eq!(source.locate("layer.0").unwrap().ranges[0].offset, 3008);
            let engine = raw.engine_over(Arc::new(source), options(BUDGET, Some(1 << 20), 3), discrete);
            for _ in 0..3 {
                raw.pass(&engine, &ALL).unwrap();
            }
        }
        let reads = reads.lock().unwrap();
        assert!(reads.len() >= ALL.len());
        let apart = reads.iter().find(|(memory, file)| *memory as u64 != *file);
        assert_eq!(apart, None, "{mode:?}");
    }
}

#[test]
fn a_disk_that_fails_once_fails_one_pass() {
    for n in 0..16 {
        in_time(&format!("read {n}"), move || {
            let failed = Failed::at_read(n, |_| || Err(io::Error::from_raw_os_error(5)));
            let said = source_error(&failed.error);
            assert!(said.kind() == SourceErrorKind::Io && said.offset().is_some(), "{said}");
            for _ in 0..3 {
                failed.raw.pass(&failed.engine, &ALL).unwrap();
            }
            failed.end();
        });
    }
}

#[test]
fn a_file_that_is_cut_short_in_a_pass_is_an_error_and_never_zeros() {
    for n in [0, 1, 5, 11] {
        in_time(&format!("read {n}"), move || {
            let cut = |path| move || OpenOptions::new().write(true).open(&path)?.set_len(1 << 20);
            let failed = Failed::at_read(n, cut);
            assert_eq!(source_error(&failed.error).kind(), SourceErrorKind::Truncated);
            // What is not there stays an error.
            let again = failed.raw.pass(&failed.engine, &ALL).unwrap_err();
            assert_eq!(source_error(&again).kind(), SourceErrorKind::Truncated);
            failed.end();
        });
    }
}
