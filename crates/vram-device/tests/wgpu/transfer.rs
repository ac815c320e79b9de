//! Copies: to the byte, and within the memory that was reserved.

use vram_device::wgpu::WgpuOptions;
use vram_device::{Arena, Budget, Device, Lifetime, Queue, Tier};

use crate::util::{Random, allocate, budget, busy, get, open, part, put, stage};

#[test]
fn uploads_write_what_they_are_told_to_and_nothing_beside() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    let mut random = Random::new(2);
    let mut expected = random.bytes(200_003);
    let mut target = part(put(&wgpu, &expected));
    let mut staging = stage(&wgpu, &random.bytes(200_003));
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
            last = Some(wgpu.upload(&staging, from..from + bytes, &mut target, to).unwrap());
            expected[to as usize..(to + bytes) as usize]
                .copy_from_slice(&source[from as usize..(from + bytes) as usize]);
        }
        wgpu.wait(last.unwrap()).unwrap();
        if round % 10 == 9 {
            let region = target.finish().unwrap();
            assert!(get(&wgpu, &region) == expected, "round {round}");
            target = part(region);
        }
    }
}

#[test]
fn downloads_longer_than_what_is_read_back_at_once() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    let bytes = Random::new(3).bytes((9 << 20) + 5);
    let region = put(&wgpu, &bytes);
    for (at, n) in [(0, bytes.len()), (3, (4 << 20) - 4), (3, (4 << 20) - 3), (1, 4 << 20), (5, 9 << 20)] {
        let mut back = vec![0; n];
        wgpu.download(&region, at as u64, &mut back).unwrap();
        assert!(back == bytes[at..at + n], "{n} bytes at {at}");
    }
}

/// What the backend takes beside what was asked for: parameters, the scratch of copies, what is read back, and what `wgpu`
/// stages of its own.
const OVERHEAD: u64 = 6 << 20;

#[test]
fn what_the_device_holds_is_what_was_reserved() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    let Some(start) = wgpu.usage() else {
        return println!("skipped: the API underneath has no allocator of its own");
    };
    let limit = 48 << 20;
    let budget = Budget::new(Tier::Device, limit);
    let mut most = 0;
    // Memory that kernels still use is given back and taken again at once.
    for _ in 0..6 {
        let mut held = Vec::new();
        for megabytes in [24, 16, 8] {
            let room = budget.reserve(Lifetime::Weights, megabytes << 20).unwrap();
            let mut region = wgpu.allocate(room).unwrap().into_region();
            busy(&wgpu, &mut region);
            held.push(region);
            most = most.max(wgpu.usage().unwrap().allocated);
        }
        let ticket = wgpu.ticket(Queue::Compute).unwrap();
        drop(held);
        assert_eq!(budget.used(), 0);
        wgpu.is_done(ticket).unwrap();
    }
    println!("{} bytes at rest, {most} at most under a budget of {limit}", start.allocated);
    assert!(most <= limit + OVERHEAD, "{most} bytes are allocated under a budget of {limit}");
}

#[test]
fn staging_does_not_grow_while_work_is_queued() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    if wgpu.usage().is_none() {
        return println!("skipped: the API underneath has no allocator of its own");
    }
    let mut staging = stage(&wgpu, &vec![7; 1 << 20]);
    let mut target = part(allocate(&wgpu, 1 << 20));
    let mut work = allocate(&wgpu, 1 << 20);
    let mut sizes = Vec::new();
    for _ in 0..64 {
        busy(&wgpu, &mut work);
        let ticket = wgpu.upload(&staging, 0..1 << 20, &mut target, 0).unwrap();
        wgpu.wait(ticket).unwrap();
        staging.host_mut().fill(9);
        sizes.push(wgpu.usage().unwrap().allocated);
    }
    let (early, late) = (sizes[8], sizes[63]);
    assert!(late <= early + (256 << 10), "{early} bytes after 8 copies, {late} after 64");
}

#[test]
fn an_arena_of_several_buffers_is_one() {
    let Some(wgpu) = open(WgpuOptions { max_allocation: Some(64 << 10), ..Default::default() }) else {
        return;
    };
    assert_eq!(wgpu.info().max_allocation, 64 << 10);
    let room = |bytes| budget().reserve(Lifetime::Weights, bytes).unwrap();
    let error = wgpu.allocate(room((64 << 10) + 1)).unwrap_err();
    assert!(error.is_oom() && error.to_string().contains("65536"), "{error}");
    let chunks = (0..3).map(|_| wgpu.allocate(room(64 << 10)).unwrap()).collect();
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
                    assert!(get(&wgpu, &region) == expected);
                }
            }
        };
        let staging = stage(&wgpu, &bytes);
        let (region, ticket) = crate::util::upload(&wgpu, &staging, region);
        wgpu.wait(ticket).unwrap();
        live.push_back((region, bytes));
    }
}
