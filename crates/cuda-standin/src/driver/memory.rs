//! Device memory and pinned host memory.

use std::ffi::{c_int, c_void};

use crate::blocks::{Kind, Named};
use crate::config::Config;
use crate::out::put;
use crate::space;
use crate::state::{Context, State, call, rounded};
use crate::status::Status;

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(out: *mut u64, bytes: usize) -> u32 {
    call("cuMemAlloc_v2", |state| {
        let device = state.current_device()?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let free = state.memory(device).0;
        if Config::fails(&mut state.config.fail_alloc) || bytes as u64 > free || rounded(bytes as u64) > free
        {
            return Err(Status::OUT_OF_MEMORY);
        }
        let place = state.space.as_mut().ok_or(Status::NOT_INITIALIZED)?.take(bytes)?;
        state.blocks.enter(Kind::Device, device, place.address, bytes, Some(place));
        state.books.took(bytes as u64);
        put(out, place.address)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    call("cuMemFree_v2", |state| free(state, Kind::Device, address))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(out: *mut *mut c_void, bytes: usize, _flags: u32) -> u32 {
    call("cuMemHostAlloc", |state| {
        let device = state.current_device()?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        if Config::fails(&mut state.config.fail_pinned) {
            return Err(Status::OUT_OF_MEMORY);
        }
        let start = space::host_pages(bytes)?;
        state.blocks.enter(Kind::Pinned, device, start as u64, bytes, None);
        state.books.pinned(bytes as u64);
        put(out, start as *mut c_void)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: *mut c_void) -> u32 {
    call("cuMemFreeHost", |state| free(state, Kind::Pinned, address as u64))
}

/// Attributes of a pointer into an allocation: CONTEXT, MEMORY_TYPE, DEVICE_ORDINAL,
/// RANGE_START_ADDR and RANGE_SIZE. Others are `INVALID_VALUE`, and so are pointers to other
/// memory.
#[unsafe(no_mangle)]
extern "C" fn cuPointerGetAttribute(value: *mut c_void, attribute: c_int, address: u64) -> u32 {
    call("cuPointerGetAttribute", |state| {
        let within = |kind| {
            let (_, block) = state.blocks.around(kind, address)?;
            (address < block.address + block.bytes as u64).then_some(block)
        };
        let block = within(Kind::Device).or_else(|| within(Kind::Pinned)).ok_or(Status::INVALID_VALUE)?;
        match attribute {
            1 => {
                let of_it = |(handle, c): (&usize, &Context)| (c.device == block.device).then_some(*handle);
                put(value.cast(), state.contexts.iter().find_map(of_it).unwrap_or(0))
            }
            // CU_MEMORYTYPE_HOST, CU_MEMORYTYPE_DEVICE.
            2 => put(value.cast::<u32>(), if block.kind == Kind::Device { 2 } else { 1 }),
            9 => put(value.cast(), block.device as c_int),
            11 => put(value.cast(), block.address),
            12 => put(value.cast(), block.bytes),
            _ => Err(Status::INVALID_VALUE),
        }
    })
}

/// Frees an allocation. The host has to know that all work on it is done.
fn free(state: &mut State, kind: Kind, address: u64) -> Result<(), Status> {
    state.need_context()?;
    if address == 0 {
        return Ok(());
    }
    let Some(number) = state.blocks.at(kind, address) else {
        let what = match (state.blocks.around(kind, address), state.blocks.freed_at(address)) {
            (Some((n, b)), _) => format!("{address:#x} is not where {} begins", Named(n, b)),
            (None, Some(number)) => format!("allocation {number} was freed before: double free"),
            (None, None) => format!("{address:#x} was never allocated"),
        };
        return Err(state.refused(Status::INVALID_VALUE, what));
    };
    if let Some(work) = state.blocks.busy(number, &state.host) {
        let what = state.blocks.get(number).map(|b| Named(number, b).to_string()).unwrap_or_default();
        state.misused(format!("{what} is freed, and the host does not know that this is done: {work}"));
    }
    release(state, number);
    Ok(())
}

/// Removes an allocation and frees its memory.
pub(crate) fn release(state: &mut State, number: u64) {
    let Some(block) = state.blocks.leave(number) else { return };
    let bytes = block.bytes as u64;
    match (block.place, &state.space) {
        (Some(place), Some(space)) => {
            let untouched = space.surroundings_untouched(&place);
            space.give_back(&place);
            state.books.live_bytes -= bytes;
            if !untouched {
                state.misused(format!("a kernel wrote outside of {}", Named(number, &block)));
            }
        }
        _ => {
            state.books.pinned_bytes -= bytes;
            // SAFETY: the pages of this allocation. Queued work refers to it by number and finds
            // that it is freed, and the caller gave up its pointer.
            unsafe { space::free_host_pages(block.address as usize, block.bytes) };
        }
    }
}
