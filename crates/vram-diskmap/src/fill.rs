//! New files, filled piece by piece by several threads, each of which writes what it has filled to its place: memory stays
//! bounded however large they are, and what was just computed is written out of the processor's own cache.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use vram_types::{CancelToken, SourceError, TensorMeta};

use crate::placed::PlacedWriter;
use crate::write::SafetensorsWriter;

/// Bytes that a thread fills at a time, at most. A multiple of every dtype's elements; twice as many, and the sectors at their
/// ends, fit a huge page.
const MOST_PIECE_BYTES: u64 = PIECE_UNIT * 84;
/// Pieces are multiples of this: whole elements of every dtype.
const PIECE_UNIT: u64 = 12 << 10;
/// All pieces together, of which each thread has one.
const MOST_HELD_BYTES: u64 = 32 << 20;

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// Its dtype and shape.
    pub meta: TensorMeta,
}

/// A safetensors file that is to be written: its tensors one after the other.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Where it is to be.
    pub path: PathBuf,
    /// What it is to hold, in that order.
    pub tensors: Vec<NewTensor>,
    /// Its `__metadata__`.
    pub metadata: Vec<(String, String)>,
    /// Whether to write a checksum of each tensor into the metadata.
    pub checksums: bool,
}

impl NewFile {
    /// Bytes of all tensors, without the header.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.meta.bytes()).fold(0, u64::saturating_add)
    }

    /// Where it is to be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn create(&self) -> Result<PlacedWriter, SourceError> {
        let tensors = self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.meta.clone()));
        let writer = match self.checksums {
            true => SafetensorsWriter::create_with_checksums(&self.path, tensors, &self.metadata),
            false => SafetensorsWriter::create(&self.path, tensors, &self.metadata),
        };
        PlacedWriter::new(writer?)
    }

    fn pieces(&self, file: usize, most: u64) -> impl Iterator<Item = Piece<'_>> {
        let mut end = 0;
        self.tensors.iter().flat_map(move |tensor| {
            let (begin, bytes) = (end, tensor.meta.bytes());
            end += bytes;
            (0..bytes.div_ceil(most)).map(move |i| Piece {
                file,
                tensor,
                begin,
                at: i * most,
                bytes: most.min(bytes - i * most) as usize,
            })
        })
    }
}

/// Fills a piece of a tensor that begins at that offset in it in bytes: a whole number of elements.
pub type Fill<'a> = dyn Fn(&NewTensor, u64, &mut [u8]) -> Result<(), SourceError> + Sync + 'a;

/// A run of bytes that one thread fills and writes.
#[derive(Clone, Copy)]
struct Piece<'a> {
    file: usize,
    tensor: &'a NewTensor,
    /// Where the tensor begins among the file's bytes of tensors.
    begin: u64,
    at: u64,
    bytes: usize,
}

/// Writes all files; `written` is told the tensor and the bytes of each piece, in about their order. The files have their names
/// only once all are whole; after a failure nothing is left. Memory is some 32 MiB at most, whatever the tensors' size and the
/// threads' number.
///
/// # Errors
/// Those of `fill` and of [`SafetensorsWriter`], of several the one whose piece comes first; `Cancelled`.
pub fn write_files(
    files: &[NewFile],
    threads: usize,
    cancel: &CancelToken,
    fill: &Fill<'_>,
    written: &mut dyn FnMut(&NewTensor, u64),
) -> Result<(), SourceError> {
    let writers = files.iter().map(NewFile::create).collect::<Result<Vec<_>, _>>()?;
    let threads = threads.max(1);
    let most = MOST_HELD_BYTES / threads as u64;
    let most = (most / PIECE_UNIT * PIECE_UNIT).clamp(PIECE_UNIT, MOST_PIECE_BYTES);
    let pieces: Vec<Piece<'_>> =
        files.iter().enumerate().flat_map(|(i, file)| file.pieces(i, most)).collect();
    let one = |piece: &Piece<'_>, memory: &mut Vec<u8>| {
        cancel.check()?;
        // Never made shorter, so that no byte is cleared twice.
        if memory.len() < piece.bytes {
            memory.resize(piece.bytes, 0);
        }
        let bytes = &mut memory[..piece.bytes];
        fill(piece.tensor, piece.at, bytes)?;
        writers[piece.file].write(&piece.tensor.name, piece.begin + piece.at, bytes)
    };
    each(&pieces, threads.min(pieces.len()), &one, &mut |piece| {
        written(piece.tensor, piece.bytes as u64);
    })?;
    // Also what came with the last piece: what is cancelled leaves nothing.
    cancel.check()?;
    writers.into_iter().try_for_each(PlacedWriter::finish)
}

/// What one thread does with a piece, in memory of its own.
type One<'a> = dyn Fn(&Piece<'_>, &mut Vec<u8>) -> Result<(), SourceError> + Sync + 'a;

/// Takes pieces in turn on several threads, and tells of those that are done. After a failure no more are begun.
fn each(
    pieces: &[Piece<'_>],
    threads: usize,
    one: &One<'_>,
    done: &mut dyn FnMut(&Piece<'_>),
) -> Result<(), SourceError> {
    let next = &AtomicUsize::new(0);
    let (tell, told) = mpsc::channel();
    let mut failure: Option<(usize, SourceError)> = None;
    thread::scope(|scope| {
        for _ in 0..threads {
            let tell = tell.clone();
            scope.spawn(move || {
                let mut memory = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(piece) = pieces.get(number) else { break };
                    let result = one(piece, &mut memory);
                    if result.is_err() {
                        next.store(pieces.len(), Ordering::Relaxed);
                    }
                    if tell.send((number, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tell);
        for (number, result) in told {
            match (result, pieces.get(number)) {
                (Ok(()), Some(piece)) => done(piece),
                (Err(error), _) if failure.as_ref().is_none_or(|(first, _)| number < *first) => {
                    failure = Some((number, error));
                }
                _ => {}
            }
        }
    });
    match failure {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}
