//! Two streams: what has to wait for the other waits, and nothing else.

use std::sync::mpsc::channel;

use vram_device::cuda::CudaOptions;
use vram_device::{Arena, Binary, Device, Kernels, Lifetime, Queue};
use vram_types::DType::F32;

use crate::util::{allocate, budget, f32s, get, open, ordered, put, stage, upload, values, view, view_mut};

const N: usize = 4096;

/// A slot is overwritten while the kernels that read it are still under way, as a ring does with each layer: the copy has to
/// come behind them by itself, or they add the weights of another layer.
#[test]
fn a_copy_never_overtakes_the_kernels_that_use_its_target() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    assert!(cuda.info().topology.separate_copy_queue && !cuda.info().topology.host_visible);
    let slot = cuda.allocate(budget().reserve(Lifetime::Weights, (N * 4) as u64).unwrap()).unwrap();
    let ring = Arena::ring(vec![slot]);
    let mut sum = put(&cuda, &f32s(&[0.0; N]));
    let mut expected = 0.0;
    for layer in 1..=50u8 {
        let staging = stage(&cuda, &f32s(&[f32::from(layer); N]));
        let region = ring.alloc((N * 4) as u64, 256).unwrap();
        let (region, copied) = upload(&cuda, &staging, region);
        ordered(&cuda, copied);
        for _ in 0..layer % 3 {
            cuda.binary(Binary::Add, &view(&region, F32, &[N]), &mut view_mut(&mut sum, F32, &[N])).unwrap();
            expected += f32::from(layer);
        }
        // The lease ends: issued, and nobody has waited.
        region.retire(cuda.ticket(Queue::Compute).unwrap());
        cuda.wait(copied).unwrap();
    }
    assert!(values(&get(&cuda, &sum)) == [expected; N], "a copy overtook kernels");
}

/// The same with the copies issued by another thread, as readers do, and with one slot for all.
#[test]
fn copies_of_another_thread_come_where_they_were_issued() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let mut sum = put(&cuda, &f32s(&[0.0; N]));
    let slot = cuda.allocate(budget().reserve(Lifetime::Weights, (N * 4) as u64).unwrap()).unwrap();
    let ring = Arena::ring(vec![slot]);
    let (give, take) = channel();
    std::thread::scope(|scope| {
        let (cuda, ring) = (&cuda, &ring);
        scope.spawn(move || {
            let mut staging = stage(cuda, &f32s(&[0.0; N]));
            for layer in 1..=100u8 {
                staging.host_mut().copy_from_slice(&f32s(&[f32::from(layer); N]));
                let region = loop {
                    match ring.alloc((N * 4) as u64, 256) {
                        Some(region) => break region,
                        None => std::thread::yield_now(),
                    }
                };
                let (region, copied) = upload(cuda, &staging, region);
                give.send((region, copied)).unwrap();
                cuda.wait(copied).unwrap();
            }
        });
        for (region, copied) in take {
            ordered(cuda, copied);
            cuda.binary(Binary::Add, &view(&region, F32, &[N]), &mut view_mut(&mut sum, F32, &[N])).unwrap();
            region.retire(cuda.ticket(Queue::Compute).unwrap());
        }
    });
    assert!(values(&get(&cuda, &sum)) == [5050.0; N], "a copy overtook kernels");
}

#[test]
fn tickets_are_done_in_the_order_of_issue() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let mut work = allocate(&cuda, 1 << 20);
    let mut tickets = Vec::new();
    for _ in 0..100 {
        crate::util::busy(&cuda, &mut work);
        tickets.push(cuda.ticket(Queue::Compute).unwrap());
    }
    assert!(tickets.windows(2).all(|pair| pair[0].value < pair[1].value));
    cuda.wait(tickets[60]).unwrap();
    assert!(tickets[..=60].iter().all(|&ticket| cuda.is_done(ticket).unwrap()));
    // What nobody waits for is done as well, in time.
    while !cuda.is_done(tickets[99]).unwrap() {
        std::thread::yield_now();
    }
}
