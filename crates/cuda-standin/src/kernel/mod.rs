//! Kernels: CUDA C that the host's C++ compiler has compiled to a library, and launches of it.

mod frame;
mod worker;

use std::cell::RefCell;
use std::ffi::{CStr, c_void};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libloading::Library;
use rayon::prelude::*;

use crate::blocks::Span;
use crate::space::Space;
use crate::status::Status;
use frame::{Entry, Param, RunFn};
pub(crate) use worker::SHARED as MOST_SHARED;
use worker::Worker;

/// The header in front of every source.
pub(crate) const SHIM: &str = include_str!("shim.h");

/// Launches with fewer threads are not spread over the cores.
const WORTH_SPREADING: usize = 4096;

/// A loaded library with kernels.
#[derive(Debug)]
pub(crate) struct Module {
    functions: Vec<Arc<Function>>,
}

/// A kernel.
pub(crate) struct Function {
    pub(crate) name: String,
    run: RunFn,
    params: Vec<Param>,
    _library: Arc<Library>,
}

/// A launch that is queued.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) function: Arc<Function>,
    /// Number of blocks, and of threads in each.
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Dynamic shared memory, in bytes.
    pub(crate) dynamic: usize,
    /// The arguments at the time of the launch, with device addresses.
    pub(crate) arguments: Vec<Argument>,
    /// The device memory that pointers among them point to.
    pub(crate) spans: Vec<Span>,
    /// What is known to be wrong with it: a pointer that points nowhere.
    pub(crate) wrong: Option<String>,
}

/// The bytes of an argument.
#[derive(Clone, Debug)]
pub(crate) struct Argument {
    words: Vec<u128>,
    pointer: Option<bool>,
}

/// The result of a launch.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) complaints: Vec<String>,
    /// The error that ends its context.
    pub(crate) status: Option<Status>,
}

impl Module {
    /// Loads a library that [`build`](crate::nvrtc::build) made.
    ///
    /// # Errors
    ///
    /// The message of the loader.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        // SAFETY: we built the library; it has no initialisers.
        let library = Arc::new(unsafe { Library::new(path) }.map_err(|e| e.to_string())?);
        // SAFETY: every such library has this table, of this type; an entry without a name ends
        // it.
        let entries =
            unsafe { library.get::<*const Entry>(b"standin_entries\0") }.map_err(|e| e.to_string())?;
        let mut at: *const Entry = *entries;
        let mut functions = Vec::new();
        loop {
            // SAFETY: not past the entry that ends the table; names and parameters are constants
            // of the library.
            let (entry, name, params) = unsafe {
                let entry = *at;
                let Some(run) = entry.run else { break };
                let params = std::slice::from_raw_parts(entry.params, entry.count as usize).to_vec();
                (run, CStr::from_ptr(entry.name).to_string_lossy().into_owned(), params)
            };
            functions.push(Arc::new(Function { name, run: entry, params, _library: library.clone() }));
            at = at.wrapping_add(1);
        }
        Ok(Self { functions })
    }

    /// Finds a kernel by name.
    pub(crate) fn function(&self, name: &str) -> Option<Arc<Function>> {
        self.functions.iter().find(|f| f.name == name).cloned()
    }
}

impl Function {
    /// How many arguments it takes.
    pub(crate) fn arity(&self) -> usize {
        self.params.len()
    }

    /// Reads argument `index` from the address that was passed to `cuLaunchKernel`.
    ///
    /// # Safety
    ///
    /// `at` points to a value of that argument's type.
    pub(crate) unsafe fn argument(&self, index: usize, at: *const c_void) -> Argument {
        let Param { bytes, pointer } = self.params[index];
        let mut words = vec![0u128; (bytes as usize).div_ceil(16)];
        // SAFETY: the caller promises this many bytes there, and the destination has as many.
        unsafe {
            std::ptr::copy_nonoverlapping(at.cast::<u8>(), words.as_mut_ptr().cast::<u8>(), bytes as usize);
        }
        Argument { words, pointer: (pointer != 0).then_some(pointer == 2) }
    }
}

impl Argument {
    /// The address, if it is a pointer, and whether it may be written through.
    pub(crate) fn pointer(&self) -> Option<(u64, bool)> {
        Some((self.words.first().copied()? as u64, self.pointer?))
    }
}

thread_local! {
    static WORKER: RefCell<Option<Box<Worker>>> = const { RefCell::new(None) };
}

impl Launch {
    /// Runs all blocks, on all cores unless `threads` is 1.
    pub(crate) fn run(&self, space: &Space, threads: i64) -> Ran {
        let mut values = self.arguments.clone();
        for value in values.iter_mut().filter(|a| a.pointer.is_some()) {
            if let Some(word) = value.words.first_mut() {
                *word = u128::from(space.real(*word as u64));
            }
        }
        let pointers: Vec<usize> = values.iter_mut().map(|a| a.words.as_mut_ptr() as usize).collect();
        let [x, y, z] = self.grid.map(|n| n as usize);
        let per_block = self.block.iter().map(|n| *n as usize).product::<usize>();
        let blocks = x * y * z;
        let stop = AtomicBool::new(false);
        let one = |index: usize| -> Vec<String> {
            if stop.load(Ordering::Relaxed) {
                return Vec::new();
            }
            let block = [index % x, index / x % y, index / (x * y)].map(|i| i as u32);
            WORKER.with_borrow_mut(|worker| {
                let worker = worker.get_or_insert_with(Worker::new);
                let arguments = pointers.as_ptr().cast::<*mut c_void>();
                // SAFETY: the entry belongs to a loaded library and has as many parameters as
                // there are values, each of its type's size. The values live until all blocks have
                // run.
                let result = unsafe {
                    worker.block(self.function.run, arguments, [self.grid, self.block, block], self.dynamic)
                };
                if result.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                worker.complaints()
            })
        };
        let mut complaints: Vec<String> =
            if threads == 1 || blocks * per_block < WORTH_SPREADING || blocks == 1 {
                (0..blocks).flat_map(one).collect()
            } else {
                let least = (WORTH_SPREADING / 2).div_ceil(per_block);
                (0..blocks).into_par_iter().with_min_len(least).flat_map_iter(one).collect()
            };
        complaints.sort();
        complaints.dedup();
        Ran { complaints, status: stop.into_inner().then_some(Status::LAUNCH_FAILED) }
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function({}, {} arguments)", self.name, self.params.len())
    }
}
