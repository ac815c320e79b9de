//! Files before they have their names: each is written beside its target, under a hidden name, and
//! renamed when it is complete.
//!
//! An unfinished file never outlives its writer for long. A writer that fails removes it. A process
//! that is told to end removes those of all its writers ([`abandon_unfinished`]). One that was
//! killed leaves its file behind without a lock, and the next writer of the same target removes it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, FileType, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vram_types::SourceError;

/// The unfinished files of this process. The lock is held while one is created, renamed or removed.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// How a hidden name ends.
const ENDING: &str = ".partial";

/// Links that are followed at most, as on Linux.
const MOST_LINKS: usize = 40;

/// No writer of this process creates, names or removes a file while this lives.
pub struct Abandoned {
    _held: MutexGuard<'static, Vec<PathBuf>>,
}

impl fmt::Debug for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Abandoned")
    }
}

/// Removes the unfinished files of every writer in this process, for a program that is about to
/// end on a signal. Call it from a thread that handles signals, not from a signal handler: it
/// takes a lock. Keep what it returns until the process has ended, or writers begin new files.
pub fn abandon_unfinished() -> Abandoned {
    let mut held = unfinished();
    for path in held.drain(..) {
        // There is nothing left to do about a file that cannot be removed.
        let _ = fs::remove_file(path);
    }
    Abandoned { _held: held }
}

/// Writes a whole file. It appears under its name when it is complete and replaces a file of that
/// name; a symbolic link is followed.
///
/// # Errors
/// `Io` and `NotFound`, naming the path; `Io` also for a directory or a device. There is no new
/// file then.
pub fn write_file(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), SourceError> {
    let path = path.as_ref();
    let write = || {
        let (mut file, mut partial) = Partial::create(path)?;
        file.write_all(bytes)?;
        partial.give_name()
    };
    write().map_err(|e| SourceError::io(e).at_path(path))
}

/// Checks that [`write_file`] or a writer could create this file now, and removes what killed
/// writers of the same file have left.
///
/// # Errors
/// As [`write_file`].
pub fn check_writable(path: impl AsRef<Path>) -> Result<(), SourceError> {
    let path = path.as_ref();
    Partial::create(path).map(drop).map_err(|e| SourceError::io(e).at_path(path))
}

/// A file before it has its name; removed unless it gets it.
pub(crate) struct Partial {
    /// `None` once it has its name.
    path: Option<PathBuf>,
    target: PathBuf,
}

impl Partial {
    /// Creates a file beside `path`, or beside what `path` links to. Removes what killed writers
    /// of the same target have left.
    pub(crate) fn create(path: &Path) -> io::Result<(File, Partial)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let target = followed(path)?;
        let name = target.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
        remove_left_over(&target, &name);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let mut hidden = start_of_hidden(&name);
            hidden.push(format!("{}-{number}{ENDING}", std::process::id()));
            let hidden = target.with_file_name(hidden);
            let mut unfinished = unfinished();
            let file = match OpenOptions::new().write(true).create_new(true).open(&hidden) {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            };
            // Another process may find the file before we lock it, take it for one that was left
            // behind, and remove it. On file systems without locks, no process gets a lock, so
            // none removes a file.
            match file.try_lock() {
                Ok(()) if !hidden.exists() => continue,
                Err(TryLockError::WouldBlock) => {
                    let _ = fs::remove_file(&hidden);
                    continue;
                }
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            unfinished.push(hidden.clone());
            return Ok((file, Partial { path: Some(hidden), target }));
        }
    }

    /// Gives the file its name, replacing a file of that name. Its writer must be open still, so
    /// that it is locked.
    pub(crate) fn give_name(&mut self) -> io::Result<()> {
        let Some(path) = self.path.take() else { return Ok(()) };
        let mut unfinished = unfinished();
        let renamed = fs::rename(&path, &self.target);
        if renamed.is_err() {
            let _ = fs::remove_file(&path);
        }
        unfinished.retain(|other| *other != path);
        renamed
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            let mut unfinished = unfinished();
            // There is nothing left to do about a file that cannot be removed.
            let _ = fs::remove_file(&path);
            unfinished.retain(|other| *other != path);
        }
    }
}

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file that a path stands for: where its symbolic links lead, whether a file is there or not.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(path),
            Err(e) => return Err(e),
            Ok(there) if there.is_symlink() => {
                // A path that the link gives is relative to the link's folder; `join` keeps an
                // absolute one as it is.
                let to = fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("")).join(to);
            }
            Ok(there) if there.is_file() => return Ok(path),
            Ok(there) => return Err(io::Error::other(not_a_file(there.file_type()))),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

fn not_a_file(found: FileType) -> &'static str {
    if found.is_dir() { "it is a folder" } else { "it is not a regular file, and is not replaced" }
}

fn start_of_hidden(name: &OsStr) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden
}

/// Removes what writers of this target have left that did not live to remove it. Failures are
/// passed over: the file is then left for another time.
fn remove_left_over(target: &Path, name: &OsStr) {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let start = start_of_hidden(name);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let rest = found.as_encoded_bytes().strip_prefix(start.as_encoded_bytes());
        let Some(middle) = rest.and_then(|rest| rest.strip_suffix(ENDING.as_bytes())) else { continue };
        let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
        let mut parts = middle.split(|byte| *byte == b'-');
        let numbered = parts.by_ref().take(2).filter(|part| digits(part)).count() == 2;
        if !numbered || parts.next().is_some() {
            continue;
        }
        let path = folder.join(&found);
        // A living writer holds the lock.
        if File::open(&path).is_ok_and(|file| file.try_lock().is_ok() && path.is_file()) {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Two that were left behind, one of another target, and three with names that are not ours.
        for name in [
            ".a.st.17-0.partial",
            ".a.st.99999999-12.partial",
            ".ba.st.17-0.partial",
            ".a.st.17.partial",
            ".a.st.17-0-1.partial",
            ".a.st.x-0.partial",
        ] {
            fs::write(at(name), "left").unwrap();
        }
        let (_living, partial) = Partial::create(&at("a.st")).unwrap();
        let own = partial.path.clone().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let mut expected = vec![
            ".ba.st.17-0.partial".to_owned(),
            ".a.st.17.partial".to_owned(),
            ".a.st.17-0-1.partial".to_owned(),
            ".a.st.x-0.partial".to_owned(),
            own,
        ];
        expected.sort();
        assert_eq!(names(dir.path()), expected);
        // A second writer of the same target leaves the first one's file alone.
        write_file(at("a.st"), b"whole").unwrap();
        expected.push("a.st".to_owned());
        expected.sort();
        assert_eq!(names(dir.path()), expected);
        drop(partial);
        expected.retain(|name| !name.contains(&std::process::id().to_string()));
        assert_eq!(names(dir.path()), expected);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_only_files_are_replaced() {
        use std::os::unix::fs::symlink;

        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("folder/old"), "old").unwrap();
        symlink("folder/old", at("link")).unwrap();
        symlink("link", at("link of a link")).unwrap();
        symlink("folder/new", at("dangling")).unwrap();
        symlink("around", at("around")).unwrap();
        symlink("/dev/null", at("null")).unwrap();
        write_file(at("link of a link"), b"new").unwrap();
        assert_eq!(fs::read_to_string(at("folder/old")).unwrap(), "new");
        write_file(at("dangling"), b"1").unwrap();
        assert_eq!(fs::read_to_string(at("folder/new")).unwrap(), "1");
        assert!(["link", "link of a link", "dangling"].iter().all(|name| at(name).is_symlink()));
        for (name, expected) in [
            ("folder", "it is a folder"),
            ("around", "too many symbolic links"),
            ("null", "not a regular file"),
            ("no/such", "No such file"),
        ] {
            let error = write_file(at(name), b"x").unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
        }
        assert_eq!(names(&at("folder")), ["new", "old"]);
        assert!(!fs::symlink_metadata("/dev/null").unwrap().is_file());
    }
}
