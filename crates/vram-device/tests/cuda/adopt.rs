//! What is the caller's own: a context, streams, kernels, memory; and what is of another device.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use vram_device::cuda::api::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, sys};
use vram_device::cuda::{Cuda, CudaOptions};
use vram_device::{
    Budget, Buffer, Device, DeviceError, KernelsExt, Lifetime, Queue, Region, Tier, conformance, ops,
};
use vram_types::DType::F32;

use crate::util::{allocate, budget, cache, f32s, get, open, ordered, put, stage, upload, view, view_mut};

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

/// Memory of the caller's own that says what it held when it was given back.
struct Lent {
    slice: CudaSlice<f32>,
    /// Not ordered with any stream of the device.
    stream: Arc<CudaStream>,
    held: Sender<Vec<f32>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let values = self.stream.clone_dtoh(&self.slice).unwrap();
        self.stream.synchronize().unwrap();
        // Nobody listens where a test is over.
        let _ = self.held.send(values);
    }
}

fn lend(
    cuda: &Cuda,
    budget: &Budget,
    stream: &Arc<CudaStream>,
    values: &[f32],
) -> (Region, Receiver<Vec<f32>>) {
    let slice = stream.clone_htod(values).unwrap();
    let pointer = slice.device_ptr(stream).0;
    stream.synchronize().unwrap();
    let (held, back) = channel();
    let owner = Lent { slice, stream: stream.clone(), held };
    let room = budget.reserve(Lifetime::Weights, size_of_val(values) as u64).unwrap();
    // SAFETY: the slice has as many bytes and is in the owner; it is filled, and not used again before the owner drops.
    let buffer = unsafe { cuda.adopt(pointer, room, owner) }.unwrap();
    (buffer.into_region(), back)
}

/// A device in a context of the caller's own, and a stream beside its own.
fn over() -> Option<(Cuda, Arc<CudaStream>)> {
    // Only to know that there is a driver: cudarc panics where there is none.
    open(CudaOptions::default())?;
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let cuda = Cuda::over(context, None, CudaOptions { cache: cache(), ..Default::default() }).unwrap();
    Some((cuda, stream))
}

const N: usize = 4096;

/// Kernels read and write it, a copy goes into it, and its owner finds in it what the last of them left.
#[test]
fn memory_of_the_callers_own_is_used_without_a_copy_and_given_back_when_that_is_done() {
    let Some((cuda, stream)) = over() else { return };
    let budget = Budget::new(Tier::Device, 2 * 4 * N as u64);
    let (x, x_back) = lend(&cuda, &budget, &stream, &[1.0; N]);
    let (mut sum, sum_back) = lend(&cuda, &budget, &stream, &[2.0; N]);
    assert_eq!(budget.used(), 2 * 4 * N as u64);
    let mut add = |x: &Region| {
        cuda.call(ops::Binary::add(view(x, F32, &[N]), view_mut(&mut sum, F32, &[N])), None).unwrap();
    };
    add(&x);
    // Behind the kernel that reads what was there.
    cuda.order(Queue::Copy, cuda.ticket(Queue::Compute).unwrap()).unwrap();
    let staging = stage(&cuda, &f32s(&[10.0; N]));
    let (x, copied) = upload(&cuda, &staging, x);
    ordered(&cuda, copied);
    add(&x);
    let last = cuda.ticket(Queue::Compute).unwrap();
    drop((x, sum));
    assert_eq!(budget.used(), 0);
    let early = sum_back.try_recv().ok();
    assert!(early.is_none() || cuda.is_done(last).unwrap(), "given back while it was in use");
    cuda.reclaim().unwrap();
    assert!(early.or_else(|| sum_back.try_recv().ok()) == Some(vec![13.0; N]));
    assert!(x_back.try_recv() == Ok(vec![10.0; N]));
}

/// What a stand-in that is late shows: nothing is given back before the host has waited, and then by whoever needs the room.
pub(crate) fn late() {
    let (cuda, stream) = over().unwrap();
    memory_of_the_callers_own_is_used_without_a_copy_and_given_back_when_that_is_done();
    let lent_and_used = || {
        let (mut region, back) = lend(&cuda, &budget(), &stream, &[-1.0; N]);
        let all = view_mut(&mut region, F32, &[N]);
        cuda.call(ops::Unary::silu(all), None).unwrap();
        drop(region);
        cuda.memory().unwrap();
        assert!(back.try_recv().is_err(), "given back before the kernel has run");
        back
    };
    let has_run = |back: Receiver<Vec<f32>>| {
        back.try_recv().is_ok_and(|values| values.iter().all(|v| (v + 0.268_941_4).abs() < 1e-5))
    };
    let back = lent_and_used();
    let next = allocate(&cuda, 64);
    assert!(has_run(back), "not given back where room is needed");
    let back = lent_and_used();
    drop((next, cuda));
    assert!(has_run(back), "not given back with the device");
}

/// An allocation by the driver's plain function.
pub(crate) struct Raw(pub(crate) sys::CUdeviceptr);

impl Raw {
    /// In the context that a call of the device made current.
    pub(crate) fn new(cuda: &Cuda, bytes: usize) -> Raw {
        cuda.memory().unwrap();
        let mut pointer = 0;
        // SAFETY: the pointer is a valid place.
        assert_eq!(unsafe { sys::cuMemAlloc_v2(&mut pointer, bytes) }, sys::CUresult::CUDA_SUCCESS);
        Raw(pointer)
    }
}

/// All of it as a buffer.
pub(crate) fn adopt(cuda: &Cuda, raw: &Raw, bytes: u64, owner: Arc<()>) -> Buffer {
    let room = budget().reserve(Lifetime::Pass, bytes).unwrap();
    // SAFETY: it has as many bytes, and nothing else uses it.
    unsafe { cuda.adopt(raw.0, room, owner) }.unwrap()
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: allocated once, and the tests have waited for what used it. A lost device may refuse.
        let _ = unsafe { sys::cuMemFree_v2(self.0) };
    }
}

#[test]
pub(crate) fn memory_that_cannot_be_taken_in_is_refused_and_left_to_its_owner() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let budget = Budget::new(Tier::Device, 4 << 20);
    let owner = Arc::new(());
    let adopt = |pointer: u64, bytes: u64| {
        let room = budget.reserve(Lifetime::Weights, bytes).unwrap();
        // SAFETY: what is taken in below is of `raw`, and nothing else uses that.
        unsafe { cuda.adopt(pointer, room, owner.clone()) }
    };
    let is_left = || assert_eq!((Arc::strong_count(&owner), budget.used()), (1, 0));
    let refused = |pointer: u64, expected: &str| {
        let error = adopt(pointer, 64).unwrap_err();
        assert!(matches!(error, DeviceError::Failed { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        is_left();
    };
    let size = 2 << 20;
    let raw = Raw::new(&cuda, size as usize);
    refused(0, "null");
    refused(64, "knows of no memory");
    let mut pinned = stage(&cuda, &[0; 64]);
    refused(pinned.host_mut().as_ptr() as u64, "of the host");
    for (offset, bytes) in [(0, size + 1), (size - 63, 64)] {
        let error = adopt(raw.0 + offset, bytes).unwrap_err();
        let told = DeviceError::OutOfRange {
            what: "memory of the caller's own",
            offset,
            bytes,
            available: size - offset,
        };
        assert_eq!(error.to_string(), told.to_string());
        is_left();
    }
    if CudaContext::device_count().unwrap() > 1 {
        let stream = CudaContext::new(1).unwrap().new_stream().unwrap();
        let slice = stream.alloc_zeros::<u8>(64).unwrap();
        stream.synchronize().unwrap();
        let pointer = slice.device_ptr(&stream).0;
        refused(pointer, "another context");
        println!("memory of another context was refused");
    }
    // The whole, its end, and nothing.
    for (pointer, bytes) in [(raw.0, size), (raw.0 + size - 64, 64), (0, 0)] {
        let region = adopt(pointer, bytes).unwrap().into_region();
        assert_eq!((Arc::strong_count(&owner), budget.used()), (2, bytes));
        assert_eq!(cuda.native(&region), Some(pointer));
        drop(region);
        cuda.reclaim().unwrap();
        is_left();
    }
    // Any address will do, but not for activations.
    let mut region = adopt(raw.0 + 2, 64).unwrap().into_region();
    let error = cuda.call(ops::Unary::silu(view_mut(&mut region, F32, &[16])), None).unwrap_err();
    assert!(error.to_string().contains("middle of an element"), "{error}");
    drop(region);
    cuda.reclaim().unwrap();
}
