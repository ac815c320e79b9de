//! The running block, as `shim.h` sees it. Both sides have the same layout.

use std::ffi::{c_char, c_void};
use std::ptr;

/// The most static arrays in shared memory that a block may have.
pub(super) const SLOTS: usize = 64;

/// A static array in shared memory: its identity, and its place in this block.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Slot {
    key: *const c_void,
    memory: *mut c_void,
}

/// `standin::Frame`, where the fields are documented.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Frame {
    pub(super) thread: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) block_dim: [u32; 3],
    pub(super) grid_dim: [u32; 3],
    pub(super) cursor: [u32; 3],
    pub(super) next: u32,
    pub(super) total: u32,
    pub(super) linear: u32,
    pub(super) suspended: u32,
    pub(super) slots_used: u32,
    pub(super) dynamic: *mut u8,
    pub(super) arena: *mut u8,
    pub(super) arena_used: u64,
    pub(super) arena_bytes: u64,
    slots: [Slot; SLOTS],
    wait: WaitFn,
    complain: ComplainFn,
    /// The worker that runs the block; unknown to the other side.
    pub(super) worker: *mut c_void,
}

pub(super) type WaitFn = extern "C" fn(*mut Frame, u32, u32, u32, u64) -> *const u64;
pub(super) type ComplainFn = extern "C" fn(*mut Frame, *const c_char);

/// `standin::Param`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Param {
    /// Size of the argument, in bytes.
    pub(super) bytes: u32,
    /// 0: not a pointer; 1: a pointer for reading; 2: a pointer for writing.
    pub(super) pointer: u32,
}

/// `standin::Entry`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) name: *const c_char,
    pub(super) run: Option<RunFn>,
    pub(super) params: *const Param,
    pub(super) count: u32,
}

/// Runs threads of a block from `Frame::next` on, until one is suspended or none is left.
pub(super) type RunFn = extern "C" fn(*mut Frame, *const *mut c_void);

impl Frame {
    pub(super) fn new(wait: WaitFn, complain: ComplainFn) -> Self {
        let slot = Slot { key: ptr::null(), memory: ptr::null_mut() };
        Self {
            thread: [0; 3],
            block: [0; 3],
            block_dim: [1; 3],
            grid_dim: [1; 3],
            cursor: [0; 3],
            next: 0,
            total: 1,
            linear: 0,
            suspended: 0,
            slots_used: 0,
            dynamic: ptr::null_mut(),
            arena: ptr::null_mut(),
            arena_used: 0,
            arena_bytes: 0,
            slots: [slot; SLOTS],
            wait,
            complain,
            worker: ptr::null_mut(),
        }
    }
}
