//! A new safetensors file that several threads write at once, each its own bytes in their place.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use vram_types::SourceError;

use crate::write::safetensors::SafetensorsWriter;

/// A writer whose header is there, and whose tensors come in any order.
pub(crate) struct PlacedWriter {
    writer: SafetensorsWriter,
    /// Where in the file the tensors' bytes begin.
    data: u64,
    written: AtomicU64,
    /// Held by who writes: systems write into a file one at a time, and who waits for that in the
    /// system keeps a processor busy.
    turn: Mutex<()>,
    /// What was written where, if there are to be checksums.
    sums: Option<Mutex<Vec<(u64, crc32fast::Hasher)>>>,
}

impl PlacedWriter {
    /// Of a writer that has been given no bytes yet.
    pub(crate) fn new(mut writer: SafetensorsWriter) -> Result<PlacedWriter, SourceError> {
        let begun = writer.out.flush().and_then(|()| writer.out.stream_position());
        let data = begun.map_err(|e| SourceError::io(e).at_path(&writer.path))?;
        let sums = writer.checksums.is_some().then(Mutex::default);
        Ok(PlacedWriter { writer, data, written: AtomicU64::new(0), turn: Mutex::default(), sums })
    }

    /// Writes bytes of one tensor, `at` bytes after where the first tensor begins. Each byte is to
    /// be written once.
    pub(crate) fn write(&self, tensor: &str, at: u64, bytes: &[u8]) -> Result<(), SourceError> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let written = write_all_at(self.writer.out.get_ref(), bytes, self.data + at);
        drop(turn);
        written.map_err(|e| SourceError::io(e).at_path(&self.writer.path).at_tensor(tensor))?;
        if let Some(sums) = &self.sums {
            let mut sum = crc32fast::Hasher::new();
            sum.update(bytes);
            sums.lock().unwrap_or_else(PoisonError::into_inner).push((at, sum));
        }
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Completes the file and gives it its name; as [`SafetensorsWriter::finish`].
    pub(crate) fn finish(self) -> Result<(), SourceError> {
        let PlacedWriter { mut writer, written, sums, .. } = self;
        writer.written = written.into_inner();
        if let Some(sums) = sums {
            let mut sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
            sums.sort_unstable_by_key(|(at, _)| *at);
            writer.set_sums(sums);
        }
        writer.finish()
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => (bytes, offset) = (&bytes[n..], offset + n as u64),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vram_types::{CancelToken, DType, TensorMeta};

    use super::*;
    use crate::DiskMap;

    #[test]
    fn tensors_come_in_any_order_and_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one.safetensors"), dir.path().join("other.safetensors"));
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7 % 251) as u8).collect();
        let tensors = || {
            [("a", 300), ("none", 0), ("b", 1), ("c", 699)]
                .map(|(name, len)| (name, TensorMeta::new(DType::U8, [len]).unwrap()))
        };
        let mut writer = SafetensorsWriter::create_with_checksums(&one, tensors(), &[]).unwrap();
        writer.write(&bytes).unwrap();
        writer.finish().unwrap();
        let placed =
            PlacedWriter::new(SafetensorsWriter::create_with_checksums(&other, tensors(), &[]).unwrap())
                .unwrap();
        for (name, range) in
            [("c", 900..1000), ("a", 200..300), ("b", 300..301), ("c", 301..900), ("a", 0..200)]
        {
            placed.write(name, range.start as u64, &bytes[range]).unwrap();
        }
        placed.finish().unwrap();
        assert!(std::fs::read(&one).unwrap() == std::fs::read(&other).unwrap());
        assert_eq!(DiskMap::open(&other).unwrap().verify(&CancelToken::new()).unwrap(), 3);
    }

    #[test]
    fn what_lacks_bytes_gets_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let meta = TensorMeta::new(DType::U8, [10]).unwrap();
        let placed =
            PlacedWriter::new(SafetensorsWriter::create(&path, [("a", meta)], &[]).unwrap()).unwrap();
        placed.write("a", 5, &[1; 5]).unwrap();
        assert!(placed.finish().is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
