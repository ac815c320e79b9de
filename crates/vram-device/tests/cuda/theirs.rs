//! What is the caller's own: a context, streams, kernels; and what is of another device.

use vram_device::cuda::api::driver::{CudaContext, sys};
use vram_device::cuda::{Cuda, CudaOptions};
use vram_device::{Device, Queue, conformance};

use crate::util::{allocate, cache, get, open, put};

/// Works on the stand-in as on a card; without either, says so.
#[test]
fn a_context_and_streams_of_the_callers_own() {
    // Only to know that there is a driver: cudarc panics where there is none.
    if open(CudaOptions::default()).is_none() {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let options = || CudaOptions { cache: cache(), ..Default::default() };
    let streams = || (context.new_stream().unwrap(), context.new_stream().unwrap());
    let ours = Cuda::over(context.clone(), None, options()).unwrap();
    let theirs = Cuda::over(context.clone(), Some(streams()), options()).unwrap();
    for cuda in [&ours, &theirs] {
        assert_eq!(cuda.native_context(), context.cu_ctx());
        assert!(cuda.info().topology.separate_copy_queue);
        let failed: Vec<_> = conformance::cases().iter().filter_map(|case| case.run(cuda).err()).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
    // One stream for both: copies do not run beside kernels, and that is said.
    let stream = context.new_stream().unwrap();
    let one = Cuda::over(context.clone(), Some((stream.clone(), stream.clone())), options()).unwrap();
    assert!(!one.info().topology.separate_copy_queue);
    assert_eq!(one.native_stream(Queue::Copy), stream.cu_stream());
    let region = put(&one, &[7; 1000]);
    assert!(get(&one, &region) == [7; 1000]);
    drop((ours, theirs, one));
    // What is the caller's is still there.
    stream.synchronize().unwrap();
}

/// A driver's function on a region's pointer, in the compute stream: tickets that are asked for later cover it.
#[test]
fn work_of_the_callers_own_is_covered_by_tickets() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let region = put(&cuda, &[1; 4096]);
    let pointer = cuda.native(&region).unwrap();
    let stream = cuda.native_stream(Queue::Compute);
    // SAFETY: the context is current (a call of the device made it so), the pointer is to 4096 bytes, which stay until the wait.
    let code = unsafe { sys::cuMemsetD8Async(pointer, 9, 4096, stream) };
    assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
    cuda.wait(cuda.ticket(Queue::Compute).unwrap()).unwrap();
    assert!(get(&cuda, &region) == [9; 4096]);
}

#[test]
fn what_is_of_another_device_is_refused() {
    let (Some(ours), Some(theirs)) = (open(CudaOptions::default()), open(CudaOptions::default())) else {
        return;
    };
    let region = allocate(&theirs, 64);
    assert!(ours.native(&region).is_none() && theirs.native(&region).is_some());
    crate::gpu::foreign::is_refused(&ours, &theirs);
}
