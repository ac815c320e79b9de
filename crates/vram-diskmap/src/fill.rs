//! New files, filled piece by piece by several threads and written in order, so that memory stays bounded however large
//! they are.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use vram_types::{CancelToken, SourceError, SourceErrorKind, TensorMeta};

use crate::write::SafetensorsWriter;

/// Bytes that a thread fills at a time, at most. A multiple of every dtype's elements; twice as many, and the sectors at their
/// ends, fit a huge page.
const MOST_PIECE_BYTES: u64 = PIECE_UNIT * 84;
/// Pieces are multiples of this: whole elements of every dtype.
const PIECE_UNIT: u64 = 12 << 10;
/// All pieces together, of which each thread has three: one being filled, one waiting, one being written.
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

    fn create(&self) -> Result<SafetensorsWriter, SourceError> {
        let tensors = self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.meta.clone()));
        match self.checksums {
            true => SafetensorsWriter::create_with_checksums(&self.path, tensors, &self.metadata),
            false => SafetensorsWriter::create(&self.path, tensors, &self.metadata),
        }
    }

    fn pieces(&self, file: usize, most: u64) -> impl Iterator<Item = Piece<'_>> {
        self.tensors.iter().flat_map(move |tensor| {
            let bytes = tensor.meta.bytes();
            (0..bytes.div_ceil(most)).map(move |i| Piece {
                file,
                tensor,
                at: i * most,
                bytes: most.min(bytes - i * most) as usize,
            })
        })
    }
}

/// Fills a piece of a tensor that begins at that offset in it in bytes: a whole number of elements.
pub type Fill<'a> = dyn Fn(&NewTensor, u64, &mut [u8]) -> Result<(), SourceError> + Sync + 'a;

/// A run of bytes that one thread fills.
#[derive(Clone, Copy)]
struct Piece<'a> {
    file: usize,
    tensor: &'a NewTensor,
    at: u64,
    bytes: usize,
}

/// Writes all files; `written` is told the tensor and the bytes of each piece. The files have their names only once all are
/// whole; after a failure nothing is left. Memory is some 32 MiB, whatever the tensors' size and the threads' number.
///
/// # Errors
/// Those of `fill` and of [`SafetensorsWriter`]; `Cancelled`.
pub fn write_files(
    files: &[NewFile],
    threads: usize,
    cancel: &CancelToken,
    fill: &Fill<'_>,
    written: &mut dyn FnMut(&NewTensor, u64),
) -> Result<(), SourceError> {
    let mut writers = files.iter().map(NewFile::create).collect::<Result<Vec<_>, _>>()?;
    let threads = threads.max(1);
    let most = MOST_HELD_BYTES / (3 * threads as u64);
    let most = (most / PIECE_UNIT * PIECE_UNIT).clamp(PIECE_UNIT, MOST_PIECE_BYTES);
    let pieces: Vec<Piece<'_>> =
        files.iter().enumerate().flat_map(|(i, file)| file.pieces(i, most)).collect();
    fill_in_order(&pieces, threads.min(pieces.len()), fill, |piece, bytes| {
        cancel.check()?;
        writers[piece.file].write(bytes)?;
        written(piece.tensor, bytes.len() as u64);
        Ok(())
    })?;
    writers.into_iter().try_for_each(SafetensorsWriter::finish)
}

/// Fills pieces on several threads and gives them to `write` in order. The threads take turns, each with a channel of
/// its own that holds one piece: who is ahead waits.
fn fill_in_order(
    pieces: &[Piece<'_>],
    threads: usize,
    fill: &Fill<'_>,
    mut write: impl FnMut(&Piece<'_>, &[u8]) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    thread::scope(|scope| {
        let mut lanes = Vec::with_capacity(threads);
        for lane in 0..threads {
            let (filled, take) = mpsc::sync_channel(1);
            let (give_back, spare) = mpsc::channel::<Vec<u8>>();
            scope.spawn(move || {
                for piece in pieces.iter().skip(lane).step_by(threads) {
                    // Never made shorter, so that no byte is cleared twice.
                    let mut bytes = spare.try_recv().unwrap_or_default();
                    if bytes.len() < piece.bytes {
                        bytes.resize(piece.bytes, 0);
                    }
                    let filled_part = &mut bytes[..piece.bytes];
                    let done = fill(piece.tensor, piece.at, filled_part).map(|()| bytes);
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
            let gone = |_| {
                let message = "a thread that filled tensors is gone";
                SourceError::new(SourceErrorKind::Cancelled, message).at_tensor(&piece.tensor.name)
            };
            let bytes = take.recv().map_err(gone)??;
            write(piece, &bytes[..piece.bytes])?;
            // The thread may be done; then the piece is simply freed.
            let _ = give_back.send(bytes);
        }
        Ok(())
    })
}
