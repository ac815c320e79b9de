//! Bytes in memory as a storage.

use std::borrow::Cow;
use std::fmt;
use std::io;

use super::storage::Storage;

/// A checkpoint's file in memory: a `Vec<u8>`, an `Arc<[u8]>`, a `&'static [u8]` that was compiled
/// in, a map of one's own.
///
/// ```
/// use std::sync::Arc;
/// use vram_diskmap::{DiskMap, MemoryStorage};
///
/// let header = br#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
/// let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[7, 8]].concat();
/// let map = DiskMap::open_storage(Arc::new(MemoryStorage::new(bytes)))?;
/// assert_eq!(map.get("a")?.bytes(), [7, 8]);
/// # Ok::<(), vram_types::SourceError>(())
/// ```
#[derive(Clone)]
pub struct MemoryStorage<B> {
    bytes: B,
    name: Option<String>,
}

impl<B: AsRef<[u8]> + Send + Sync> MemoryStorage<B> {
    /// Of these bytes.
    pub fn new(bytes: B) -> MemoryStorage<B> {
        MemoryStorage { bytes, name: None }
    }

    /// Sets what messages call it instead of "bytes in memory".
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> MemoryStorage<B> {
        self.name = Some(name.into());
        self
    }
}

impl<B: AsRef<[u8]> + Send + Sync> Storage for MemoryStorage<B> {
    fn bytes(&self) -> u64 {
        self.bytes.as_ref().len() as u64
    }

    fn describe(&self) -> Cow<'_, str> {
        match &self.name {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Borrowed("bytes in memory"),
        }
    }

    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.bytes.as_ref().get(offset..).unwrap_or_default();
        let len = rest.len().min(dst.len());
        dst[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

impl<B: AsRef<[u8]>> fmt::Debug for MemoryStorage<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage")
            .field("bytes", &self.bytes.as_ref().len())
            .field("name", &self.name)
            .finish()
    }
}
