//! Streams.

use crate::out::put;
use crate::queue::Stream;
use crate::state::{Handle, State, call};
use crate::status::Status;

const NON_BLOCKING: u32 = 1;

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(out: *mut usize, flags: u32) -> u32 {
    call("cuStreamCreate", |state| create(state, out, flags))
}

/// Priorities make no difference here.
#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(out: *mut usize, flags: u32, _priority: i32) -> u32 {
    call("cuStreamCreateWithPriority", |state| create(state, out, flags))
}

fn create(state: &mut State, out: *mut usize, flags: u32) -> Result<(), Status> {
    let context = state.need_context()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let handle = add(state, context, flags & NON_BLOCKING == 0, false);
    state.books.objects += 1;
    put(out, handle)
}

fn add(state: &mut State, context: usize, blocking: bool, is_default: bool) -> usize {
    let (handle, lane) = (state.handle(Handle::Stream), state.lane());
    state.streams.insert(handle, Stream::new(context, blocking, is_default, lane));
    handle
}

impl State {
    /// The stream of a handle: 0 and 1 are the default stream of the current context.
    ///
    /// # Errors
    ///
    /// `INVALID_HANDLE`, recorded as misuse, if there is none. The per-thread default stream (2)
    /// is not supported.
    pub(crate) fn stream(&mut self, handle: usize) -> Result<usize, Status> {
        match handle {
            0 | 1 => {
                let context = self.need_context()?;
                if let Some(stream) = self.contexts.get(&context).and_then(|c| c.default_stream) {
                    return Ok(stream);
                }
                let stream = add(self, context, false, true);
                if let Some(c) = self.contexts.get_mut(&context) {
                    c.default_stream = Some(stream);
                }
                Ok(stream)
            }
            _ if self.streams.get(&handle).is_some_and(|s| !s.closed) => Ok(handle),
            _ => Err(self.refused(
                Status::INVALID_HANDLE,
                format!("stream {handle:#x} was destroyed, or never was one"),
            )),
        }
    }
}

/// Queued work still runs; the stream is removed after it.
#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: usize) -> u32 {
    call("cuStreamDestroy_v2", |state| {
        let stream = state.stream(stream)?;
        let Some(s) = state.streams.get_mut(&stream).filter(|s| !s.is_default) else {
            return Err(state.refused(Status::INVALID_HANDLE, "the default stream cannot be destroyed"));
        };
        s.closed = true;
        if s.waiting() == 0 {
            state.streams.remove(&stream);
        }
        state.books.objects -= 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: usize) -> u32 {
    call("cuStreamSynchronize", |state| {
        let stream = state.stream(stream)?;
        state.synchronise_stream(stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: usize) -> u32 {
    call("cuStreamQuery", |state| {
        let stream = state.stream(stream)?;
        state.query_stream(stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) -> u32 {
    call("cuStreamWaitEvent", |state| {
        let stream = state.stream(stream)?;
        state.check_event(event)?;
        state.wait(stream, event)
    })
}
