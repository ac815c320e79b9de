//! Memory that begins at a multiple of a sector, in a bounded number of reused pieces.

use std::sync::Mutex;

/// Bytes of one bounce buffer: long enough that the disk, not the call, sets the speed.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces kept for the next reader.
const MOST_KEPT: usize = 4;

/// A buffer of which a part begins at a multiple of an alignment.
pub(crate) struct Aligned {
    buffer: Vec<u8>,
    start: usize,
    len: usize,
    align: usize,
}

impl Aligned {
    /// `len` bytes that begin at a multiple of `align`, a power of two.
    pub(crate) fn new(len: usize, align: usize) -> Aligned {
        let buffer = vec![0; len + align];
        let start = buffer.as_ptr().align_offset(align).min(align);
        Aligned { buffer, start, len, align }
    }

    /// Whether it is as long, and begins as it should.
    pub(crate) fn fits(&self, len: usize, align: usize) -> bool {
        self.len >= len && self.align >= align
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}

/// Bounce buffers that readers borrow and return.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Aligned>>);

impl Pool {
    /// Runs `work` with a piece whose bytes begin at a multiple of `align`.
    pub(crate) fn with<R>(&self, align: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let kept = self.0.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let len = PIECE_BYTES.max(align);
        let mut piece =
            kept.filter(|piece| piece.fits(len, align)).unwrap_or_else(|| Aligned::new(len, align));
        let result = work(piece.bytes());
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if kept.len() < MOST_KEPT {
            kept.push(piece);
        }
        result
    }
}
