//! Counts allocations to check that building a model inside `skip_init` takes no memory for
//! weights.

#![allow(unsafe_code)] // a global allocator

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use vram_alloc::{counts, skip_init};

use crate::models::ControlNet;

struct Counting;

thread_local! {
    /// Bytes allocated on this thread so far. Other tests run on other threads.
    static GIVEN: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is forwarded to the system's allocator unchanged; the counter is a plain
// thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        GIVEN.set(GIVEN.get() + layout.size() as u64);
        // SAFETY: the caller keeps the promises that the system's allocator requires.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn given<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let before = GIVEN.get();
    let value = f();
    (value, GIVEN.get() - before)
}

#[test]
fn skip_init_allocates_no_weights() {
    let (model, bytes) = given(|| skip_init(|| ControlNet::new(60, 3072, 64)).unwrap());
    let weights = counts(&model).weights;
    assert_eq!(weights.bytes, 2 * (60 * (2 * 3072 * 3072 + 4 * 3072) + 3072 * 64 + 3072));
    assert_eq!(counts(&model).meta, weights);
    println!("{bytes} bytes for {} parameters of {} bytes", weights.tensors, weights.bytes);
    // The size of the structs themselves: 362 parameters, and a vector that grew.
    assert!(bytes < 150_000, "{bytes} bytes");
}

#[test]
fn the_counter_sees_weights_that_are_allocated() {
    let (model, bytes) = given(|| ControlNet::new(2, 64, 8).unwrap());
    assert!(bytes >= counts(&model).weights.bytes, "{bytes} bytes");
}
