//! What one thread, or one submission, reads at a time.

use vram_types::{FileId, SourceError};

use super::aligned::{BOUNCE_BYTES, HUGE_PAGE};
use super::direct::DEFAULT_ALIGNMENT;
use super::{Piece, StoredFile, Terms};

/// Bytes of one read: long enough for a disk's full speed, short enough that several are on their way of one tensor.
const PIECE_BYTES: u64 = 2 << 20;
/// Bytes copied out of a map at a time: whole huge pages, which are mapped and given back each in one.
const MAPPED_BYTES: u64 = 2 * HUGE_PAGE as u64;

/// One read.
pub(crate) enum Task<'a> {
    /// Straight to its place.
    One(Piece<'a>),
    /// Several neighbours, of which the first begins first: read together and copied to their places.
    Joint(Joint<'a>),
}

/// Neighbours that are read together.
pub(crate) struct Joint<'a> {
    pub(crate) len: usize,
    pub(crate) parts: Vec<Piece<'a>>,
}

/// What went wrong, and where.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The file and the first byte that was being read.
    pub(crate) place: Option<(FileId, u64)>,
    pub(crate) error: Box<SourceError>,
}

impl<'a> Task<'a> {
    /// Neighbours as one read; `None` for none.
    pub(crate) fn joint(mut parts: Vec<Piece<'a>>) -> Option<Task<'a>> {
        if parts.len() < 2 {
            return parts.pop().map(Task::One);
        }
        let begin = parts.first()?.offset;
        let end = parts.iter().map(|p| p.offset + p.len as u64).max()?;
        Some(Task::Joint(Joint { len: (end - begin) as usize, parts }))
    }

    /// The file and the first byte that is read of it.
    pub(crate) fn begins(&self) -> Option<(FileId, &'a StoredFile, u64)> {
        let first = match self {
            Task::One(piece) => piece,
            Task::Joint(joint) => joint.parts.first()?,
        };
        Some((first.id, first.file, first.offset))
    }

    /// Bytes that are read.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Task::One(piece) => piece.len,
            Task::Joint(joint) => joint.len,
        }
    }

    /// A failure of this read.
    #[cfg_attr(not(all(target_os = "linux", feature = "io-uring")), allow(dead_code))] // threads consume the task
    pub(crate) fn failed(&self, error: SourceError) -> Failed {
        Failed { place: self.place(), error: Box::new(error) }
    }

    /// What an error says of where it was.
    pub(crate) fn place(&self) -> Option<(FileId, u64)> {
        self.begins().map(|(id, _, offset)| (id, offset))
    }

    /// Reads on the calling thread.
    pub(crate) fn run(self, terms: &Terms<'_>) -> Result<(), SourceError> {
        let Some((_, file, offset)) = self.begins() else { return Ok(()) };
        match self {
            Task::One(piece) => file.read(terms, piece),
            Task::Joint(mut joint) => terms.pool.with(BOUNCE_BYTES, DEFAULT_ALIGNMENT, |buffer| {
                let at = (offset % DEFAULT_ALIGNMENT as u64) as usize;
                let (id, len) = (FileId(0), joint.len);
                file.read(terms, Piece { id, file, offset, dst: buffer, at, len })?;
                joint.scatter(&buffer[at..at + len]);
                Ok(())
            }),
        }
    }
}

impl Joint<'_> {
    /// Copies what was read to where it goes.
    pub(crate) fn scatter(&mut self, bytes: &[u8]) {
        let begin = self.parts.first().map_or(0, |p| p.offset);
        for part in &mut self.parts {
            let from = (part.offset - begin) as usize;
            let len = part.len;
            part.wanted().copy_from_slice(&bytes[from..from + len]);
        }
    }
}

/// How long the reads of a file are, and what they begin at multiples of.
fn grain(file: &StoredFile) -> (u64, u64) {
    match file.map() {
        Some(_) => (MAPPED_BYTES, HUGE_PAGE as u64),
        None => (PIECE_BYTES, DEFAULT_ALIGNMENT as u64),
    }
}

/// Bytes of the first read of a range: all, or up to the border of a sector, or of a huge page of a map.
pub(super) fn first(file: &StoredFile, offset: u64, len: usize) -> usize {
    let (bytes, align) = grain(file);
    // A rest that is hardly worth a read of its own goes with the piece before it.
    if len as u64 <= bytes + bytes / 4 { len } else { ((offset + bytes) / align * align - offset) as usize }
}

/// Cuts a request into reads.
pub(crate) fn cut<'a>(mut piece: Piece<'a>, tasks: &mut Vec<Task<'a>>) {
    while !is_whole(&piece) {
        let len = first(piece.file, piece.offset, piece.len);
        let (front, back) = piece.split_off_front(len);
        tasks.push(Task::One(front));
        piece = back;
    }
    tasks.push(Task::One(piece));
}

/// Whether [`cut`] would leave it whole.
pub(crate) fn is_whole(piece: &Piece<'_>) -> bool {
    first(piece.file, piece.offset, piece.len) == piece.len
}
