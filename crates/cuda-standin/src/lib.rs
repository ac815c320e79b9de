//! A stand-in for NVIDIA's driver, NVRTC and cublasLt: one library that the loader finds under all their names, for tests
//! of the CUDA backend on machines without a card. `cargo xtask standin` builds it and lays it out.
//!
//! # What is faithful
//!
//! - **Order.** Work in a stream runs only when the host waits for it or when a stream that has to come after it runs:
//!   as late as its order permits. A kernel that was not told to wait for a copy runs before it and finds poison. With the
//!   setting `early_copies`, copies run as early as permitted instead, and overwrite what a kernel still has to read.
//!   Independently of what ran when, vector clocks over streams and host find pairs of operations on the same bytes, one
//!   of them writing, of which neither has to come first, and name them in the report. Streams that block and the default
//!   stream wait for each other, as they do in a driver.
//! - **Memory.** Device pointers are numbers that the host cannot follow: doing so is a fault. Memory is filled with NaN
//!   before its first use, addresses are never handed out twice, an end is followed by poison that is looked at when the
//!   memory is freed, and by a page that nothing may touch. Each device has a capacity, of which contexts, modules and
//!   handles take their share.
//! - **Kernels** are the very CUDA C that a card would get, compiled by the system's C++ compiler, with blocks, threads,
//!   shared memory, barriers and warps; their arithmetic is really done. Barriers that not all threads of a block reach and
//!   lanes that do not come are found.
//! - **Products** of cublasLt are summed in f32 in the order of the inner extent, so that they depend on nothing else.
//! - **Faults** by configuration (`config.rs`): memory that runs out, launches that are refused, a device that is lost at the
//!   n-th call, none at all.
//! - **Misuse** is recorded: double free, use after free when the work runs, freeing what the host does not know to be
//!   done, copies out of range, handles that were destroyed, events and kernels of another context, a context that is
//!   released with work queued. What is alive when a process ends is a leak. Both go to stderr at exit.
//!
//! # What is not
//!
//! - Time, and that anything happens at the same time: all work runs in the thread that first waits for it.
//! - A kernel that strays from its operands ends the process, with a line that names it; a card would end its context.
//! - The lanes of a warp do not run in step, and what a kernel leaves to chance (the order of atomics, of threads between
//!   barriers) is mostly the same every time. Pointers within structures are not translated: they must be arguments.
//! - How far a kernel reads from a pointer is not known, so that of its operands only the first byte takes part in the search
//!   for missing orders.
//! - Images are C++ in the form of text, loaded by this library alone. Functions that are not here are not found;
//!   none of them pretends to work.
//!
//! # Talking to it
//!
//! Every setting is `STANDIN_` and its name in capitals in the environment, or `standin_set(name, value)`. Further there are
//! `standin_reset`, `standin_forgive`, `standin_books`, `standin_new_peaks` and `standin_report` (`control.rs`). Compiled
//! kernels are kept in `STANDIN_CACHE`. On systems other than Linux the library is empty.

#![cfg(target_os = "linux")]

mod blas;
mod blocks;
mod books;
mod clock;
mod config;
mod control;
mod driver;
mod fault;
mod kernel;
mod nvrtc;
mod out;
mod queue;
mod space;
mod state;
mod status;
mod work;
