//! Access through the pointers of a C caller.

use std::ffi::{CStr, c_char};

use crate::status::Status;

/// Writes a result through the caller's pointer.
///
/// # Errors
///
/// `INVALID_VALUE` for a null pointer.
pub(crate) fn put<T>(to: *mut T, value: T) -> Result<(), Status> {
    if to.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: it is not null, and by the contract of the interface points to a `T` of the caller.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Reads a string from the caller.
///
/// # Errors
///
/// `INVALID_VALUE` for a null pointer and for text that is not UTF-8.
pub(crate) fn text(from: *const c_char) -> Result<String, Status> {
    if from.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: it is not null, and by the contract of the interface ends with a zero.
    let text = unsafe { CStr::from_ptr(from) };
    text.to_str().map(str::to_owned).map_err(|_| Status::INVALID_VALUE)
}

/// Writes as much of a text as fits, and a zero.
///
/// # Errors
///
/// `INVALID_VALUE` if there is no room at all.
pub(crate) fn put_text(to: *mut c_char, room: usize, text: &str) -> Result<(), Status> {
    if to.is_null() || room == 0 {
        return Err(Status::INVALID_VALUE);
    }
    let length = text.len().min(room - 1);
    // SAFETY: it is not null, and by the contract of the interface has room for this many bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), length);
        to.add(length).write(0);
    }
    Ok(())
}
