//! Copies: to the byte, and within the memory that was reserved.

use vram_device::cuda::CudaOptions;
use vram_device::{Arena, Device, DeviceError, Lifetime};

use crate::util::{Random, budget, get, open, part, put, stage};

#[test]
fn uploads_write_what_they_are_told_to_and_nothing_beside() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let mut random = Random::new(2);
    let mut expected = random.bytes(200_003);
    let mut target = part(put(&cuda, &expected));
    let mut staging = stage(&cuda, &random.bytes(200_003));
    for round in 0..60 {
        let source = random.bytes(200_003);
        staging.host_mut().copy_from_slice(&source);
        let mut last = None;
        // Several from one piece of staging, as readers do, with every pair of residues.
        for _ in 0..4 {
            let bytes = match random.below(3) {
                0 => random.below(9),
                1 => random.below(5000),
                _ => random.below(150_000),
            };
            let (from, to) = (random.below(200_004 - bytes), random.below(200_004 - bytes));
            last = Some(cuda.upload(&staging, from..from + bytes, &mut target, to).unwrap());
            expected[to as usize..(to + bytes) as usize]
                .copy_from_slice(&source[from as usize..(from + bytes) as usize]);
        }
        cuda.wait(last.unwrap()).unwrap();
        if round % 10 == 9 {
            let region = target.finish().unwrap();
            assert!(get(&cuda, &region) == expected, "round {round}");
            target = part(region);
        }
    }
}

#[test]
fn downloads_longer_than_what_is_read_back_at_once() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let bytes = Random::new(3).bytes((9 << 20) + 5);
    let region = put(&cuda, &bytes);
    for (at, n) in [(0, bytes.len()), (3, (4 << 20) - 4), (3, (4 << 20) - 3), (1, 4 << 20), (5, 9 << 20)] {
        let mut back = vec![0; n];
        cuda.download(&region, at as u64, &mut back).unwrap();
        assert!(back == bytes[at..at + n], "{n} bytes at {at}");
    }
}

#[test]
fn an_arena_of_several_buffers_is_one() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let room = |bytes| budget().reserve(Lifetime::Weights, bytes).unwrap();
    let chunks = (0..3).map(|_| cuda.allocate(room(64 << 10)).unwrap()).collect();
    let ring = Arena::ring(chunks);
    let mut random = Random::new(4);
    let mut live = std::collections::VecDeque::new();
    for _ in 0..40 {
        let len = 1 + random.below(40_000) as usize;
        let bytes = random.bytes(len);
        let region = loop {
            match ring.alloc(bytes.len() as u64, 256) {
                Some(region) => break region,
                None => {
                    let (region, expected): (vram_device::Region, Vec<u8>) = live.pop_front().unwrap();
                    assert!(get(&cuda, &region) == expected);
                }
            }
        };
        let staging = stage(&cuda, &bytes);
        let (region, ticket) = crate::util::upload(&cuda, &staging, region);
        cuda.wait(ticket).unwrap();
        live.push_back((region, bytes));
    }
}

#[test]
fn more_than_the_card_has_is_out_of_memory_with_the_size() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let total = cuda.memory().unwrap().total;
    assert_eq!(cuda.info().max_allocation, total);
    let error = cuda.allocate(budget().reserve(Lifetime::Weights, total + 1).unwrap()).unwrap_err();
    assert!(matches!(error, DeviceError::OutOfMemory { bytes, .. } if bytes == total + 1), "{error}");
    assert!(error.is_oom() && error.to_string().contains("CUDA_ERROR_OUT_OF_MEMORY"), "{error}");
}
