//! The page cache: what is cold is read past it, what is warm is read from it.

use std::os::fd::AsRawFd;
use std::path::Path;

use vram_diskmap::{DiskMap, ReadMode, SafetensorsWriter};
use vram_types::{DType, TensorMeta};

use crate::helpers::noise;

/// Pages of a file that the page cache holds; `None` where the system does not tell (before Linux 6.5).
fn cached_pages(path: &Path) -> Option<u64> {
    let file = std::fs::File::open(path).unwrap();
    let (range, mut stat) = ([0u64; 2], [0u64; 5]);
    // SAFETY: cachestat(2) reads two u64 and writes five, both locals.
    let rc = unsafe { libc::syscall(451, file.as_raw_fd(), range.as_ptr(), stat.as_mut_ptr(), 0u32) };
    (rc == 0).then_some(stat[0])
}

fn evict(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn a_cold_file_is_read_without_filling_the_page_cache() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    let meta = TensorMeta::new(DType::U8, [4_000_001]).unwrap();
    let bytes = noise(1, 4_000_001);
    let names: Vec<String> = (0..8).map(|i| format!("t{i}")).collect();
    let declared = names.iter().map(|name| (name.as_str(), meta.clone()));
    let mut writer = SafetensorsWriter::create(&path, declared, &[]).unwrap();
    for _ in &names {
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    evict(&path);
    let Some(0) = cached_pages(&path) else {
        eprintln!("skipped: this system does not tell what is cached, or keeps it");
        return;
    };
    let read_all = |map: &DiskMap| {
        for name in &names {
            assert!(map.get(name).unwrap().bytes() == bytes);
            let mut elsewhere = vec![0; bytes.len()];
            map.read_into(name, &mut elsewhere).unwrap();
            assert!(elsewhere == bytes);
        }
    };
    let map = DiskMap::open(&path).unwrap();
    let after_header = cached_pages(&path).unwrap();
    read_all(&map);
    let after_auto = cached_pages(&path).unwrap();
    if after_auto > after_header + 600 {
        // tmpfs, overlay file systems: there is no reading past the cache.
        eprintln!("skipped: no direct reads here, {after_auto} pages are cached");
        return;
    }
    assert_eq!(after_auto, after_header, "reading grew the page cache");

    // Half warm: still right, and what is warm is not read again from the disk.
    DiskMap::options().read(ReadMode::Buffered).open(&path).unwrap().get("t3").unwrap();
    assert!(cached_pages(&path).unwrap() > after_auto + 900);
    read_all(&map);
}

/// The system's read-ahead is whole megabytes on some disks. A short tensor that started it would bring the long ones behind it
/// into the cache, and reading those from there would keep it going to the end of the file.
#[test]
fn short_tensors_do_not_bring_the_long_ones_between_them_into_the_cache() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    let sizes = [("bias", 6_000), ("weight", 3_000_001)];
    let tensors: Vec<(String, usize)> =
        (0..8).flat_map(|i| sizes.map(|(name, len)| (format!("{i}.{name}"), len))).collect();
    let meta = |len: usize| TensorMeta::new(DType::U8, [len]).unwrap();
    let declared = tensors.iter().map(|(name, len)| (name.as_str(), meta(*len)));
    let mut writer = SafetensorsWriter::create(&path, declared, &[]).unwrap();
    let bytes = noise(2, 3_000_001);
    tensors.iter().for_each(|(_, len)| writer.write(&bytes[..*len]).unwrap());
    writer.finish().unwrap();
    evict(&path);
    let Some(0) = cached_pages(&path) else {
        eprintln!("skipped: this system does not tell what is cached, or keeps it");
        return;
    };
    let map = DiskMap::open(&path).unwrap();
    let reading = map.reading(vram_types::FileId(0)).unwrap();
    if reading.path != vram_diskmap::ReadPath::Direct {
        eprintln!("skipped: cold files are read {} here ({})", reading.path.name(), reading.why);
        return;
    }
    for (name, len) in &tensors {
        assert!(map.get(name).unwrap().bytes() == &bytes[..*len], "{name}");
    }
    // 64 KiB for each of the short ones, and the header.
    let pages = cached_pages(&path).unwrap();
    assert!(pages <= 8 * 17 + 4, "{pages} pages are cached, of some 6000");
}
