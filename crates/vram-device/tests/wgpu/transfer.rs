//! What the device holds, and how much at once.

use vram_device::wgpu::WgpuOptions;
use vram_device::{Budget, Device, Lifetime, Queue, Tier};

use crate::util::{allocate, budget, busy, open, part, stage};

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
fn buffers_of_a_limited_size_make_one_arena() {
    let Some(wgpu) = open(WgpuOptions { max_allocation: Some(64 << 10), ..Default::default() }) else {
        return;
    };
    assert_eq!(wgpu.info().max_allocation, 64 << 10);
    let error = wgpu.allocate(budget().reserve(Lifetime::Weights, (64 << 10) + 1).unwrap()).unwrap_err();
    assert!(error.is_oom() && error.to_string().contains("65536"), "{error}");
    crate::gpu::transfer::an_arena_of_several_buffers_is_one(&wgpu);
}
