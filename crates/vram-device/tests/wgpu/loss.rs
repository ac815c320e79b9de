//! A device that is lost, and memory of another one.

use vram_device::wgpu::WgpuOptions;
use vram_device::{Device, DeviceError, KernelsExt, Lifetime, Queue, ops};
use vram_types::DType::F32;

use crate::util::{allocate, budget, busy, open, part, stage, view_mut};

#[test]
fn a_lost_device_says_so_wherever_it_is_asked() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    let mut region = allocate(&wgpu, 4096);
    let mut target = part(allocate(&wgpu, 4096));
    let mut staging = stage(&wgpu, &[1; 4096]);
    busy(&wgpu, &mut region);
    let before = wgpu.upload(&staging, 0..4096, &mut target, 0).unwrap();
    wgpu.wait(before).unwrap();
    busy(&wgpu, &mut region);
    wgpu.device().destroy();

    let lost = |what: &str, result: Result<(), DeviceError>| {
        assert!(matches!(result, Err(DeviceError::Lost { .. })), "{what} gave {result:?}");
    };
    lost("a wait", wgpu.ticket(Queue::Compute).and_then(|ticket| wgpu.wait(ticket)));
    // Who fills staging need not know, and hears of it from the copy.
    staging.host_mut().fill(2);
    lost("an upload", wgpu.upload(&staging, 0..4096, &mut target, 0).map(drop));
    lost("a kernel", wgpu.call(ops::Unary::silu(view_mut(&mut region, F32, &[1024])), None));
    lost("a download", wgpu.download(&region, 0, &mut [0; 4]));
    lost("an allocation", wgpu.allocate(budget().reserve(Lifetime::Pass, 64).unwrap()).map(drop));
    lost("staging", wgpu.stage(budget().reserve(Lifetime::Pass, 64).unwrap()).map(drop));
    lost("a ticket", wgpu.ticket(Queue::Copy).map(drop));
    lost("an order", wgpu.order(Queue::Compute, before));
    lost("a question", wgpu.is_done(before).map(drop));
}

#[test]
fn what_is_of_another_device_is_refused() {
    let (Some(ours), Some(theirs)) = (open(WgpuOptions::default()), open(WgpuOptions::default())) else {
        return;
    };
    let region = allocate(&theirs, 64);
    assert!(ours.native(&region).is_none() && theirs.native(&region).is_some());
    crate::gpu::foreign::is_refused(&ours, &theirs);
}
