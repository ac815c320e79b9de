//! What each piece is read by: the page cache, or past it.

use std::io;

use vram_types::SourceError;

use super::cache::{Cached, bring, cached};
use super::direct::DEFAULT_ALIGNMENT;
use super::local::LocalFile;
use super::mode::{ReadMode, ReadPath};
use super::piece::Piece;
use super::storage::complete;
use super::terms::{LEAST_DIRECT_BYTES, Terms};

/// What is brought from where a short read begins: hardly more time of a disk than a page, and the
/// next short reads find it.
const BROUGHT_BYTES: u64 = 64 << 10;
/// Pieces of a partly cached range are not split further.
const LEAST_SPLIT_BYTES: usize = 1 << 20;

/// Bytes that there were, or the system's error; outside of that, why the read did not begin.
type Got = Result<io::Result<usize>, SourceError>;

impl LocalFile {
    /// Reads a piece of this file on the calling thread. The caller has checked that it fits.
    pub(super) fn read(&self, terms: &Terms<'_>, mut piece: Piece<'_>) -> Result<(), SourceError> {
        let (len, offset) = (piece.len, piece.offset);
        let got = match self.map() {
            Some(map) => Ok(map.copy(piece.wanted(), offset, terms.streamed)),
            None => self.read_by(terms, piece)?,
        };
        complete(self, got, len, offset)
    }

    /// Reads a piece as the mode says. Less than its length only at the end of the file.
    fn read_by(&self, terms: &Terms<'_>, piece: Piece<'_>) -> Got {
        match terms.mode {
            ReadMode::Auto if piece.len < LEAST_DIRECT_BYTES => Ok(self.short(piece)),
            ReadMode::Auto => self.auto(terms, piece),
            ReadMode::Buffered => {
                let _permit = terms.enter(piece.len)?;
                Ok(self.plain(piece))
            }
            // A single piece gains nothing by a ring: batches are given to it before they come
            // here.
            ReadMode::Direct | ReadMode::Uring => {
                let _permit = terms.enter(piece.len)?;
                Ok(self.direct(terms, piece))
            }
        }
    }

    fn short(&self, piece: Piece<'_>) -> io::Result<usize> {
        let (file, len) = (self.plain.file(), piece.len as u64);
        if !matches!(cached(file, piece.offset, len), Cached::All | Cached::Unknown) {
            bring(file, piece.offset, len.max(BROUGHT_BYTES));
        }
        self.plain(piece)
    }

    fn plain(&self, mut piece: Piece<'_>) -> io::Result<usize> {
        let offset = piece.offset;
        self.fill(piece.wanted(), offset)
    }

    fn direct(&self, terms: &Terms<'_>, mut piece: Piece<'_>) -> io::Result<usize> {
        match self.direct.read(&self.plain, self.path(), terms.pool, piece.reborrow()) {
            Some(result) => result,
            None => self.plain(piece),
        }
    }

    fn auto(&self, terms: &Terms<'_>, piece: Piece<'_>) -> Got {
        let len = piece.len;
        match cached(self.plain.file(), piece.offset, len as u64) {
            Cached::All => Ok(self.plain(piece)),
            Cached::None => self.cold(terms, piece),
            Cached::Missing(_) if len >= 2 * LEAST_SPLIT_BYTES => {
                // Halves on a sector's border, so that the second stays congruent.
                let cut = piece.offset + len as u64 / 2;
                let half = (cut - cut % DEFAULT_ALIGNMENT as u64 - piece.offset) as usize;
                let (first, second) = piece.split_off_front(half);
                match self.auto(terms, first)? {
                    Ok(got) if got == half => {}
                    other => return Ok(other),
                }
                Ok(self.auto(terms, second)?.map(|rest| half + rest))
            }
            Cached::Missing(pages) => {
                let mostly_cold = pages as usize > len / DEFAULT_ALIGNMENT / 2;
                if mostly_cold { self.cold(terms, piece) } else { Ok(self.plain(piece)) }
            }
            Cached::Unknown => self.unknown(terms, piece),
        }
    }

    /// Reads what the page cache has not, and leaves it as it was.
    fn cold(&self, terms: &Terms<'_>, mut piece: Piece<'_>) -> Got {
        let _permit = terms.enter(piece.len)?;
        if self.mount.path() != ReadPath::Buffered
            && let Some(result) = self.direct.read(&self.plain, self.path(), terms.pool, piece.reborrow())
        {
            self.mount.has_given(piece.len as u64);
            return Ok(result);
        }
        let len = piece.len as u64;
        let got = self.pass_through(piece);
        self.mount.has_given(len);
        Ok(got)
    }

    /// Takes what the cache gives without waiting, and the rest past it.
    #[cfg(target_os = "linux")]
    fn unknown(&self, terms: &Terms<'_>, mut piece: Piece<'_>) -> Got {
        use rustix::io::{ReadWriteFlags, preadv2};

        if !self.plain.is_bare() {
            return self.cold(terms, piece);
        }
        let mut done = 0;
        while done < piece.len {
            let from = piece.offset + done as u64;
            let mut part = [io::IoSliceMut::new(&mut piece.wanted()[done..])];
            match preadv2(self.plain.file(), &mut part, from, ReadWriteFlags::NOWAIT) {
                Ok(0) => return Ok(Ok(done)),
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => return Ok(self.plain(piece)),
            }
        }
        match piece.len - done {
            0 => Ok(Ok(done)),
            rest => {
                // Slack before the rest holds what has just been read, so it is not given away.
                let (_, back) = piece.split_off_front(done);
                let got =
                    if rest < LEAST_DIRECT_BYTES { Ok(self.plain(back)) } else { self.cold(terms, back) };
                Ok(got?.map(|got| done + got))
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn unknown(&self, _: &Terms<'_>, piece: Piece<'_>) -> Got {
        Ok(self.plain(piece))
    }
}
