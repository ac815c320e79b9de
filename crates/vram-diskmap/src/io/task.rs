//! What one thread, or one submission, reads at a time.

use vram_types::{FileId, SourceError};

use super::aligned::{BOUNCE_BYTES, HUGE_PAGE};
use super::direct::DEFAULT_ALIGNMENT;
use super::local::LocalFile;
use super::piece::Piece;
use super::stored::FileRef;
use super::terms::Terms;

/// Bytes of one read: long enough for a disk's full speed, short enough that several are on their
/// way of one tensor.
const PIECE_BYTES: u64 = 2 << 20;
/// Bytes copied out of a map at a time: whole huge pages, which are mapped and given back each in
/// one.
const MAPPED_BYTES: u64 = 2 * HUGE_PAGE as u64;

/// Bytes of a file of a map.
pub(crate) struct Read<'a> {
    pub(crate) id: FileId,
    pub(crate) file: FileRef<'a>,
    pub(crate) piece: Piece<'a>,
}

impl Read<'_> {
    /// The same bytes as a read of a shorter life.
    pub(crate) fn reborrow(&mut self) -> Read<'_> {
        Read { id: self.id, file: self.file, piece: self.piece.reborrow() }
    }
}

/// What is read at a time.
pub(crate) enum Task<'a> {
    /// Straight to its place.
    One(Read<'a>),
    /// Several neighbours, of which the first begins first: read together and copied to their
    /// places.
    Joint(Joint<'a>),
}

/// Neighbours that are read together.
pub(crate) struct Joint<'a> {
    pub(crate) len: usize,
    pub(crate) parts: Vec<Read<'a>>,
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
    pub(crate) fn joint(mut parts: Vec<Read<'a>>) -> Option<Task<'a>> {
        if parts.len() < 2 {
            return parts.pop().map(Task::One);
        }
        let begin = parts.first()?.piece.offset;
        let end = parts.iter().map(|Read { piece, .. }| piece.offset + piece.len as u64).max()?;
        Some(Task::Joint(Joint { len: (end - begin) as usize, parts }))
    }

    /// The file and the first byte that is read of it.
    pub(crate) fn begins(&self) -> Option<(FileId, FileRef<'a>, u64)> {
        let first = match self {
            Task::One(read) => read,
            Task::Joint(joint) => joint.parts.first()?,
        };
        Some((first.id, first.file, first.piece.offset))
    }

    /// Bytes that are read.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Task::One(read) => read.piece.len,
            Task::Joint(joint) => joint.len,
        }
    }

    /// Bytes of memory that it is read to before they go to their places.
    pub(super) fn joint_bytes(&self) -> usize {
        match self {
            Task::One(_) => 0,
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
            Task::One(read) => file.read(terms, read.piece),
            Task::Joint(mut joint) => terms.pool.with(BOUNCE_BYTES, DEFAULT_ALIGNMENT, |buffer| {
                let at = (offset % DEFAULT_ALIGNMENT as u64) as usize;
                let len = joint.len;
                file.read(terms, Piece { offset, dst: buffer, at, len })?;
                joint.scatter(&buffer[at..at + len]);
                Ok(())
            }),
        }
    }
}

impl Joint<'_> {
    /// Copies what was read to where it goes.
    pub(crate) fn scatter(&mut self, bytes: &[u8]) {
        let begin = self.parts.first().map_or(0, |first| first.piece.offset);
        for Read { piece, .. } in &mut self.parts {
            let from = (piece.offset - begin) as usize;
            let len = piece.len;
            piece.wanted().copy_from_slice(&bytes[from..from + len]);
        }
    }
}

/// How long the reads of a file are, and what they begin at multiples of.
fn grain(file: &LocalFile) -> (u64, u64) {
    match file.map() {
        Some(_) => (MAPPED_BYTES, HUGE_PAGE as u64),
        None => (PIECE_BYTES, DEFAULT_ALIGNMENT as u64),
    }
}

/// Bytes of the first read of a range: all, or up to the border of a sector, or of a huge page of
/// a map. Storages cut for themselves.
pub(super) fn first(file: FileRef<'_>, offset: u64, len: usize) -> usize {
    let Some((bytes, align)) = file.local().map(grain) else { return len };
    // A rest that is hardly worth a read of its own goes with the piece before it.
    if len as u64 <= bytes + bytes / 4 { len } else { ((offset + bytes) / align * align - offset) as usize }
}

/// Cuts a request into reads.
pub(crate) fn cut<'a>(read: Read<'a>, tasks: &mut Vec<Task<'a>>) {
    let Read { id, file, mut piece } = read;
    loop {
        let len = first(file, piece.offset, piece.len);
        if len == piece.len {
            break;
        }
        let (front, back) = piece.split_off_front(len);
        tasks.push(Task::One(Read { id, file, piece: front }));
        piece = back;
    }
    tasks.push(Task::One(Read { id, file, piece }));
}

/// Whether [`cut`] would leave it whole.
pub(crate) fn is_whole(read: &Read<'_>) -> bool {
    first(read.file, read.piece.offset, read.piece.len) == read.piece.len
}
