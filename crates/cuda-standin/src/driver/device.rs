//! Initialisation, devices and their primary contexts.

use std::ffi::{c_char, c_int};
use std::ptr;

use crate::blocks::Named;
use crate::out::{put, put_text};
use crate::space::Space;
use crate::state::{self, Context, Handle, State, call, guarded};
use crate::status::{Status, describe};

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> u32 {
    guarded("cuInit", |state| {
        state.count_call()?;
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if state.config.init_error != 0 {
            return Err(Status::of(state.config.init_error).unwrap_or(Status::UNKNOWN));
        }
        if state.config.devices <= 0 {
            return Err(Status::NO_DEVICE);
        }
        if state.space.is_none() {
            state.space = Some(Space::reserve()?);
        }
        crate::control::report_at_exit();
        state.initialised = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: *mut c_int) -> u32 {
    guarded("cuDriverGetVersion", |state| put(version, state.config.driver_version as c_int))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(status: u32, name: *mut *const c_char) -> u32 {
    guarded("cuGetErrorName", |_| error_text(status, name, true))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(status: u32, text: *mut *const c_char) -> u32 {
    guarded("cuGetErrorString", |_| error_text(status, text, false))
}

fn error_text(status: u32, to: *mut *const c_char, name: bool) -> Result<(), Status> {
    let Some((short, long)) = describe(status) else {
        put(to, ptr::null())?;
        return Err(Status::INVALID_VALUE);
    };
    put(to, if name { short } else { long }.as_ptr())
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: *mut c_int) -> u32 {
    call("cuDeviceGetCount", |state| put(count, state.config.devices as c_int))
}

fn known(state: &mut State, device: c_int) -> Result<usize, Status> {
    usize::try_from(device).ok().filter(|d| (*d as i64) < state.config.devices).ok_or(Status::INVALID_DEVICE)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> u32 {
    call("cuDeviceGet", |state| put(device, known(state, ordinal)? as c_int))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: *mut c_char, room: c_int, device: c_int) -> u32 {
    call("cuDeviceGetName", |state| {
        let device = known(state, device)?;
        put_text(name, usize::try_from(room).unwrap_or(0), &format!("CUDA stand-in {device}"))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) -> u32 {
    call("cuDeviceGetUuid", |state| {
        let mut bytes = *b"cuda-standin-000";
        bytes[15] += known(state, device)? as u8;
        put(uuid, bytes)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> u32 {
    cuDeviceGetUuid(uuid, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> u32 {
    call("cuDeviceTotalMem_v2", |state| {
        let device = known(state, device)?;
        put(bytes, state.memory(device).1 as usize)
    })
}

/// The supported device attributes; others are `INVALID_VALUE`.
#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> u32 {
    call("cuDeviceGetAttribute", |state| {
        known(state, device)?;
        let answer = match attribute {
            // MAX_THREADS_PER_BLOCK; MAX_BLOCK_DIM_X, Y, Z; MAX_GRID_DIM_X, Y, Z.
            1..=3 => 1024,
            4 => 64,
            5 => c_int::MAX,
            6 | 7 => 65_535,
            // MAX_SHARED_MEMORY_PER_BLOCK, WARP_SIZE, MULTIPROCESSOR_COUNT, INTEGRATED.
            8 => 48 << 10,
            10 => 32,
            16 => 2,
            18 => 0,
            // CAN_MAP_HOST_MEMORY, CONCURRENT_KERNELS, PCI_BUS_ID, PCI_DEVICE_ID, ASYNC_ENGINE_COUNT, UNIFIED_ADDRESSING.
            19 | 31 | 41 => 1,
            33 | 34 => device,
            40 => 2,
            75 => state.config.major as c_int,
            76 => state.config.minor as c_int,
            // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, MEMORY_POOLS_SUPPORTED.
            97 => super::module::MOST_DYNAMIC as c_int,
            115 => 0,
            _ => return Err(Status::INVALID_VALUE),
        };
        put(value, answer)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(out: *mut usize, device: c_int) -> u32 {
    call("cuDevicePrimaryCtxRetain", |state| {
        let device = known(state, device)?;
        let there = state.contexts.iter_mut().find(|(_, c)| c.device == device);
        if let Some((handle, context)) = there {
            if let Some(status) = context.dead {
                return Err(status);
            }
            context.retained += 1;
            return put(out, *handle);
        }
        let own_bytes = state.config.context_bytes;
        let handle = state.handle(Handle::Context);
        let context = Context { device, retained: 1, dead: None, default_stream: None, own_bytes: 0 };
        state.contexts.insert(handle, context);
        if let Err(status) = state.take_own(handle, own_bytes) {
            state.contexts.remove(&handle);
            return Err(status);
        }
        put(out, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> u32 {
    call("cuDevicePrimaryCtxRelease_v2", |state| {
        let device = known(state, device)?;
        let there = state.contexts.iter_mut().find(|(_, c)| c.device == device);
        let Some((handle, context)) = there else {
            return Err(state.refused(
                Status::INVALID_CONTEXT,
                format!("the context of device {device} is not retained"),
            ));
        };
        context.retained -= 1;
        let handle = *handle;
        if context.retained == 0 {
            end(state, handle);
        }
        Ok(())
    })
}

/// Ends a context and everything in it, and records what its owner should have freed before.
fn end(state: &mut State, handle: usize) {
    let Some(context) = state.contexts.remove(&handle) else { return };
    let waiting: usize = state.streams.values().filter(|s| s.context == handle).map(|s| s.waiting()).sum();
    if waiting > 0 {
        state.misused(format!(
            "the last release of device {}'s context drops {waiting} operations",
            context.device
        ));
    }
    let mut left: Vec<String> = Vec::new();
    // Pinned memory can be used from every context, but is freed with the one that allocated it.
    let blocks: Vec<u64> =
        state.blocks.iter().filter(|(_, b)| b.device == context.device).map(|(n, _)| *n).collect();
    for number in blocks {
        if let Some(block) = state.blocks.get(number) {
            left.push(format!("{} was not freed", Named(number, block)));
        }
        super::memory::release(state, number);
    }
    let before = [state.streams.len(), state.events.len(), state.modules.len()];
    let defaults =
        state.streams.values().filter(|s| s.context == handle && (s.is_default || s.closed)).count();
    state.streams.retain(|_, s| s.context != handle);
    state.events.retain(|_, e| e.context != handle);
    state.modules.retain(|_, m| m.context != handle);
    state.functions.retain(|_, f| f.context != handle);
    let after = [state.streams.len() + defaults, state.events.len(), state.modules.len()];
    for (what, (before, after)) in ["stream", "event", "module"].iter().zip(before.into_iter().zip(after)) {
        let gone = before - after;
        state.books.objects -= gone as u64;
        if gone > 0 {
            left.push(format!("{gone} x {what} not destroyed"));
        }
    }
    match state.blas.end_context(handle) {
        0 => {}
        count => left.push(format!("{count} x cublasLt handle not destroyed")),
    }
    if context.dead.is_none() {
        let device = context.device;
        left.into_iter().for_each(|l| state.leaks.add(format!("with the context of device {device}: {l}")));
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: usize) -> u32 {
    call("cuCtxSetCurrent", |state| {
        check(state, context)?;
        state::set_current(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: usize) -> u32 {
    call("cuCtxPushCurrent_v2", |state| {
        check(state, context)?;
        state::push_current(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent_v2(context: *mut usize) -> u32 {
    call("cuCtxPopCurrent_v2", |state| {
        let Some(popped) = state::pop_current() else {
            return Err(state.refused(Status::INVALID_CONTEXT, "no context was pushed"));
        };
        if context.is_null() { Ok(()) } else { put(context, popped) }
    })
}

fn check(state: &mut State, context: usize) -> Result<(), Status> {
    match state.contexts.get(&context) {
        None if context != 0 => Err(state.refused(Status::INVALID_CONTEXT, "this context does not exist")),
        Some(there) => there.dead.map_or(Ok(()), Err),
        None => Ok(()),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: *mut usize) -> u32 {
    call("cuCtxGetCurrent", |_| put(context, state::current_handle().unwrap_or(0)))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> u32 {
    call("cuCtxSynchronize", |state| {
        let context = state.need_context()?;
        state.synchronise_context(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    call("cuMemGetInfo_v2", |state| {
        let device = state.current_device()?;
        let (now, all) = state.memory(device);
        put(free, now as usize)?;
        put(total, all as usize)
    })
}
