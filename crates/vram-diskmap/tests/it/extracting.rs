//! Extraction by threads that read and threads that write: the same bytes however many, and an end whatever fails.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Dtype;
use vram_diskmap::{Conversion, DiskMap, Extract, ReadMode, ReadQueue};
use vram_types::{CancelToken, DType, SourceErrorKind, WeightSource};

use crate::faults::Watch;
use crate::helpers::{Written, holds, noise, write};

const EIO: i32 = 5;

/// Fifteen pieces of a cast to 16 bits, some of them short, and a tensor that has no bytes.
fn tensors() -> Vec<Written> {
    let f32s = |seed: u64, count: usize| {
        // Small numbers, so that no narrower dtype overflows.
        let bytes = noise(seed, count * 4);
        bytes.chunks_exact(4).flat_map(|b| (f32::from(b[0]) / 64.0 - 2.0).to_le_bytes()).collect::<Vec<u8>>()
    };
    vec![
        ("long".to_owned(), Dtype::F32, vec![3, 700_001], f32s(1, 3 * 700_001)),
        ("none".to_owned(), Dtype::F32, vec![0], Vec::new()),
        ("short".to_owned(), Dtype::F32, vec![7], f32s(2, 7)),
        ("numbers".to_owned(), Dtype::I64, vec![400_000], noise(3, 8 * 400_000)),
        ("half".to_owned(), Dtype::BF16, vec![999_999], noise(4, 2 * 999_999)),
    ]
}

fn checkpoint() -> (tempfile::TempDir, PathBuf, Vec<Written>) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("in.safetensors");
    let tensors = tensors();
    write(&path, &tensors);
    (dir, path, tensors)
}

/// Nothing but the input is in the folder.
fn is_alone(path: &Path) -> bool {
    std::fs::read_dir(path.parent().unwrap()).unwrap().count() == 1
}

#[test]
fn any_number_of_readers_and_any_cast_give_the_same_bytes() {
    let (dir, path, _) = checkpoint();
    let map = DiskMap::open(&path).unwrap();
    let out = dir.path().join("out.safetensors");
    for dtype in [None, Some(DType::BF16), Some(DType::F32), Some(DType::F8_E4M3), Some(DType::F64)] {
        let options = dtype.into_iter().fold(DiskMap::options(), |options, to| options.dtype(to));
        let cast = options.open(&path).unwrap();
        for threads in [1, 2, 7, 40] {
            for source in [&map, &cast] {
                let extract = Extract::new(source).threads(threads).checksums(true);
                let extract = dtype.into_iter().fold(extract, |extract, to| extract.dtype(to));
                let mut told = 0;
                let done = extract
                    .run(&out, &CancelToken::new(), &mut |so_far| told = told.max(so_far.bytes_done))
                    .unwrap();
                assert_eq!(told, done.bytes);
                let copy = DiskMap::open(&out).unwrap();
                assert_eq!(copy.verify(&CancelToken::new()).unwrap(), 4);
                for (name, info) in cast.iter() {
                    let got = copy.get(name).unwrap();
                    assert_eq!(got.meta(), info.meta());
                    assert!(got.bytes() == cast.get(name).unwrap().bytes(), "{name}, {threads} readers");
                }
            }
        }
    }
}

#[test]
fn every_read_may_fail_once_or_all_of_them() {
    let (dir, path, tensors) = checkpoint();
    let out = dir.path().join("out.safetensors");
    let first = |failing: usize, all: bool| {
        let watch = Watch::new(move |number, _| {
            let fails = if all { number >= failing } else { number == failing };
            fails.then(|| Err(io::Error::from_raw_os_error(EIO)))
        });
        let queue = Arc::new(ReadQueue::new(4 << 20));
        let map = watch.options(ReadMode::Buffered, &queue).open(&path).unwrap();
        watch.arm(true);
        let result = Extract::new(&map).dtype(DType::BF16).run(&out, &CancelToken::new(), &mut |_| {});
        let reads = watch.reads();
        watch.arm(false);
        assert_eq!(queue.bytes_in_flight(), 0);
        if let Err(error) = &result {
            assert_eq!(error.kind(), SourceErrorKind::Io);
            assert!(error.tensor().is_some() && error.path() == Some(&path), "{error}");
            assert!(is_alone(&path), "read {failing}");
            holds(&map, &tensors);
        }
        (result.is_ok(), reads)
    };
    let (done, reads) = first(usize::MAX, false);
    assert!(done && reads > 12);
    std::fs::remove_file(&out).unwrap();
    for failing in 0..reads {
        for all in [false, true] {
            assert!(!first(failing, all).0, "read {failing}");
        }
    }
}

#[test]
fn cancelling_and_panicking_come_to_an_end_and_leave_nothing() {
    let (dir, path, tensors) = checkpoint();
    let out = dir.path().join("out.safetensors");
    let map = DiskMap::open(&path).unwrap();
    let mut pieces = 0;
    Extract::new(&map).run(&out, &CancelToken::new(), &mut |_| pieces += 1).unwrap();
    std::fs::remove_file(&out).unwrap();
    for at in 1..=pieces {
        let (cancel, mut count) = (CancelToken::new(), 0);
        let cancelled = Extract::new(&map).run(&out, &cancel, &mut |_| {
            count += 1;
            if count == at {
                cancel.cancel();
            }
        });
        assert_eq!(cancelled.unwrap_err().kind(), SourceErrorKind::Cancelled);
        assert!(is_alone(&path), "piece {at}");
        let mut count = 0;
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            Extract::new(&map).run(&out, &CancelToken::new(), &mut |_| {
                count += 1;
                assert!(count < at, "the listener's own panic");
            })
        }));
        assert!(unwound.is_err() && is_alone(&path), "piece {at}");
    }
    let watch = Watch::new(|number, _| (number == 4).then(|| std::panic::panic_any("the file's own panic")));
    let panicking =
        watch.options(ReadMode::Buffered, &Arc::new(ReadQueue::new(4 << 20))).open(&path).unwrap();
    watch.arm(true);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        Extract::new(&panicking).run(&out, &CancelToken::new(), &mut |_| {})
    }));
    assert!(unwound.is_err() && is_alone(&path));
    holds(&map, &tensors);
}

#[test]
fn a_tensor_out_of_proportion_is_written_only_if_that_is_allowed() {
    // The story: a file of 1300 bytes filled a disk with one tensor of 4 TiB.
    let path = crate::cases::folder().join("P32-bad-strides/bomb.pt");
    let map = DiskMap::open(&path).unwrap();
    assert_eq!(WeightSource::stored_bytes(&map, "x"), Some(4));
    assert_eq!(WeightSource::stored_bytes(&map, "w"), Some(24));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = dir.path().join("out.safetensors");
    let run = |extract: Extract<'_>| extract.run(&out, &CancelToken::new(), &mut |_| {});
    let error = run(Extract::new(&map)).unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Unsupported, Some("x")));
    let says = "its 4398046511104 bytes repeat 4 of the file (accepted with `allow_expanded`)";
    assert!(error.message() == says && !out.exists(), "{error}");
    assert_eq!(run(Extract::new(&map).names(["w"])).unwrap().bytes, 24);
    assert_eq!(Extract::new(&map).allow_expanded(true).bytes().unwrap(), (1 << 42) + 24);
    // Renamed or joined with others it is as long.
    let converted = map.convert(&Conversion::new().rename("x", "y")).unwrap();
    let error = run(Extract::new(&converted)).unwrap_err();
    assert_eq!(error.tensor(), Some("y"));
    // What PyTorch expands in files of any size is none of this.
    let map = DiskMap::open(crate::torch::folder().join("layouts.pt")).unwrap();
    assert!(map.tensor("expanded").is_some());
    run(Extract::new(&map)).unwrap();
}

#[test]
fn nothing_is_left_out_of_a_copy_in_silence() {
    // The story: a copy of a checkpoint with a sparse tensor was a checkpoint without it.
    let map = DiskMap::open(crate::torch::folder().join("unreadable.pt")).unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = dir.path().join("out.safetensors");
    let run = |extract: Extract<'_>| extract.run(&out, &CancelToken::new(), &mut |_| {});
    let error = run(Extract::new(&map)).unwrap_err();
    let (kind, tensor) = (error.kind(), error.tensor().unwrap().to_owned());
    assert!(kind == SourceErrorKind::Unsupported && !out.exists(), "{error}");
    assert!(map.unreadable().any(|(name, _)| name == tensor));
    for part in ["4 more of the source cannot be read", "`skip_unreadable`"] {
        assert!(error.message().contains(part), "{error}");
    }
    let done = run(Extract::new(&map).skip_unreadable(true)).unwrap();
    assert_eq!((done.tensors, done.unreadable.len()), (1, 5));
    assert!(done.unreadable.iter().any(|(name, why)| name == "sparse" && why.contains("sparse")));
    // One that is asked for by name is not skipped, and says why it cannot be read.
    for extract in
        [Extract::new(&map).names(["sparse"]), Extract::new(&map).names(["sparse"]).skip_unreadable(true)]
    {
        let error = run(extract).unwrap_err();
        assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Unsupported, Some("sparse")));
        assert!(error.message().contains("sparse tensors"), "{error}");
    }
    let done = run(Extract::new(&map).names(["plain"])).unwrap();
    assert_eq!((done.tensors, done.unreadable), (1, Vec::new()));
}
