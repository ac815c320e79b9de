//! New safetensors files, filled piece by piece from several threads, so that memory stays bounded however large they are.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use vram_types::TensorMeta;

use crate::progress::Progress;

/// Tensor data begins at a multiple of this, so that it can be read past the page cache without a detour.
const ALIGNMENT: usize = 4096;
/// Bytes that a thread fills at a time. A multiple of every element's size.
const PIECE: u64 = 4 << 20;

/// A tensor that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct NewTensor {
    pub(crate) name: String,
    pub(crate) meta: TensorMeta,
}

/// A file that is to be written: its header, and where each tensor goes.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    header: Vec<u8>,
    tensors: Vec<(NewTensor, u64)>,
    bytes: u64,
}

/// Fills a piece of a tensor: the file's number, the tensor, the offset in it in bytes, and the piece.
pub(crate) type Fill<'a> = dyn Fn(usize, &NewTensor, u64, &mut [u8]) -> Result<()> + Sync + 'a;

/// A run of bytes that one thread fills.
struct Piece<'a> {
    file: usize,
    tensor: &'a NewTensor,
    in_tensor: u64,
    in_file: u64,
    bytes: usize,
}

impl NewFile {
    /// Lays the tensors out one after the other in the given order.
    pub(crate) fn new(
        path: &Path,
        tensors: Vec<NewTensor>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<NewFile> {
        let mut names = HashSet::new();
        let mut entries = Map::new();
        if !metadata.is_empty() {
            entries.insert("__metadata__".to_owned(), json!(metadata));
        }
        let mut end = 0u64;
        let mut placed = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let name = tensor.name.clone();
            ensure!(name != "__metadata__" && names.insert(name.clone()), "two tensors are called {name:?}");
            let begin = end;
            end = end
                .checked_add(tensor.meta.bytes())
                .context("the file would be larger than any file can be")?;
            let (dtype, shape) = (tensor.meta.dtype().name(), &tensor.meta.shape()[..]);
            entries.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
            placed.push((tensor, begin));
        }
        let mut json = Value::Object(entries).to_string().into_bytes();
        // The format allows blanks after the header.
        json.resize((8 + json.len()).next_multiple_of(ALIGNMENT) - 8, b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.append(&mut json);
        let data = header.len() as u64;
        let tensors = placed.into_iter().map(|(tensor, begin)| (tensor, data + begin)).collect();
        Ok(NewFile { path: path.to_owned(), header, tensors, bytes: data + end })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn tensors(&self) -> usize {
        self.tensors.len()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(tensor, _)| tensor.name.as_str())
    }

    /// Bytes of all tensors, without the header.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.bytes - self.header.len() as u64
    }

    /// Where the file grows until it is whole.
    fn unfinished(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".tmp");
        PathBuf::from(name)
    }

    fn pieces(&self, file: usize) -> impl Iterator<Item = Piece<'_>> {
        self.tensors.iter().flat_map(move |(tensor, begin)| {
            let bytes = tensor.meta.bytes();
            (0..bytes.div_ceil(PIECE)).map(move |i| Piece {
                file,
                tensor,
                in_tensor: i * PIECE,
                in_file: begin + i * PIECE,
                bytes: PIECE.min(bytes - i * PIECE) as usize,
            })
        })
    }
}

/// Writes all files and tells how long it took. A file has its name only once it is whole; after a failure nothing is left.
pub(crate) fn write(
    what: &'static str,
    files: &[NewFile],
    replace: bool,
    threads: Option<usize>,
    fill: &Fill<'_>,
) -> Result<Duration> {
    for file in files {
        let there = file.path.try_exists().with_context(|| file.path.display().to_string())?;
        ensure!(replace || !there, "{} is there already; --force replaces it", file.path.display());
    }
    let progress = Progress::new(what, files.iter().map(NewFile::tensor_bytes).sum());
    let done = write_unfinished(files, threads, fill, &progress).and_then(|()| {
        let rename =
            |f: &NewFile| fs::rename(f.unfinished(), &f.path).with_context(|| f.path.display().to_string());
        files.iter().try_for_each(rename)
    });
    let took = progress.finish();
    if done.is_err() {
        for file in files {
            // The error that counts is the first; this file may not even exist.
            let _ = fs::remove_file(file.unfinished());
        }
    }
    done.map(|()| took)
}

fn write_unfinished(
    files: &[NewFile],
    threads: Option<usize>,
    fill: &Fill<'_>,
    progress: &Progress,
) -> Result<()> {
    let mut open = Vec::with_capacity(files.len());
    for file in files {
        let path = file.unfinished();
        let create = || -> std::io::Result<File> {
            let out = File::create(&path)?;
            out.set_len(file.bytes)?;
            write_at(&out, &file.header, 0)?;
            Ok(out)
        };
        open.push(create().with_context(|| format!("cannot write {}", path.display()))?);
    }
    let pieces: Vec<Piece<'_>> = files.iter().enumerate().flat_map(|(i, file)| file.pieces(i)).collect();
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || -> Result<()> {
        let mut buffer = vec![0; PIECE as usize];
        while !failed.load(Ordering::Relaxed) {
            let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            let bytes = &mut buffer[..piece.bytes];
            let done = fill(piece.file, piece.tensor, piece.in_tensor, bytes).and_then(|()| {
                let path = || format!("cannot write {}", files[piece.file].unfinished().display());
                write_at(&open[piece.file], bytes, piece.in_file).with_context(path)
            });
            if done.is_err() {
                failed.store(true, Ordering::Relaxed);
                return done;
            }
            progress.add(piece.bytes as u64);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(pieces.len())).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| match w.join() {
            Ok(done) => done,
            Err(_) => bail!("a thread that wrote tensors panicked"),
        })
    })
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if n == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}
