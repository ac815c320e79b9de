//! An open file, and what the caller may have put between it and us.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::read_at::ReadAt;

/// Puts something between a map and a file that it has opened.
pub(crate) type Wrap = Arc<dyn Fn(&Path, Box<dyn ReadAt>) -> Box<dyn ReadAt> + Send + Sync>;

/// An open file. Its identity and its cached pages are always asked of the file itself.
pub(crate) struct Handle {
    file: File,
    wrapped: Option<Box<dyn ReadAt>>,
}

impl Handle {
    pub(crate) fn new(file: File, path: &Path, wrap: Option<&Wrap>) -> io::Result<Handle> {
        let wrapped = match wrap {
            Some(wrap) => Some(wrap(path, Box::new(file.try_clone()?))),
            None => None,
        };
        Ok(Handle { file, wrapped })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether reads may go around [`ReadAt`].
    pub(crate) fn is_bare(&self) -> bool {
        self.wrapped.is_none()
    }
}

impl ReadAt for Handle {
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.wrapped {
            None => self.file.read_at(dst, offset),
            Some(wrapped) => wrapped.read_at(dst, offset),
        }
    }
}
