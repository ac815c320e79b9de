//! Reads of what is in memory already into memory that nobody has written to: zeroing it first
//! takes as long as the reading.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use vram_types::{HostBytes, SourceError};

use super::aligned::reserved;
use super::local::LocalFile;
use super::mode::ReadMode;
use super::storage::complete;
use super::stored::FileRef;
use super::task::first;
use super::threads::{processors, share};

impl LocalFile {
    /// The bytes of a range as new memory, by several threads; `None` if they have to be read in
    /// another way.
    pub(crate) fn read_fresh(
        &self,
        mode: ReadMode,
        offset: u64,
        len: usize,
    ) -> Option<Result<Vec<u8>, SourceError>> {
        let cached = || mode == ReadMode::Auto && self.plain.is_bare() && self.is_cached(offset, len);
        (self.map().is_some() || cached()).then(|| self.fresh(offset, len))
    }

    fn fresh(&self, offset: u64, len: usize) -> Result<Vec<u8>, SourceError> {
        let mut buffer = reserved(len);
        let (mut rest, mut from) = (&mut buffer.spare_capacity_mut()[..len], offset);
        let mut tasks = Vec::new();
        while !rest.is_empty() {
            let bytes = first(FileRef::Local(self), from, rest.len());
            let (part, after) = rest.split_at_mut(bytes);
            tasks.push((from, part));
            (rest, from) = (after, from + bytes as u64);
        }
        share(tasks, len, processors(), |(from, part)| {
            let wanted = part.len();
            complete(self, self.initialise(part, from), wanted, from)
        })?;
        // SAFETY: no task has failed, so that all have filled their parts, and the parts are the first `len` bytes.
        unsafe { buffer.set_len(len) };
        Ok(buffer)
    }

    /// Fills `part` as far as the file goes. Returns how many bytes there were, all of which are
    /// initialised then.
    fn initialise(&self, part: &mut [MaybeUninit<u8>], offset: u64) -> io::Result<usize> {
        let Some(map) = self.map() else { return self.read_into(part, offset) };
        let Some(window) = map.window(offset..offset + part.len() as u64) else { return Ok(0) };
        // SAFETY: bytes that are initialised are also bytes that may not be.
        let bytes = unsafe { &*(ptr::from_ref(window.bytes()) as *const [MaybeUninit<u8>]) };
        part.copy_from_slice(bytes);
        Ok(part.len())
    }

    fn read_into(&self, mut part: &mut [MaybeUninit<u8>], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while !part.is_empty() {
            match rustix::io::pread(self.plain.file(), &mut *part, offset + done as u64) {
                Ok(([], _)) => break,
                Ok((read, _)) => {
                    let read = read.len();
                    done += read;
                    part = &mut part[read..];
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use vram_types::SourceErrorKind;

    use super::*;

    #[test]
    fn a_file_that_ends_early_gives_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..3u32 << 20).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = LocalFile::open(&path, ReadMode::Auto, None).unwrap();
        assert!(file.fresh(77, bytes.len() - 77).unwrap() == bytes[77..]);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
        let error = file.fresh(77, bytes.len() - 77).unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Truncated);
        assert!(file.fresh(0, 2 << 20).unwrap() == bytes[..2 << 20]);
    }
}
