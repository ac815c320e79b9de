//! How a file is read, and why: what is told of it.

use super::cache::{self, Cached, cached};
use super::local::LocalFile;
use super::mode::{FileReading, ReadMode, ReadPath};

impl LocalFile {
    /// In which way it is read, and why.
    pub(crate) fn reading(&self, mode: ReadMode) -> FileReading {
        let file_system = self.mount.file_system();
        let alignment = self.direct.alignment(&self.plain, self.path());
        let cached_bytes = match cached(self.plain.file(), 0, self.bytes()) {
            Cached::All => Some(self.bytes()),
            Cached::None => Some(0),
            Cached::Missing(pages) => Some(self.bytes().saturating_sub(pages * cache::page_bytes())),
            Cached::Unknown => None,
        };
        let (path, why) = match (self.map(), mode) {
            (Some(_), _) => (ReadPath::Mapped, "asked for".to_owned()),
            (None, ReadMode::Auto) => (self.mount.path(), self.mount.why()),
            (None, ReadMode::Buffered) => (ReadPath::Buffered, "asked for".to_owned()),
            (None, ReadMode::Direct) => (ReadPath::Direct, "asked for".to_owned()),
            (None, ReadMode::Uring) => (ReadPath::Uring, "asked for".to_owned()),
        };
        let (path, why) = available(self, path, why, alignment.is_some());
        FileReading { file_system, path, why, alignment, cached_bytes }
    }
}

/// What is left of a way where the file or the system refuses it.
fn available(file: &LocalFile, path: ReadPath, why: String, direct: bool) -> (ReadPath, String) {
    match path {
        ReadPath::Uring => match refusal(file) {
            None if direct => (path, why),
            Some(refusal) if direct => {
                (ReadPath::Direct, format!("{why}, but io_uring is not there: {refusal}"))
            }
            _ => (ReadPath::Buffered, format!("{why}, but there are no direct reads of this file")),
        },
        ReadPath::Direct if !direct => {
            (ReadPath::Buffered, format!("{why}, but there are no direct reads of this file"))
        }
        _ => (path, why),
    }
}

/// Why there is no io_uring for this file.
#[cfg(all(target_os = "linux", feature = "io-uring"))]
fn refusal(file: &LocalFile) -> Option<String> {
    if file.plain.is_bare() {
        super::uring::refusal()
    } else {
        Some("the file is read through something else".into())
    }
}

#[cfg(not(all(target_os = "linux", feature = "io-uring")))]
fn refusal(_file: &LocalFile) -> Option<String> {
    Some("not built in (feature io-uring, Linux alone)".to_owned())
}
