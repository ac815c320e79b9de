//! What all targets share: they write their input to a file, open it and read it.

use std::io::Write;
use std::path::{Path, PathBuf};

use vram_diskmap::DiskMap;

/// Tensors longer than this are not read, because an expanded tensor may be arbitrarily long.
const MOST_READ_BYTES: u64 = 1 << 20;

/// A folder for this process, in memory if the system has such a folder.
pub fn folder() -> PathBuf {
    let base = ["/dev/shm"].map(Path::new).into_iter().find(|p| p.is_dir());
    let folder = base.map_or_else(std::env::temp_dir, Path::to_owned).join(format!("vram-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

/// Writes the bytes, opens them in every way, and reads every tensor that is not too long. Must
/// never panic.
pub fn check(name: &str, bytes: &[u8]) {
    let path = folder().join(name);
    std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes)).expect("a temporary file");
    for lenient in [false, true] {
        let options = DiskMap::options().lenient(lenient).raw_blocks(lenient);
        if let Ok(map) = options.open(&path) {
            read(&map);
        }
    }
}

fn read(map: &DiskMap) {
    for (name, info) in map.iter() {
        if info.meta().bytes() <= MOST_READ_BYTES {
            let whole = map.get(name).expect("a tensor inside its file");
            assert_eq!(whole.bytes().len() as u64, info.meta().bytes());
            if info.shape().first().is_some_and(|&rows| rows > 1) {
                let _ = map.get_slice(name, std::slice::from_ref(&(1..2)));
            }
        }
        let _ = vram_types::WeightSource::locate(map, name);
    }
    for (name, what) in map.unread().chain(map.unreadable()) {
        assert!(!what.is_empty(), "{name}");
    }
    for file in 0..map.files().len() {
        map.metadata(vram_types::FileId(file as u32));
    }
}

/// A zip archive of stored entries.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let header = (file.len() as u32).to_le_bytes();
        let (size, len) = ((bytes.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
        let common = [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &size, &size, &len, &[0, 0]].concat();
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), bytes].concat());
        directory.extend([b"PK\x01\x02\x14\0", &common[..], &[0; 10], &header, name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (at, len) = ((file.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    [&file[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &len, &at, &[0, 0]].concat()
}
