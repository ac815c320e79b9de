//! Positioned reads of an open file.

use std::fs::File;
use std::io;

/// Positioned reads of one open file: all that is asked of one, besides what it is.
///
/// `pread` on Unix, `seek_read` on Windows. Put another between a [`DiskMap`](crate::DiskMap) and
/// its files with [`read_through`](crate::DiskMapOptions::read_through): to meter, to slow down,
/// or to fail.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("m.safetensors");
/// # let meta = vram_types::TensorMeta::new(vram_types::DType::U8, [3])?;
/// # let mut writer = vram_diskmap::SafetensorsWriter::create(&path, [("a", meta)], &[])?;
/// # writer.write(&[7; 3])?;
/// # writer.finish()?;
/// use std::io;
/// use vram_diskmap::{DiskMap, ReadAt};
///
/// struct Meter(Box<dyn ReadAt>);
///
/// impl ReadAt for Meter {
///     fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
///         println!("{} bytes at {offset}", dst.len());
///         self.0.read_at(dst, offset)
///     }
/// }
///
/// let map = DiskMap::options().read_through(|_path, file| Box::new(Meter(file))).open(&path)?;
/// assert_eq!(map.get("a")?.bytes(), [7; 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait ReadAt: Send + Sync {
    /// Reads at an offset; may read less than asked for, 0 only at the end of the file.
    ///
    /// # Errors
    /// The system's; `Interrupted` is tried again.
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(self, dst, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(self, dst, offset);
    }
}

/// Fills as much of `dst` as there is, past interruptions and short reads; less than its length
/// only at the end of the file.
pub(crate) fn fill(
    read_at: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    dst: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    let mut done = 0;
    while done < dst.len() {
        match read_at(&mut dst[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Gives three bytes at a time and is interrupted every other call.
    struct Stutter {
        bytes: Vec<u8>,
        calls: Mutex<usize>,
    }

    impl ReadAt for Stutter {
        fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            if calls.is_multiple_of(2) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let rest = &self.bytes[(offset as usize).min(self.bytes.len())..];
            let n = rest.len().min(dst.len()).min(3);
            dst[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        }
    }

    #[test]
    fn short_reads_and_interruptions_are_continued() {
        let source = Stutter { bytes: (0..100).collect(), calls: Mutex::default() };
        let mut dst = [0; 40];
        assert_eq!(fill(|dst, offset| source.read_at(dst, offset), &mut dst, 10).unwrap(), 40);
        assert!(dst.iter().copied().eq(10..50));
        assert_eq!(fill(|dst, offset| source.read_at(dst, offset), &mut dst, 90).unwrap(), 10);
    }
}
