//! New files, filled piece by piece by several threads, each of which writes what it has filled to
//! its place: memory stays bounded however large they are, and what was just computed is written
//! out of the processor's own cache.
//!
//! What comes from a disk is brought by threads that do nothing else. One that also computes waits
//! for a processor when its bytes are there, behind others that compute, and the disk waits with
//! it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use vram_types::{CancelToken, SourceError, TensorMeta};

use crate::write::placed::PlacedWriter;
use crate::write::safetensors::SafetensorsWriter;

/// Bytes of a piece at most, where nothing is known of how it is made. A multiple of every dtype's
/// elements.
const MOST_PIECE_BYTES: u64 = PIECE_UNIT * 84;
/// Pieces are multiples of this: whole elements of every dtype.
pub(crate) const PIECE_UNIT: u64 = 12 << 10;
/// All pieces together, of which each thread has one.
const MOST_HELD_BYTES: u64 = 32 << 20;
/// Threads that make and write what others have brought, at most.
const MOST_MAKERS: usize = 8;

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

    fn pieces(&self, file: usize, most: impl Fn(&NewTensor) -> u64) -> impl Iterator<Item = Piece<'_>> {
        let mut end = 0;
        self.tensors.iter().flat_map(move |tensor| {
            let (begin, bytes, most) = (end, tensor.meta.bytes(), most(tensor));
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

/// Fills a piece of a tensor that begins at that offset in it in bytes: a whole number of
/// elements.
pub type Fill<'a> = dyn Fn(&NewTensor, u64, &mut [u8]) -> Result<(), SourceError> + Sync + 'a;

/// How pieces are made of what is brought from elsewhere.
pub(crate) trait Making: Sync {
    /// Memory for what is brought. It goes around among the threads.
    type Memory: Default + Send;

    /// Bytes of a tensor that are made at a time: a multiple of [`PIECE_UNIT`].
    fn most(&self, tensor: &NewTensor) -> u64;

    /// Brings what so many bytes at an offset of a tensor are made of.
    fn bring(
        &self,
        tensor: &NewTensor,
        at: u64,
        bytes: usize,
        memory: &mut Self::Memory,
    ) -> Result<(), SourceError>;

    /// Makes them, in `own` unless they are there already.
    fn make<'m>(
        &self,
        tensor: &NewTensor,
        bytes: usize,
        brought: &'m Self::Memory,
        own: &'m mut Vec<u8>,
    ) -> Result<&'m [u8], SourceError>;
}

/// A run of bytes that one thread makes and writes.
#[derive(Clone, Copy)]
struct Piece<'a> {
    file: usize,
    tensor: &'a NewTensor,
    /// Where the tensor begins among the file's bytes of tensors.
    begin: u64,
    at: u64,
    bytes: usize,
}

/// Writes all files; `written` is told the tensor and the bytes of each piece, in about their
/// order. The files have their names only once all are whole; after a failure nothing is left.
/// Memory is some 32 MiB at most, whatever the tensors' size and the threads' number.
///
/// # Errors
/// Those of `fill` and of [`SafetensorsWriter`], of several the one whose piece comes first;
/// `Cancelled`.
pub fn write_files(
    files: &[NewFile],
    threads: usize,
    cancel: &CancelToken,
    fill: &Fill<'_>,
    written: &mut dyn FnMut(&NewTensor, u64),
) -> Result<(), SourceError> {
    let threads = threads.max(1);
    let most = MOST_HELD_BYTES / threads as u64;
    let most = (most / PIECE_UNIT * PIECE_UNIT).clamp(PIECE_UNIT, MOST_PIECE_BYTES);
    let writing = Writing::new(files, cancel, |_| most)?;
    let next = Next::new(&writing.pieces);
    let take = || Some((next.take()?, ()));
    let one = |piece: &Piece<'_>, (), own: &mut Vec<u8>, (): &()| {
        cancel.check()?;
        let bytes = room(own, piece.bytes);
        fill(piece.tensor, piece.at, bytes)?;
        writing.put(piece, bytes)
    };
    each(&writing.pieces, (threads, ()), &next, &take, &one, &mut |piece| {
        written(piece.tensor, piece.bytes as u64);
    })?;
    writing.finish()
}

/// The same for what `making` makes: `readers` threads bring it, and as many as the machine runs
/// at once make and write it.
pub(crate) fn write_brought<M: Making>(
    files: &[NewFile],
    readers: usize,
    cancel: &CancelToken,
    making: &M,
    written: &mut dyn FnMut(&NewTensor, u64),
) -> Result<(), SourceError> {
    let writing = Writing::new(files, cancel, |tensor| making.most(tensor))?;
    let pieces = &writing.pieces;
    let makers = thread::available_parallelism().map_or(1, usize::from).clamp(1, MOST_MAKERS);
    let readers = readers.clamp(1, pieces.len().max(1));
    let next = Next::new(pieces);
    let (give, given) = mpsc::channel();
    // The senders are the makers': once those are gone, for whatever reason, no reader waits for
    // memory.
    let (free, freed) = mpsc::channel();
    for _ in 0..readers + 2 * makers {
        // Its receiver is held below.
        let _ = free.send(M::Memory::default());
    }
    let (given, freed) = (Mutex::new(given), Mutex::new(freed));
    let bring = |number: usize, memory: &mut M::Memory| {
        cancel.check()?;
        let Some(piece) = pieces.get(number) else { return Ok(()) };
        making.bring(piece.tensor, piece.at, piece.bytes, memory)
    };
    let read = |give: Sender<_>| {
        while let (Some(mut memory), Some(number)) = (receive(&freed), next.take()) {
            let brought = bring(number, &mut memory);
            if give.send((number, (memory, brought))).is_err() {
                break;
            }
        }
    };
    let take = || receive(&given);
    let one = |piece: &Piece<'_>, (memory, brought): Brought<M>, own: &mut Vec<u8>, free: &Sender<_>| {
        let made = brought.and_then(|()| making.make(piece.tensor, piece.bytes, &memory, own));
        let put = made.and_then(|bytes| writing.put(piece, bytes));
        // Also after a failure, for a reader that waits would never end; where the readers are
        // done nobody waits.
        let _ = free.send(memory);
        put
    };
    thread::scope(|scope| {
        for _ in 0..readers {
            let give = give.clone();
            scope.spawn(|| read(give));
        }
        drop(give);
        each(pieces, (makers, free), &next, &take, &one, &mut |piece| {
            written(piece.tensor, piece.bytes as u64);
        })
    })?;
    writing.finish()
}

/// What a reader gives: memory, and whether it holds what was to be brought.
type Brought<M> = (<M as Making>::Memory, Result<(), SourceError>);

/// Waits for what a channel with several receivers gives; `None` once all senders are gone.
fn receive<T>(from: &Mutex<Receiver<T>>) -> Option<T> {
    from.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// So many bytes of memory that is never made shorter, so that no byte is cleared twice.
pub(crate) fn room(memory: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if memory.len() < bytes {
        memory.resize(bytes, 0);
    }
    &mut memory[..bytes]
}

/// Files that are being written, and what they are written in.
struct Writing<'a> {
    writers: Vec<PlacedWriter>,
    pieces: Vec<Piece<'a>>,
    cancel: &'a CancelToken,
}

impl<'a> Writing<'a> {
    fn new(
        files: &'a [NewFile],
        cancel: &'a CancelToken,
        most: impl Fn(&NewTensor) -> u64,
    ) -> Result<Writing<'a>, SourceError> {
        let writers = files.iter().map(NewFile::create).collect::<Result<_, _>>()?;
        let pieces = files.iter().enumerate().flat_map(|(i, file)| file.pieces(i, &most)).collect();
        Ok(Writing { writers, pieces, cancel })
    }

    fn put(&self, piece: &Piece<'_>, bytes: &[u8]) -> Result<(), SourceError> {
        self.cancel.check()?;
        self.writers[piece.file].write(&piece.tensor.name, piece.begin + piece.at, bytes)
    }

    fn finish(self) -> Result<(), SourceError> {
        // Also what came with the last piece: what is cancelled leaves nothing.
        self.cancel.check()?;
        self.writers.into_iter().try_for_each(PlacedWriter::finish)
    }
}

/// Numbers of pieces, each given once.
struct Next {
    number: AtomicUsize,
    count: usize,
}

impl Next {
    fn new(pieces: &[Piece<'_>]) -> Next {
        Next { number: AtomicUsize::new(0), count: pieces.len() }
    }

    fn take(&self) -> Option<usize> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        (number < self.count).then_some(number)
    }

    fn stop(&self) {
        self.number.store(self.count, Ordering::Relaxed);
    }
}

/// What one thread does with a piece and what was brought for it, in memory of its own and with
/// its share of something.
type One<'a, T, S> = dyn Fn(&Piece<'_>, T, &mut Vec<u8>, &S) -> Result<(), SourceError> + Sync + 'a;

/// Does what `take` gives on several threads, each of which holds a clone of something until it
/// ends, and tells of pieces that are done. After a failure no more are begun.
fn each<T, S: Clone + Send>(
    pieces: &[Piece<'_>],
    (threads, share): (usize, S),
    next: &Next,
    take: &(dyn Fn() -> Option<(usize, T)> + Sync),
    one: &One<'_, T, S>,
    done: &mut dyn FnMut(&Piece<'_>),
) -> Result<(), SourceError> {
    let (tell, told) = mpsc::channel();
    let mut failure: Option<(usize, SourceError)> = None;
    thread::scope(|scope| {
        for _ in 0..threads.min(pieces.len()) {
            let (tell, share) = (tell.clone(), share.clone());
            scope.spawn(move || {
                let mut own = Vec::new();
                while let Some((number, brought)) = take() {
                    let Some(piece) = pieces.get(number) else { break };
                    let result = one(piece, brought, &mut own, &share);
                    if result.is_err() {
                        next.stop();
                    }
                    if tell.send((number, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop((tell, share));
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
