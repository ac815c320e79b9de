//! Many reads at once give the bytes that one after the other would.

use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::Dtype;
use vram_diskmap::{DiskMap, ReadMode, ReadQueue};
use vram_types::{CancelToken, DType, Priority, ReadOptions, ReadRequest, ReadTarget, WeightSource};

use crate::helpers::{Written, noise, write};

const MODES: [ReadMode; 4] = [ReadMode::Auto, ReadMode::Buffered, ReadMode::Direct, ReadMode::Uring];

fn evict(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn more_than_fits_on_its_way_at_once() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    let tensors: Vec<Written> = (0..40)
        .map(|i| {
            let bytes = if i % 4 == 3 { 3_000 } else { 700_001 + 4096 * i };
            (format!("t{i}"), Dtype::U8, vec![bytes], noise(i as u64, bytes))
        })
        .collect();
    write(&path, &tensors);
    for mode in MODES {
        evict(&path);
        let queue = Arc::new(ReadQueue::new(2 << 20));
        let map = DiskMap::options().read(mode).queue(Arc::clone(&queue)).open(&path).unwrap();
        // Slack of a sector or none before, addresses congruent to the file or not.
        let mut memory: Vec<Vec<u8>> = tensors.iter().map(|t| vec![0; t.3.len() + 3 * 4096]).collect();
        let mut places = Vec::new();
        let mut requests = Vec::new();
        for (i, (tensor, memory)) in tensors.iter().zip(&mut memory).enumerate() {
            let offset = map.tensor(&tensor.0).unwrap().range().offset as usize;
            let congruent = 4096 + (offset + 4096 - memory.as_ptr() as usize % 4096) % 4096;
            let at = if i % 3 == 0 { 17 } else { congruent };
            places.push(at);
            let target = ReadTarget::Tensor { name: &tensor.0, offset: 0 };
            requests.push(ReadRequest { target, bytes: tensor.3.len() as u64, dst: memory, at });
        }
        map.read_many(&mut requests, &ReadOptions::default().with_priority(Priority::ReadAhead)).unwrap();
        drop(requests);
        for ((tensor, memory), at) in tensors.iter().zip(&memory).zip(places) {
            assert!(memory[at..at + tensor.3.len()] == tensor.3, "{mode:?}: {}", tensor.0);
        }
        assert_eq!(queue.bytes_in_flight(), 0);
        assert!(queue.peak_bytes_in_flight() <= 2 << 20, "{queue:?}");
    }
}

#[test]
fn converted_tensors_are_computed_in_parts() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    let elements = 5_000_003;
    let bytes = noise(3, elements * 2);
    write(&path, &[("a".to_owned(), Dtype::BF16, vec![elements], bytes.clone())]);
    let mut expected = vec![0; elements * 4];
    vram_types::cast::cast_serial(&bytes, DType::BF16, &mut expected, DType::F32).unwrap();
    let map = DiskMap::options().dtype(DType::F32).open(&path).unwrap();
    assert!(map.get("a").unwrap().bytes() == expected);
    assert!(map.get_many(&["a"]).unwrap()[0].bytes() == expected);
    let (from, until) = (3, expected.len() - 5);
    let (mut long, mut short) = (vec![0; until - from], vec![0; 1001]);
    let mut requests =
        [ReadRequest::tensor("a", from as u64, &mut long), ReadRequest::tensor("a", 4_194_303, &mut short)];
    map.read_many(&mut requests, &ReadOptions::BLOCKING).unwrap();
    assert!(long == expected[from..until]);
    assert!(short == expected[4_194_303..4_194_303 + 1001]);
    let token = CancelToken::new();
    token.cancel();
    let error = map.read_many(
        &mut [ReadRequest::tensor("a", 0, &mut short)],
        &ReadOptions::default().with_cancel(&token),
    );
    assert_eq!(error.unwrap_err().kind(), vram_types::SourceErrorKind::Cancelled);
}
