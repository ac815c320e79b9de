//! A stand-in for NVIDIA's driver, NVRTC and cublasLt, for tests of the CUDA backend on machines
//! without a card. It is one library that the loader finds under all their names.
//! `cargo xtask standin` builds it and creates the links.
//!
//! # What is faithful
//!
//! - **Order.** Work in a stream runs as late as ordering permits: only when the host waits for
//!   it, or before later work of another stream that waits for it. A kernel without a wait for its
//!   copy runs before the copy and reads poison. With the setting `early_copies`, copies run as
//!   early as permitted instead, and overwrite what a kernel still has to read. Independently of
//!   what ran when, vector clocks over streams and host find pairs of unordered accesses to the
//!   same bytes, one of them a write, and report them. Blocking streams and the default stream
//!   wait for each other, as in a driver.
//! - **Memory.** Device pointers are numbers that the host cannot follow: doing so is a fault.
//!   Memory is filled with NaN before its first use, and addresses are never reused. The end of an
//!   allocation is followed by poison, which is checked when the memory is freed, and by an
//!   inaccessible page. Each device has a capacity, of which contexts, modules and handles take
//!   their share.
//! - **Kernels** are the CUDA C that a card would get, compiled by the system's C++ compiler, with
//!   blocks, threads, shared memory, barriers and warps, and real arithmetic. Barriers that some
//!   threads of a block do not reach, and missing lanes, are detected.
//! - **Products** of cublasLt are summed in f32 in the order of the inner dimension, so they
//!   depend on nothing else.
//! - **Faults** are configurable (`config.rs`): memory runs out, a launch is refused, the device
//!   is lost at the n-th call, or there is no device.
//! - **Misuse** is recorded: double free, use after free when the work runs, freeing memory while
//!   the host does not know that work on it is done, copies out of range, destroyed handles,
//!   events and kernels of another context, and releasing a context with work queued. Objects that
//!   are alive when a process exits are leaks. Both are printed to stderr at exit.
//!
//! # What is not
//!
//! - There is no timing and no parallelism between operations: all work runs in the thread that
//!   first waits for it.
//! - A kernel that accesses memory outside its operands ends the process, with a line that names
//!   the kernel. A card would end the kernel's context.
//! - The lanes of a warp do not run in step. What a kernel leaves to chance (the order of atomics,
//!   and of threads between barriers) is mostly the same every time. Pointers within structures
//!   are not translated: pointers must be arguments.
//! - It is not known how far a kernel reads from a pointer, so only the first byte of each operand
//!   takes part in the search for missing orderings.
//! - Images are C++ text that only this library can load. Functions that are missing here are not
//!   found; none pretends to work.
//!
//! # Controlling it
//!
//! Every setting has the environment variable `STANDIN_` and its name in capitals, and
//! `standin_set(name, value)`. There are also `standin_reset`, `standin_forgive`, `standin_books`,
//! `standin_new_peaks` and `standin_report` (`control.rs`). Compiled kernels are cached in
//! `STANDIN_CACHE`. On systems other than Linux the library is empty.

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
