//! Memory and tickets of another device.

use vram_device::{DeviceError, Kernels, KernelsExt, Queue, ops};
use vram_types::DType::F32;

use super::util::{allocate, part, stage, view_mut};

pub(crate) fn is_refused(ours: &dyn Kernels, theirs: &dyn Kernels) {
    let mut region = allocate(theirs, 64);
    let staging = stage(theirs, &[0; 64]);
    let error = ours.call(ops::Unary::silu(view_mut(&mut region, F32, &[16])), None).unwrap_err();
    assert!(error.to_string().contains("another device"), "{error}");
    let refused = |result: Result<(), DeviceError>| {
        assert!(matches!(result, Err(DeviceError::OutOfRange { available: 0, .. })), "{result:?}");
    };
    refused(ours.download(&region, 0, &mut [0; 4]));
    refused(ours.upload(&staging, 0..4, &mut part(allocate(ours, 64)), 0).map(drop));
    refused(ours.upload(&stage(ours, &[0; 64]), 0..4, &mut part(region), 0).map(drop));
    let ticket = theirs.ticket(Queue::Copy).unwrap();
    for error in [ours.wait(ticket), ours.order(Queue::Compute, ticket), ours.is_done(ticket).map(drop)] {
        let error = error.unwrap_err();
        assert!(error.to_string().contains("belongs to another device"), "{error}");
    }
}
