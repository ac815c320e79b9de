//! New safetensors files, filled piece by piece by several threads and written in order, so that memory stays bounded
//! however large they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use vram_diskmap::SafetensorsWriter;
use vram_types::TensorMeta;

use crate::progress::Progress;

/// Bytes that a thread fills at a time. A multiple of every element's size.
const PIECE: u64 = 4 << 20;

/// A tensor that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct NewTensor {
    pub(crate) name: String,
    pub(crate) meta: TensorMeta,
}

/// A file that is to be written: its tensors one after the other.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    tensors: Vec<NewTensor>,
    metadata: Vec<(String, String)>,
}

/// Fills a piece of a tensor that begins at that offset in it in bytes.
pub(crate) type Fill<'a> = dyn Fn(&NewTensor, u64, &mut [u8]) -> Result<()> + Sync + 'a;

/// A run of bytes that one thread fills.
#[derive(Clone, Copy)]
struct Piece<'a> {
    file: usize,
    tensor: &'a NewTensor,
    at: u64,
    bytes: usize,
}

impl NewFile {
    pub(crate) fn new(path: &Path, tensors: Vec<NewTensor>, metadata: BTreeMap<String, String>) -> NewFile {
        NewFile { path: path.to_owned(), tensors, metadata: metadata.into_iter().collect() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn tensors(&self) -> usize {
        self.tensors.len()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// Bytes of all tensors, without the header.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.meta.bytes()).fold(0, u64::saturating_add)
    }

    fn create(&self) -> Result<SafetensorsWriter> {
        let tensors = self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.meta.clone()));
        Ok(SafetensorsWriter::create(&self.path, tensors, &self.metadata)?)
    }

    fn pieces(&self, file: usize) -> impl Iterator<Item = Piece<'_>> {
        self.tensors.iter().flat_map(move |tensor| {
            let bytes = tensor.meta.bytes();
            (0..bytes.div_ceil(PIECE)).map(move |i| Piece {
                file,
                tensor,
                at: i * PIECE,
                bytes: PIECE.min(bytes - i * PIECE) as usize,
            })
        })
    }
}

/// Writes all files and tells how long it took. Files have their names only once all are whole; after a failure nothing
/// is left.
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
    let mut writers = files.iter().map(NewFile::create).collect::<Result<Vec<_>>>()?;
    let pieces: Vec<Piece<'_>> = files.iter().enumerate().flat_map(|(i, file)| file.pieces(i)).collect();
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let progress = Progress::new(what, files.iter().map(NewFile::tensor_bytes).fold(0, u64::saturating_add));
    let written = write_pieces(&pieces, threads.min(pieces.len()), fill, |file, bytes| {
        progress.add(bytes.len() as u64);
        Ok(writers[file].write(bytes)?)
    });
    let took = progress.finish();
    written?;
    writers.into_iter().try_for_each(SafetensorsWriter::finish)?;
    Ok(took)
}

/// Fills pieces on several threads and gives them to `write` in order. The threads take turns, each with a channel of
/// its own that holds one piece: who is ahead waits.
fn write_pieces(
    pieces: &[Piece<'_>],
    threads: usize,
    fill: &Fill<'_>,
    mut write: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let mut lanes = Vec::with_capacity(threads);
        for lane in 0..threads {
            let (filled, take) = mpsc::sync_channel(1);
            let (give_back, spare) = mpsc::channel::<Vec<u8>>();
            scope.spawn(move || {
                for piece in pieces.iter().skip(lane).step_by(threads) {
                    let mut bytes = spare.try_recv().unwrap_or_default();
                    bytes.resize(piece.bytes, 0);
                    let done = fill(piece.tensor, piece.at, &mut bytes).map(|()| bytes);
                    let failed = done.is_err();
                    // Nobody takes it any more once writing has failed.
                    if filled.send(done).is_err() || failed {
                        break;
                    }
                }
            });
            lanes.push((take, give_back));
        }
        for (number, piece) in pieces.iter().enumerate() {
            let (take, give_back) = &lanes[number % threads];
            let bytes = take.recv().map_err(|_| anyhow!("a thread that filled tensors is gone"))??;
            write(piece.file, &bytes)?;
            // The thread may be done; then the piece is simply freed.
            let _ = give_back.send(bytes);
        }
        Ok(())
    })
}
