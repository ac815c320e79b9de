//! Compiled kernels on disk: one file each, named by the hash of everything they depend on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// Each file is this magic, then the hash of the rest, then the rest.
const MAGIC: &[u8; 8] = b"vramcub1";

/// Where compiled kernels are cached between processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CudaCache {
    /// The folder that `VRAM_CACHE` names, or else `vram` in the user's cache (`XDG_CACHE_HOME`, `~/.cache`,
    /// `%LOCALAPPDATA%`).
    #[default]
    User,
    /// A folder.
    At(PathBuf),
    /// Nowhere: each process compiles what it needs.
    Off,
}

impl CudaCache {
    pub(super) fn folder(&self) -> Option<PathBuf> {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match self {
            CudaCache::At(folder) => Some(folder.clone()),
            CudaCache::Off => None,
            CudaCache::User => var("VRAM_CACHE").or_else(|| {
                let user = var("XDG_CACHE_HOME")
                    .or_else(|| var("HOME").map(|home| home.join(".cache")))
                    .or_else(|| var("LOCALAPPDATA"));
                user.map(|folder| folder.join("vram"))
            }),
        }
    }
}

/// The file name for the result of compiling these texts.
pub(super) fn key(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        // Includes lengths, so that two different lists of texts never hash the same bytes.
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn place(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.cubin"))
}

/// The cached bytes under a name; `None` if there are none, or if they are not what was written.
pub(super) fn get(folder: &Path, key: &str) -> Option<Vec<u8>> {
    let bytes = fs::read(place(folder, key)).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let (hash, image) = rest.split_at_checked(32)?;
    (hash == &Sha256::digest(image)[..] && !image.is_empty()).then(|| image.to_vec())
}

/// Caches what was compiled. A concurrent reader sees all of it or nothing.
pub(super) fn put(folder: &Path, key: &str, image: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(folder)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let unfinished = folder.join(format!("{key}.{}.{number}.part", std::process::id()));
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(MAGIC)?;
        file.write_all(&Sha256::digest(image))?;
        file.write_all(image)?;
        file.sync_data()?;
        fs::rename(&unfinished, place(folder, key))
    };
    write().inspect_err(|_| {
        // It may not even have been created.
        let _ = fs::remove_file(&unfinished);
    })
}

/// Removes an unusable file.
pub(super) fn remove(folder: &Path, key: &str) {
    // Another process may have removed it first.
    let _ = fs::remove_file(place(folder, key));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_got_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("not/there/yet");
        let key = key(&["source", "option"]);
        assert_eq!(get(&folder, &key), None);
        put(&folder, &key, b"an image").unwrap();
        assert_eq!(get(&folder, &key).as_deref(), Some(&b"an image"[..]));
        // No unfinished file is left.
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let path = place(&folder, &key);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(get(&folder, &key), None, "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(get(&folder, &key), None, "{at} bytes");
        }
        put(&folder, &key, b"another").unwrap();
        assert_eq!(get(&folder, &key).as_deref(), Some(&b"another"[..]));
        remove(&folder, &key);
        assert_eq!(get(&folder, &key), None);
    }

    #[test]
    fn keys_differ_where_texts_do() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
        assert_eq!(key(&["a"]).len(), 64);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a file");
        fs::write(&file, b"").unwrap();
        assert!(put(&file, "key", b"image").is_err());
        assert_eq!(get(&file, "key"), None);
    }
}
