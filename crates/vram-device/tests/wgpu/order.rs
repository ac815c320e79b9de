//! One queue: nothing overtakes what was issued before it.

use std::sync::mpsc::channel;

use vram_device::wgpu::WgpuOptions;
use vram_device::{Arena, Binary, Device, Kernels, Lifetime, Queue};
use vram_types::DType::F32;

use crate::util::{allocate, budget, f32s, get, open, ordered, put, stage, upload, values, view, view_mut};

const N: usize = 4096;

/// A lease ends when its kernels are encoded, and nothing says that they were submitted. Were the next copy into its slot
/// submitted on its own, it would overtake them: the kernels would add the weights of another layer.
#[test]
fn a_copy_never_overtakes_kernels_that_are_only_encoded() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    assert!(!wgpu.info().topology.separate_copy_queue && !wgpu.info().topology.host_visible);
    let slot = wgpu.allocate(budget().reserve(Lifetime::Weights, (N * 4) as u64).unwrap()).unwrap();
    let ring = Arena::ring(vec![slot]);
    let mut sum = put(&wgpu, &f32s(&[0.0; N]));
    let mut expected = 0.0;
    // More than are bundled, so that it is right within a bundle and across two.
    for layer in 1..=50u8 {
        let staging = stage(&wgpu, &f32s(&[f32::from(layer); N]));
        let region = ring.alloc((N * 4) as u64, 256).unwrap();
        for &ticket in region.after() {
            wgpu.order(Queue::Copy, ticket).unwrap();
        }
        let (region, copied) = upload(&wgpu, &staging, region);
        ordered(&wgpu, copied);
        for _ in 0..layer % 3 {
            wgpu.binary(Binary::Add, &view(&region, F32, &[N]), &mut view_mut(&mut sum, F32, &[N])).unwrap();
            expected += f32::from(layer);
        }
        // The lease ends: encoded, and nobody has waited.
        region.retire(wgpu.ticket(Queue::Compute).unwrap());
        wgpu.wait(copied).unwrap();
    }
    assert_eq!(values(&get(&wgpu, &sum)), [expected; N]);
}

/// The same with the copies issued by another thread, as readers do.
#[test]
fn copies_of_another_thread_come_where_they_were_issued() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    let mut sum = put(&wgpu, &f32s(&[0.0; N]));
    let (give, take) = channel();
    let (back, again) = channel();
    back.send(allocate(&wgpu, (N * 4) as u64)).unwrap();
    std::thread::scope(|scope| {
        let wgpu = &wgpu;
        scope.spawn(move || {
            let mut staging = stage(wgpu, &f32s(&[0.0; N]));
            for layer in 1..=100u8 {
                staging.host_mut().copy_from_slice(&f32s(&[f32::from(layer); N]));
                let (region, copied) = upload(wgpu, &staging, again.recv().unwrap());
                give.send((region, copied)).unwrap();
                wgpu.wait(copied).unwrap();
            }
        });
        for (region, copied) in take {
            ordered(wgpu, copied);
            wgpu.binary(Binary::Add, &view(&region, F32, &[N]), &mut view_mut(&mut sum, F32, &[N])).unwrap();
            // Who copies next may have ended already.
            let _ = back.send(region);
        }
    });
    assert_eq!(values(&get(&wgpu, &sum)), [5050.0; N]);
}

#[test]
fn tickets_are_done_in_the_order_of_issue() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    let mut work = allocate(&wgpu, 1 << 20);
    let mut tickets = Vec::new();
    for _ in 0..100 {
        crate::util::busy(&wgpu, &mut work);
        tickets.push(wgpu.ticket(Queue::Compute).unwrap());
    }
    assert!(tickets.windows(2).all(|pair| pair[0].value < pair[1].value));
    wgpu.wait(tickets[60]).unwrap();
    assert!(tickets[..=60].iter().all(|&ticket| wgpu.is_done(ticket).unwrap()));
    // What nobody waits for is done as well, if it is asked after: asking submits it.
    while !wgpu.is_done(tickets[99]).unwrap() {
        std::thread::yield_now();
    }
}
