//! Events.

use crate::out::put;
use crate::queue::Event;
use crate::state::{Handle, State, call};
use crate::status::Status;

const DISABLE_TIMING: u32 = 2;
/// All flags.
const FLAGS: u32 = 7;

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(out: *mut usize, flags: u32) -> u32 {
    call("cuEventCreate", |state| {
        let context = state.need_context()?;
        if flags & !FLAGS != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let handle = state.handle(Handle::Event);
        state.events.insert(handle, Event::new(context, flags & DISABLE_TIMING == 0));
        state.books.objects += 1;
        put(out, handle)
    })
}

impl State {
    /// Checks that an event has this handle.
    ///
    /// # Errors
    ///
    /// `INVALID_HANDLE`, recorded as misuse.
    pub(crate) fn check_event(&mut self, event: usize) -> Result<(), Status> {
        if self.events.contains_key(&event) {
            return Ok(());
        }
        Err(self.refused(Status::INVALID_HANDLE, format!("event {event:#x} was destroyed, or never was one")))
    }
}

/// Work that waits for it or records it is not affected.
#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: usize) -> u32 {
    call("cuEventDestroy_v2", |state| {
        state.check_event(event)?;
        state.events.remove(&event);
        state.books.objects -= 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: usize, stream: usize) -> u32 {
    call("cuEventRecord", |state| {
        state.check_event(event)?;
        let stream = state.stream(stream)?;
        let of_event = state.events.get(&event).map(|e| e.context);
        if of_event != state.streams.get(&stream).map(|s| s.context) {
            return Err(
                state.refused(Status::INVALID_HANDLE, "the event is of another context than the stream")
            );
        }
        state.record(event, stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: usize) -> u32 {
    call("cuEventQuery", |state| {
        state.check_event(event)?;
        state.query_event(event)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: usize) -> u32 {
    call("cuEventSynchronize", |state| {
        state.check_event(event)?;
        state.synchronise_event(event)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: usize, end: usize) -> u32 {
    call("cuEventElapsedTime", |state| elapsed(state, milliseconds, start, end))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: usize, end: usize) -> u32 {
    call("cuEventElapsedTime_v2", |state| elapsed(state, milliseconds, start, end))
}

/// The time between two records as this machine ran them, which says nothing about a card.
fn elapsed(state: &mut State, milliseconds: *mut f32, start: usize, end: usize) -> Result<(), Status> {
    let mut times = [None; 2];
    for (time, event) in times.iter_mut().zip([start, end]) {
        state.check_event(event)?;
        let event =
            state.events.get(&event).filter(|e| e.timing && e.is_recorded()).ok_or(Status::INVALID_HANDLE)?;
        *time = Some(event.ran_at().ok_or(Status::NOT_READY)?);
    }
    let [Some(start), Some(end)] = times else { return Err(Status::INVALID_HANDLE) };
    let seconds = end.saturating_duration_since(start).as_secs_f32()
        - start.saturating_duration_since(end).as_secs_f32();
    put(milliseconds, seconds * 1e3)
}
