//! What has to come after something else does, whether a device has one queue or two.

use std::sync::mpsc::channel;

use vram_device::{Arena, Kernels, KernelsExt, Lifetime, Queue, ops};
use vram_types::DType::F32;

use super::util::{allocate, budget, busy, f32s, get, ordered, put, stage, upload, values, view, view_mut};

const N: usize = 4096;

/// A slot is overwritten while the kernels that read it are still under way, or only encoded, as a ring does with each layer: the
/// copy has to come behind them by itself, or they add the weights of another layer.
pub(crate) fn a_copy_never_overtakes_the_kernels_that_use_its_target(device: &dyn Kernels) {
    let slot = device.allocate(budget().reserve(Lifetime::Weights, (N * 4) as u64).unwrap()).unwrap();
    let ring = Arena::ring(vec![slot]);
    let mut sum = put(device, &f32s(&[0.0; N]));
    let mut expected = 0.0;
    for layer in 1..=50u8 {
        let staging = stage(device, &f32s(&[f32::from(layer); N]));
        let region = ring.alloc((N * 4) as u64, 256).unwrap();
        let (region, copied) = upload(device, &staging, region);
        ordered(device, copied);
        for _ in 0..layer % 3 {
            device
                .call(ops::Binary::add(view(&region, F32, &[N]), view_mut(&mut sum, F32, &[N])), None)
                .unwrap();
            expected += f32::from(layer);
        }
        // The lease ends: issued, and nobody has waited.
        region.retire(device.ticket(Queue::Compute).unwrap());
        device.wait(copied).unwrap();
    }
    assert!(values(&get(device, &sum)) == [expected; N], "a copy overtook kernels");
}

/// The same with the copies issued by another thread, as readers do, and with one slot for all.
pub(crate) fn copies_of_another_thread_come_where_they_were_issued(device: &dyn Kernels) {
    let mut sum = put(device, &f32s(&[0.0; N]));
    let slot = device.allocate(budget().reserve(Lifetime::Weights, (N * 4) as u64).unwrap()).unwrap();
    let ring = Arena::ring(vec![slot]);
    let (give, take) = channel();
    std::thread::scope(|scope| {
        let ring = &ring;
        scope.spawn(move || {
            let mut staging = stage(device, &f32s(&[0.0; N]));
            for layer in 1..=100u8 {
                staging.host_mut().copy_from_slice(&f32s(&[f32::from(layer); N]));
                let region = loop {
                    match ring.alloc((N * 4) as u64, 256) {
                        Some(region) => break region,
                        None => std::thread::yield_now(),
                    }
                };
                let (region, copied) = upload(device, &staging, region);
                give.send((region, copied)).unwrap();
                device.wait(copied).unwrap();
            }
        });
        for (region, copied) in take {
            ordered(device, copied);
            device
                .call(ops::Binary::add(view(&region, F32, &[N]), view_mut(&mut sum, F32, &[N])), None)
                .unwrap();
            region.retire(device.ticket(Queue::Compute).unwrap());
        }
    });
    assert!(values(&get(device, &sum)) == [5050.0; N], "a copy overtook kernels");
}

pub(crate) fn tickets_are_done_in_the_order_of_issue(device: &dyn Kernels) {
    let mut work = allocate(device, 1 << 20);
    let mut tickets = Vec::new();
    for _ in 0..100 {
        busy(device, &mut work);
        tickets.push(device.ticket(Queue::Compute).unwrap());
    }
    assert!(tickets.windows(2).all(|pair| pair[0].value < pair[1].value));
    device.wait(tickets[60]).unwrap();
    assert!(tickets[..=60].iter().all(|&ticket| device.is_done(ticket).unwrap()));
    // What nobody waits for is done as well, if it is asked after: asking may be what submits it.
    while !device.is_done(tickets[99]).unwrap() {
        std::thread::yield_now();
    }
}
