//! Copies and fills, queued or synchronous.

use std::ffi::c_void;
use std::sync::Arc;

use crate::blocks::{Kind, Span};
use crate::config::Config;
use crate::queue::Touch;
use crate::state::{State, call};
use crate::status::Status;
use crate::work::{Copy, End, Fill, Work};

/// One end of a copy, and whether the call has to wait because of it.
struct Found {
    end: End,
    span: Option<Span>,
    waits: bool,
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) -> u32 {
    call("cuMemcpyHtoDAsync_v2", |state| {
        let from = host(state, from as usize, bytes, false)?;
        let to = device(state, to, bytes)?;
        copy(state, "copy to the device", from, to, bytes, stream, false)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) -> u32 {
    call("cuMemcpyDtoHAsync_v2", |state| {
        let from = device(state, from, bytes)?;
        let to = host(state, to as usize, bytes, true)?;
        copy(state, "copy from the device", from, to, bytes, stream, false)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> u32 {
    call("cuMemcpyDtoDAsync_v2", |state| {
        let (from, to) = (device(state, from, bytes)?, device(state, to, bytes)?);
        copy(state, "copy within the device", from, to, bytes, stream, false)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32 {
    call("cuMemcpyHtoD_v2", |state| {
        let from = host(state, from as usize, bytes, false)?;
        let to = device(state, to, bytes)?;
        copy(state, "copy to the device", from, to, bytes, 0, true)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> u32 {
    call("cuMemcpyDtoH_v2", |state| {
        let from = device(state, from, bytes)?;
        let to = host(state, to as usize, bytes, true)?;
        copy(state, "copy from the device", from, to, bytes, 0, true)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32 {
    call("cuMemcpyDtoD_v2", |state| {
        let (from, to) = (device(state, from, bytes)?, device(state, to, bytes)?);
        copy(state, "copy within the device", from, to, bytes, 0, true)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, value: u8, bytes: usize, stream: usize) -> u32 {
    call("cuMemsetD8Async", |state| fill(state, to, value, bytes, stream).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(to: u64, value: u8, bytes: usize) -> u32 {
    call("cuMemsetD8_v2", |state| {
        let stream = fill(state, to, value, bytes, 0)?;
        state.synchronise_stream(stream)
    })
}

fn fill(state: &mut State, to: u64, value: u8, bytes: usize, stream: usize) -> Result<usize, Status> {
    let stream = state.stream(stream)?;
    if let Some(span) = device(state, to, bytes)?.span {
        let touches = [Touch { span: span.clone(), writes: true }];
        state.issue(stream, &"memset".into(), Work::Fill(Fill { span, value }), &touches)?;
    }
    Ok(stream)
}

fn copy(
    state: &mut State,
    what: &str,
    from: Found,
    to: Found,
    bytes: usize,
    stream: usize,
    wait: bool,
) -> Result<(), Status> {
    if Config::fails(&mut state.config.fail_copy) {
        return Err(Status::of(state.config.fail_code).unwrap_or(Status::UNKNOWN));
    }
    let stream = state.stream(stream)?;
    if bytes > 0 && (from.span.is_none() || to.span.is_none()) {
        state.books.unpinned_copies += 1;
    }
    let wait = wait || from.waits || to.waits;
    if bytes > 0 {
        let touch = |span: Option<Span>, writes| span.map(|span| Touch { span, writes });
        let touches: Vec<Touch> =
            [touch(from.span, false), touch(to.span, true)].into_iter().flatten().collect();
        let what: Arc<str> = what.into();
        state.issue(stream, &what, Work::Copy(Copy { from: from.end, to: to.end, bytes }), &touches)?;
    }
    if wait { state.synchronise_stream(stream) } else { Ok(()) }
}

/// Device memory named by a copy.
fn device(state: &mut State, address: u64, bytes: usize) -> Result<Found, Status> {
    let found = match state.blocks.span(Kind::Device, address, bytes) {
        Ok(Some(span)) => return Ok(Found { end: End::Span(span.clone()), span: Some(span), waits: false }),
        Ok(None) if bytes == 0 => return Ok(Found { end: End::Host(0), span: None, waits: false }),
        Ok(None) => match state.blocks.freed_at(address) {
            Some(number) => {
                format!("{address:#x} is of allocation {number}, which was freed: use after free")
            }
            None => format!("{address:#x} is in no allocation of a device"),
        },
        Err(wrong) => format!("out of range: {wrong}"),
    };
    Err(state.refused(Status::INVALID_VALUE, found))
}

/// Host memory named by a copy: pinned, or other memory, which a driver copies first or waits for.
fn host(state: &mut State, address: usize, bytes: usize, writes: bool) -> Result<Found, Status> {
    if bytes == 0 {
        return Ok(Found { end: End::Host(0), span: None, waits: false });
    }
    if address == 0 {
        return Err(Status::INVALID_VALUE);
    }
    match state.blocks.span(Kind::Pinned, address as u64, bytes) {
        Ok(Some(span)) => return Ok(Found { end: End::Span(span.clone()), span: Some(span), waits: false }),
        Ok(None) => {}
        Err(wrong) => return Err(state.refused(Status::INVALID_VALUE, format!("out of range: {wrong}"))),
    }
    if state.space.as_ref().is_some_and(|s| s.contains(address as u64)) {
        return Err(state
            .refused(Status::INVALID_VALUE, format!("{address:#x} is a device's address, not the host's")));
    }
    let end = if writes {
        End::Host(address)
    } else {
        // SAFETY: it is neither our pinned memory nor device memory, so it is the caller's, who
        // states this length.
        End::Held(unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }.to_vec())
    };
    Ok(Found { end, span: None, waits: writes })
}
