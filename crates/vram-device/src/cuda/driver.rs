//! The driver's functions, with error codes turned into errors without calling it again.
//!
//! Handles ([`Stream`], [`Event`], [`Module`], [`Function`]) are created only here, and are valid until
//! `destroy` consumes them. Their owners destroy them before the context, which
//! [`Context`](super::context::Context) ensures. A handle that is only dropped is left to the driver, as
//! after a loss.

use std::ffi::{CStr, CString, c_int, c_void};
use std::fmt;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys;
use cudarc::driver::{CudaContext, CudaStream};

use super::probe::unavailable;
use crate::DeviceError;

/// Codes after which nothing in the context works any more: every call returns the same code again.
const STICKY: [u32; 18] = [
    4,   // the driver is shutting down
    46,  // device unavailable
    201, // invalid context
    214, // ECC
    220, // NVLink
    226, // contained
    700, // illegal address
    702, // launch timeout
    709, // context is destroyed
    710, // assert
    714, 715, 716, 717, 718, 719, // faults of a kernel
    721, // tensor memory
    999, // unknown
];

/// Maps a driver code to our error.
pub(super) fn error(what: &'static str, code: sys::CUresult) -> DeviceError {
    // The names are those of cudarc's enum; asking the driver for a text is a call, which may no longer be
    // allowed.
    let number = code as u32;
    let reason = format!("{code:?} ({number}) from {what}");
    match number {
        2 => DeviceError::OutOfMemory { bytes: 0, reason },
        _ if STICKY.contains(&number) => DeviceError::Lost { reason },
        _ => DeviceError::Failed { what, reason: format!("{code:?} ({number})") },
    }
}

pub(super) fn check(what: &'static str, code: sys::CUresult) -> Result<(), DeviceError> {
    if code as u32 == 0 { Ok(()) } else { Err(error(what, code)) }
}

/// A card, as the driver describes it without a context.
#[derive(Clone, Debug)]
pub(super) struct Card {
    pub(super) device: sys::CUdevice,
    pub(super) name: String,
    /// Compute capability: 89 for 8.9.
    pub(super) capability: u32,
    pub(super) total: u64,
}

impl Card {
    /// Name, architecture and memory, for display and for selection.
    pub(super) fn describe(&self) -> String {
        format!("{} (sm_{}, {} MiB)", self.name, self.capability, self.total >> 20)
    }

    fn read(device: sys::CUdevice) -> Result<Card, DeviceError> {
        use sys::CUdevice_attribute_enum as Attribute;
        let mut name = [0; 256];
        let mut total = 0;
        // SAFETY: the name is given its length, which leaves room for the terminating zero; the total is a
        // valid out-parameter.
        let codes = unsafe {
            (
                sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int - 1, device),
                sys::cuDeviceTotalMem_v2(&mut total, device),
            )
        };
        check("cuDeviceGetName", codes.0)?;
        check("cuDeviceTotalMem", codes.1)?;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: the value is a valid out-parameter.
            check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) })?;
            Ok::<u32, DeviceError>(u32::try_from(value).unwrap_or(0))
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        // SAFETY: the array ends with a zero that the driver could not overwrite.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        Ok(Card { device, name, capability: major * 10 + minor, total: total as u64 })
    }
}

const NO_CARD: &str = "the NVIDIA driver is here and sees no card (CUDA_VISIBLE_DEVICES may hide it)";

/// Why the driver cannot be used, from its initialisation code.
fn not_started(code: sys::CUresult) -> Option<String> {
    let reason = match code as u32 {
        0 => return None,
        34 => "its libcuda is the toolkit's stub, which is only for linking",
        100 => NO_CARD,
        803 => "the NVIDIA driver's library and its kernel module are of different versions",
        number => return Some(format!("the NVIDIA driver does not start: {code:?} ({number})")),
    };
    Some(reason.to_owned())
}

/// All cards. The library has been probed.
pub(super) fn cards() -> Result<Vec<Card>, DeviceError> {
    // SAFETY: the driver may be initialised at any time and any number of times.
    let code = unsafe { sys::cuInit(0) };
    if let Some(reason) = not_started(code) {
        return Err(unavailable(reason));
    }
    let mut count = 0;
    // SAFETY: the count is a valid out-parameter.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    if count <= 0 {
        return Err(unavailable(NO_CARD));
    }
    (0..count)
        .map(|ordinal| {
            let mut device = 0;
            // SAFETY: the device is a valid out-parameter.
            check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, ordinal) })?;
            Card::read(device)
        })
        .collect()
}

/// A context that is kept alive: a card's primary one, which the whole process shares, or the caller's.
pub(super) struct Ctx {
    raw: sys::CUcontext,
    keeper: Keeper,
}

enum Keeper {
    Primary(sys::CUdevice),
    Caller(Arc<CudaContext>),
}

// SAFETY: contexts may be made current and used on any thread.
unsafe impl Send for Ctx {}
// SAFETY: the driver's functions may be called from several threads at once.
unsafe impl Sync for Ctx {}

impl Ctx {
    pub(super) fn primary(card: &Card) -> Result<Ctx, DeviceError> {
        let mut raw = null_mut();
        // SAFETY: the context is a valid out-parameter, and the driver named the device.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut raw, card.device) })?;
        Ok(Ctx { raw, keeper: Keeper::Primary(card.device) })
    }

    /// The caller's context, and its card.
    pub(super) fn adopt(context: Arc<CudaContext>) -> Result<(Ctx, Card), DeviceError> {
        let card = Card::read(context.cu_device())?;
        Ok((Ctx { raw: context.cu_ctx(), keeper: Keeper::Caller(context) }, card))
    }

    /// Makes it current on the calling thread, as each driver call requires. It stays current.
    pub(super) fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: `keeper` keeps the context alive.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.raw) })
    }

    pub(super) fn handle(&self) -> sys::CUcontext {
        self.raw
    }

    fn device(&self) -> sys::CUdevice {
        match &self.keeper {
            Keeper::Primary(device) => *device,
            Keeper::Caller(context) => context.cu_device(),
        }
    }

    /// Releases it. Everything in it has been destroyed.
    pub(super) fn destroy(self) {
        if let Keeper::Primary(device) = self.keeper {
            // SAFETY: released once for the one time that it was retained. An error has no one to go to.
            let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(device) };
        }
    }

    /// Free and total bytes of the card.
    pub(super) fn memory(&self) -> Result<(u64, u64), DeviceError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are valid out-parameters.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }
}

/// A sequence of work.
pub(super) struct Stream {
    raw: sys::CUstream,
    /// The caller's stream, if it is not ours to destroy.
    callers: Option<Arc<CudaStream>>,
}

// SAFETY: work may be issued to a stream from any thread, and from several.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream of the current context that does not wait for the default one.
    pub(super) fn new() -> Result<Stream, DeviceError> {
        let mut raw = null_mut();
        // SAFETY: the stream is a valid out-parameter.
        check("cuStreamCreate", unsafe {
            sys::cuStreamCreate(&mut raw, sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32)
        })?;
        Ok(Stream { raw, callers: None })
    }

    pub(super) fn adopt(stream: Arc<CudaStream>) -> Stream {
        Stream { raw: stream.cu_stream(), callers: Some(stream) }
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.raw
    }

    /// Blocks the host until everything issued is done.
    pub(super) fn synchronize(&self) -> Result<(), DeviceError> {
        // SAFETY: the stream is valid until `destroy`.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.raw) })
    }

    /// Work issued from now on starts after the event's last record.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), DeviceError> {
        // SAFETY: both are valid until `destroy`.
        check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(self.raw, event.0, 0) })
    }

    pub(super) fn destroy(self) {
        if self.callers.is_none() {
            // SAFETY: ours, and not used again. An error has no one to go to.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
        }
    }
}

/// A place in a stream, once recorded.
pub(super) struct Event(sys::CUevent);

// SAFETY: events may be recorded, queried and waited for from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new() -> Result<Event, DeviceError> {
        use sys::CUevent_flags_enum::{CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING};
        let mut raw = null_mut();
        let flags = CU_EVENT_BLOCKING_SYNC as u32 | CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the event is a valid out-parameter.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut raw, flags) })?;
        Ok(Event(raw))
    }

    pub(super) fn record(&self, stream: &Stream) -> Result<(), DeviceError> {
        // SAFETY: both are valid until `destroy`.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.0, stream.raw) })
    }

    pub(super) fn is_done(&self) -> Result<bool, DeviceError> {
        const NOT_READY: u32 = 600;
        // SAFETY: valid until `destroy`.
        let code = unsafe { sys::cuEventQuery(self.0) };
        if code as u32 == NOT_READY {
            return Ok(false);
        }
        check("cuEventQuery", code).map(|()| true)
    }

    /// Blocks the host until the recorded work is done.
    pub(super) fn wait(&self) -> Result<(), DeviceError> {
        // SAFETY: valid until `destroy`.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.0) })
    }

    pub(super) fn destroy(self) {
        // SAFETY: not used again. An error has no one to go to.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

/// Device memory.
pub(super) fn allocate(bytes: u64) -> Result<u64, DeviceError> {
    let mut pointer = 0;
    // SAFETY: the pointer is a valid out-parameter.
    let code = unsafe { sys::cuMemAlloc_v2(&mut pointer, bytes as usize) };
    check("cuMemAlloc", code).map_err(|error| sized(error, bytes)).map(|()| pointer)
}

/// # Safety
/// The memory is from [`allocate`], was not freed before, and nothing issued still uses it.
pub(super) unsafe fn free(pointer: u64) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    check("cuMemFree", unsafe { sys::cuMemFree_v2(pointer) })
}

/// What the driver knows about memory that is not ours.
pub(super) struct Known {
    /// Whether it is host memory.
    pub(super) of_host: bool,
    /// Whether it belongs to the given context.
    pub(super) is_ours: bool,
    /// First byte and size of the allocation.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

impl Known {
    /// `None` if the driver does not know the memory.
    pub(super) fn at(pointer: u64, ctx: &Ctx) -> Result<Option<Known>, DeviceError> {
        use sys::CUpointer_attribute_enum as Attribute;
        const HOST: u64 = sys::CUmemorytype_enum::CU_MEMORYTYPE_HOST as u64;
        let asked = |which| attribute(which, pointer);
        let Some(kind) = asked(Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE)? else { return Ok(None) };
        // Memory of a pool and mapped memory belong to a device, not to a context.
        let is_ours = match asked(Attribute::CU_POINTER_ATTRIBUTE_CONTEXT)?.unwrap_or(0) {
            0 => asked(Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)? == u64::try_from(ctx.device()).ok(),
            context => context == ctx.raw as u64,
        };
        let start = asked(Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR)?.unwrap_or(pointer);
        let bytes = asked(Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE)?.unwrap_or(0);
        Ok(Some(Known { of_host: kind == HOST, is_ours, start, bytes }))
    }
}

/// A pointer attribute as a number; `None` if the driver has no value.
fn attribute(which: sys::CUpointer_attribute, pointer: u64) -> Result<Option<u64>, DeviceError> {
    const INVALID_VALUE: u32 = 1;
    let mut value = [0; 8];
    // SAFETY: none of the requested attributes is longer than eight bytes. The pointer is not dereferenced.
    let code = unsafe { sys::cuPointerGetAttribute(value.as_mut_ptr().cast(), which, pointer) };
    if code as u32 == INVALID_VALUE {
        return Ok(None);
    }
    // Shorter ones leave the upper bytes zero.
    check("cuPointerGetAttribute", code).map(|()| Some(u64::from_le_bytes(value)))
}

/// Page-locked host memory, which the card copies from while the host works. Never write-combined: readers
/// fill it piece by piece.
pub(super) fn allocate_pinned(bytes: u64) -> Result<*mut u8, DeviceError> {
    let mut pointer: *mut c_void = null_mut();
    // SAFETY: the pointer is a valid out-parameter.
    let code = unsafe { sys::cuMemHostAlloc(&mut pointer, bytes as usize, 0) };
    check("cuMemHostAlloc", code).map_err(|error| sized(error, bytes)).map(|()| pointer.cast())
}

/// # Safety
/// The memory is from [`allocate_pinned`], was not freed before, and nothing issued still uses it.
pub(super) unsafe fn free_pinned(pointer: *mut u8) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    check("cuMemFreeHost", unsafe { sys::cuMemFreeHost(pointer.cast()) })
}

fn sized(error: DeviceError, bytes: u64) -> DeviceError {
    match error {
        DeviceError::OutOfMemory { reason, .. } => DeviceError::OutOfMemory { bytes, reason },
        error => error,
    }
}

/// # Safety
/// Both are `bytes` bytes of memory that lives until the copy is done. The source is pinned, and is not
/// written to before then.
pub(super) unsafe fn copy_in(to: u64, from: *const u8, bytes: u64, on: &Stream) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    check("cuMemcpyHtoDAsync", unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes as usize, on.raw) })
}

/// # Safety
/// Both are `bytes` bytes of memory that lives until the copy is done. The target is pinned, and is not read
/// before then.
pub(super) unsafe fn copy_out(to: *mut u8, from: u64, bytes: u64, on: &Stream) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    check("cuMemcpyDtoHAsync", unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes as usize, on.raw) })
}

/// # Safety
/// Both are `bytes` bytes of memory that lives until the copy is done, and they do not overlap.
pub(super) unsafe fn copy_within(to: u64, from: u64, bytes: u64, on: &Stream) -> Result<(), DeviceError> {
    // SAFETY: the caller's promise.
    check("cuMemcpyDtoDAsync", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes as usize, on.raw) })
}

/// Compiled kernels, loaded.
pub(super) struct Module(sys::CUmodule);

// SAFETY: modules belong to their context and may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Loads a CUBIN, or PTX that ends with a zero.
    ///
    /// # Safety
    /// The image is a complete output of a compiler.
    pub(super) unsafe fn load(image: &[u8]) -> Result<Module, DeviceError> {
        let mut raw = null_mut();
        // SAFETY: the module is a valid out-parameter, and the image is complete, so the driver finds its end
        // in it.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut raw, image.as_ptr().cast()) })?;
        Ok(Module(raw))
    }

    pub(super) fn function(&self, name: &str) -> Result<Function, DeviceError> {
        let what = "cuModuleGetFunction";
        let c_name = CString::new(name).map_err(|e| DeviceError::Failed { what, reason: e.to_string() })?;
        let mut raw = null_mut();
        // SAFETY: the function is a valid out-parameter, the name ends with a zero, the module is loaded
        // until `destroy`.
        check(what, unsafe { sys::cuModuleGetFunction(&mut raw, self.0, c_name.as_ptr()) })?;
        Ok(Function(raw))
    }

    pub(super) fn destroy(self) {
        // SAFETY: none of its functions is launched again. An error has no one to go to.
        let _ = unsafe { sys::cuModuleUnload(self.0) };
    }
}

/// A kernel of a loaded [`Module`].
#[derive(Clone, Copy)]
pub(super) struct Function(sys::CUfunction);

// SAFETY: functions belong to their module and may be launched from any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// Issues a run of `blocks` blocks of `threads` threads.
    ///
    /// # Safety
    /// The arguments point to values of the types of the kernel's parameters, in order. What the kernel reads
    /// and writes is in memory that lives until it has run, and its module stays loaded until then.
    pub(super) unsafe fn launch(
        self,
        blocks: [u32; 3],
        threads: u32,
        arguments: &mut [*mut c_void],
        on: &Stream,
    ) -> Result<(), DeviceError> {
        let [x, y, z] = blocks;
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        check("cuLaunchKernel", unsafe {
            let arguments = arguments.as_mut_ptr();
            sys::cuLaunchKernel(self.0, x, y, z, threads, 1, 1, 0, on.raw, arguments, null_mut())
        })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("callers", &self.callers.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_errors_without_a_driver() {
        let out = error("cuMemAlloc", sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert!(out.is_oom() && out.to_string().contains("CUDA_ERROR_OUT_OF_MEMORY (2)"), "{out}");
        for code in [sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, sys::CUresult::CUDA_ERROR_LAUNCH_FAILED] {
            assert!(matches!(error("cuLaunchKernel", code), DeviceError::Lost { .. }));
        }
        let failed = error("cuLaunchKernel", sys::CUresult::CUDA_ERROR_INVALID_VALUE);
        assert!(matches!(failed, DeviceError::Failed { what: "cuLaunchKernel", .. }), "{failed}");
        assert!(check("cuInit", sys::CUresult::CUDA_SUCCESS).is_ok());
    }

    #[test]
    fn a_driver_that_does_not_start_is_told_why() {
        for (code, expected) in [
            (sys::CUresult::CUDA_ERROR_STUB_LIBRARY, "only for linking"),
            (sys::CUresult::CUDA_ERROR_NO_DEVICE, "sees no card"),
            (sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "different versions"),
            (sys::CUresult::CUDA_ERROR_UNKNOWN, "does not start: CUDA_ERROR_UNKNOWN (999)"),
        ] {
            assert!(not_started(code).is_some_and(|reason| reason.contains(expected)), "{code:?}");
        }
        assert_eq!(not_started(sys::CUresult::CUDA_SUCCESS), None);
    }
}
