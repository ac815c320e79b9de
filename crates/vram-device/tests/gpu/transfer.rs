//! Copies: to the byte, and into any of several buffers.

use vram_device::{Arena, Kernels, Lifetime};

use super::util::{Random, budget, get, part, put, stage, upload};

pub(crate) fn uploads_write_what_they_are_told_to_and_nothing_beside(device: &dyn Kernels) {
    let mut random = Random::new(2);
    let mut expected = random.bytes(200_003);
    let mut target = part(put(device, &expected));
    let mut staging = stage(device, &random.bytes(200_003));
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
            last = Some(device.upload(&staging, from..from + bytes, &mut target, to).unwrap());
            expected[to as usize..(to + bytes) as usize]
                .copy_from_slice(&source[from as usize..(from + bytes) as usize]);
        }
        device.wait(last.unwrap()).unwrap();
        if round % 10 == 9 {
            let region = target.finish().unwrap();
            assert!(get(device, &region) == expected, "round {round}");
            target = part(region);
        }
    }
}

pub(crate) fn downloads_longer_than_what_is_read_back_at_once(device: &dyn Kernels) {
    let bytes = Random::new(3).bytes((9 << 20) + 5);
    let region = put(device, &bytes);
    for (at, n) in [(0, bytes.len()), (3, (4 << 20) - 4), (3, (4 << 20) - 3), (1, 4 << 20), (5, 9 << 20)] {
        let mut back = vec![0; n];
        device.download(&region, at as u64, &mut back).unwrap();
        assert!(back == bytes[at..at + n], "{n} bytes at {at}");
    }
}

pub(crate) fn an_arena_of_several_buffers_is_one(device: &dyn Kernels) {
    let room = |bytes| budget().reserve(Lifetime::Weights, bytes).unwrap();
    let chunks = (0..3).map(|_| device.allocate(room(64 << 10)).unwrap()).collect();
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
                    assert!(get(device, &region) == expected);
                }
            }
        };
        let staging = stage(device, &bytes);
        let (region, ticket) = upload(device, &staging, region);
        device.wait(ticket).unwrap();
        live.push_back((region, bytes));
    }
}
