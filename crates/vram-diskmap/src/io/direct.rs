//! Reads past the page cache (Linux `O_DIRECT`): safe code, since the kernel checks every
//! alignment.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::aligned::{BOUNCE_BYTES, Pool};
use super::handle::{Handle, Wrap};
use super::piece::Piece;
use super::read_at::{ReadAt, fill};

/// What is assumed of a file system that does not tell, and the least that reads are aligned to:
/// where 512 is enough for the file system, a long read to memory that does not begin with a page
/// still takes a quarter longer.
pub(crate) const DEFAULT_ALIGNMENT: usize = 4096;

/// A second descriptor of the same file, opened at the first direct read.
pub(crate) struct Direct {
    wrap: Option<Wrap>,
    file: OnceLock<Option<(Handle, usize)>>,
    refused: AtomicBool,
}

impl Direct {
    pub(crate) fn new(wrap: Option<Wrap>) -> Direct {
        Direct { wrap, file: OnceLock::new(), refused: AtomicBool::new(false) }
    }

    /// The alignment that addresses, offsets and lengths need; `None` if the file cannot be read
    /// directly.
    pub(crate) fn alignment(&self, plain: &Handle, path: &Path) -> Option<usize> {
        Some(self.open(plain, path)?.1)
    }

    /// Fills the piece. Returns how much there was, less than its length only at the end of the
    /// file; `None` if the file cannot be read directly.
    pub(crate) fn read(
        &self,
        plain: &Handle,
        path: &Path,
        pool: &Pool,
        piece: Piece<'_>,
    ) -> Option<io::Result<usize>> {
        let (file, align) = self.open(plain, path)?;
        match (Transfer { file, plain, pool, align: *align }).read(piece) {
            // A file system that opens the file and then refuses the read: never asked again.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                self.refuse();
                None
            }
            result => Some(result),
        }
    }

    /// Never asks for a direct read again.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// The descriptor and its alignment; `None` if the file cannot be read directly.
    pub(crate) fn open(&self, plain: &Handle, path: &Path) -> Option<&(Handle, usize)> {
        if self.refused.load(Ordering::Relaxed) {
            return None;
        }
        let open = || {
            let (file, align) = reopen(plain.file())?;
            Some((Handle::new(file, path, self.wrap.as_ref()).ok()?, align))
        };
        self.file.get_or_init(open).as_ref()
    }
}

/// One direct read, split into what goes straight to its place and what goes through a bounce
/// buffer.
struct Transfer<'a> {
    file: &'a Handle,
    plain: &'a Handle,
    pool: &'a Pool,
    align: usize,
}

impl Transfer<'_> {
    fn read(&self, piece: Piece<'_>) -> io::Result<usize> {
        let Piece { offset, dst, at, len } = piece;
        let align = self.align as u64;
        let before = (offset % align) as usize;
        let base = dst.as_ptr() as usize;
        if (base + at) % self.align != before {
            return self.bounce(&mut dst[at..at + len], offset);
        }
        // Congruent: whole sectors go straight to their place. Slack lets the ends be whole
        // sectors too.
        let widened = (before + len).next_multiple_of(self.align);
        if at >= before && at - before + widened <= dst.len() {
            let sectors = &mut dst[at - before..at - before + widened];
            let got = self.sectors(sectors, offset - before as u64, before + len)?;
            return Ok(got.saturating_sub(before).min(len));
        }
        let wanted = &mut dst[at..at + len];
        let head = ((self.align - before) % self.align).min(len);
        let body = (len - head) / self.align * self.align;
        let mut done = 0;
        for (part, whole) in [(head, false), (body, true), (len - head - body, false)] {
            let piece = &mut wanted[done..done + part];
            let from = offset + done as u64;
            let got = if whole { self.sectors(piece, from, part)? } else { self.bounce(piece, from)? };
            done += got;
            if got < part {
                break;
            }
        }
        Ok(done)
    }

    /// Fills aligned `dst` from an aligned offset until `enough` bytes are there or the file ends.
    fn sectors(&self, dst: &mut [u8], offset: u64, enough: usize) -> io::Result<usize> {
        let mut done = 0;
        while done < enough {
            match self.file.read_at(&mut dst[done..], offset + done as u64) {
                Ok(0) => break,
                // In the middle of a sector only at the end of the file, or on file systems that
                // then go on buffered.
                Ok(n) if n % self.align != 0 => {
                    done += n;
                    if done < enough {
                        let rest = &mut dst[done..enough];
                        done += fill(|dst, at| self.plain.read_at(dst, at), rest, offset + done as u64)?;
                    }
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn bounce(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        if dst.is_empty() {
            return Ok(0);
        }
        self.pool.with(BOUNCE_BYTES.max(self.align), self.align, |piece| {
            let mut done = 0;
            while done < dst.len() {
                let from = offset + done as u64;
                let before = (from % self.align as u64) as usize;
                let wanted = (dst.len() - done).min(piece.len() - before);
                let widened = (before + wanted).next_multiple_of(self.align);
                let got = self.sectors(&mut piece[..widened], from - before as u64, before + wanted)?;
                let got = got.saturating_sub(before).min(wanted);
                dst[done..done + got].copy_from_slice(&piece[before..before + got]);
                done += got;
                if got < wanted {
                    break;
                }
            }
            Ok(done)
        })
    }
}

/// Opens the very file that `plain` is, past the page cache.
#[cfg(target_os = "linux")]
fn reopen(plain: &File) -> Option<(File, usize)> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;

    // Through /proc it is the same file even when the path now leads to another one.
    let path = format!("/proc/self/fd/{}", plain.as_raw_fd());
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let align = stated_alignment(&file)?;
    Some((file, align))
}

#[cfg(not(target_os = "linux"))]
fn reopen(_plain: &File) -> Option<(File, usize)> {
    None
}

/// The alignment that the file system states, and at least [`DEFAULT_ALIGNMENT`]; `None` if it
/// states that there are no direct reads.
#[cfg(target_os = "linux")]
fn stated_alignment(file: &File) -> Option<usize> {
    use rustix::fs::{AtFlags, StatxFlags, statx};

    let Ok(stat) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
        return Some(DEFAULT_ALIGNMENT);
    };
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Some(DEFAULT_ALIGNMENT);
    }
    let align = stat.stx_dio_offset_align.max(stat.stx_dio_mem_align) as usize;
    // A file system that wants more than a bounce buffer holds is read through the cache.
    (align.is_power_of_two() && align <= 1 << 20).then_some(align.max(DEFAULT_ALIGNMENT))
}
