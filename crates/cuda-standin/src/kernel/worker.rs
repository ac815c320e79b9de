//! Runs the threads of one block after the other, on stacks of their own once one has to wait for others.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::frame::{Frame, RunFn};

/// Bytes of a thread's stack.
const STACK: usize = 256 << 10;
/// Bytes of static and of dynamic shared memory: the most that any card has.
pub(crate) const SHARED: usize = 227 << 10;
/// Static shared memory that every card has, and more than which CUDA C does not compile.
const STATIC_SHARED: u64 = 48 << 10;
const WARP: u32 = 32;

/// What a suspended thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The other threads of the block, at the barrier of this line.
    Block { line: u32 },
    /// The lanes of its warp in `mask`.
    Warp { mask: u32, line: u32 },
}

type Thread = Coroutine<(), Wait, (), DefaultStack>;

/// A suspended thread.
struct Suspended {
    thread: Thread,
    linear: u32,
    wait: Wait,
}

/// One thread of the host that runs blocks.
pub(super) struct Worker {
    frame: Frame,
    arena: Vec<u128>,
    dynamic: Vec<u128>,
    stacks: Vec<DefaultStack>,
    suspended: Vec<Suspended>,
    /// What each thread of the block left for the lanes of its warp.
    left: Vec<u64>,
    /// For each warp: the lanes' values at its latest exchange, then for each lane which lanes came.
    exchanged: Vec<[u64; 64]>,
    yielder: *const Yielder<(), Wait>,
    complaints: Vec<String>,
}

/// A block that could not go on: its threads wait for what never comes.
#[derive(Debug)]
pub(super) struct Stuck;

impl Worker {
    pub(super) fn new() -> Box<Self> {
        let mut worker = Box::new(Self {
            frame: Frame::new(wait, complain),
            arena: vec![0; SHARED / 16],
            dynamic: vec![0; SHARED / 16],
            stacks: Vec::new(),
            suspended: Vec::new(),
            left: Vec::new(),
            exchanged: Vec::new(),
            yielder: ptr::null(),
            complaints: Vec::new(),
        });
        worker.frame.arena = worker.arena.as_mut_ptr().cast();
        worker.frame.arena_bytes = SHARED as u64;
        worker.frame.dynamic = worker.dynamic.as_mut_ptr().cast();
        worker
    }

    /// Runs one block.
    ///
    /// # Errors
    ///
    /// [`Stuck`]; why is among the [complaints](Self::complaints).
    ///
    /// # Safety
    ///
    /// `run` is a kernel's entry and `arguments` are pointers to as many arguments as it has.
    pub(super) unsafe fn block(
        &mut self,
        run: RunFn,
        arguments: *const *mut c_void,
        [grid, dim, block]: [[u32; 3]; 3],
        dynamic: usize,
    ) -> Result<(), Stuck> {
        let total = dim.iter().product::<u32>();
        // Shared memory holds whatever was there before; dynamic memory is filled here, static arrays as they appear.
        self.dynamic[..dynamic.div_ceil(16)].fill(u128::MAX);
        self.left.resize(total as usize, 0);
        self.exchanged.resize(total.div_ceil(WARP) as usize, [0; 64]);
        let worker: *mut Self = self;
        let frame = &mut self.frame;
        (frame.grid_dim, frame.block_dim, frame.block) = (grid, dim, block);
        (frame.cursor, frame.next, frame.total) = ([0; 3], 0, total);
        (frame.slots_used, frame.arena_used, frame.worker) = (0, 0, worker.cast());
        let frame: *mut Frame = frame;
        // From here on the frame and the worker are reached through these pointers, by us and by the threads in turn.
        // SAFETY: both are of `self`, which is borrowed for as long as any thread runs; threads run one at a time.
        unsafe {
            let result = Self::threads(worker, frame, run, arguments);
            if (*frame).arena_used > STATIC_SHARED {
                let bytes = (*frame).arena_used;
                (*worker)
                    .complaints
                    .push(format!("{bytes} bytes of static shared memory, over {STATIC_SHARED}"));
            }
            result
        }
    }

    /// Runs all threads of a block that is set up.
    ///
    /// # Safety
    ///
    /// As for [`block`](Self::block), the pointers being valid until it returns.
    unsafe fn threads(
        worker: *mut Self,
        frame: *mut Frame,
        run: RunFn,
        arguments: *const *mut c_void,
    ) -> Result<(), Stuck> {
        // SAFETY: see above. A thread is resumed only here, and every suspended one is ended before this returns.
        unsafe {
            while (*frame).next < (*frame).total {
                (*frame).suspended = 0;
                let Some(stack) = (*worker).stacks.pop().or_else(|| DefaultStack::new(STACK).ok()) else {
                    (*worker).complaints.push("no memory for another thread's stack".to_owned());
                    return Self::give_up(worker);
                };
                let body = move |yielder: &Yielder<(), Wait>, ()| {
                    (*worker).yielder = yielder;
                    run(frame, arguments);
                };
                Self::resume(worker, frame, Coroutine::with_stack(stack, body));
            }
            while !(*worker).suspended.is_empty() {
                let ready = (*worker).release();
                if ready.is_empty() {
                    return Self::give_up(worker);
                }
                for thread in ready {
                    Self::resume(worker, frame, thread);
                }
                (*worker).suspended.sort_unstable_by_key(|s| s.linear);
            }
        }
        Ok(())
    }

    /// Runs a thread until it waits or ends.
    ///
    /// # Safety
    ///
    /// As for [`block`](Self::block).
    unsafe fn resume(worker: *mut Self, frame: *mut Frame, mut thread: Thread) {
        let result = thread.resume(());
        // SAFETY: the thread does not run any more.
        unsafe {
            match result {
                CoroutineResult::Yield(wait) => {
                    let linear = (*frame).linear;
                    (*worker).suspended.push(Suspended { thread, linear, wait });
                }
                CoroutineResult::Return(()) => (*worker).stacks.push(thread.into_stack()),
            }
        }
    }

    /// Ends all threads that wait.
    ///
    /// # Safety
    ///
    /// As for [`block`](Self::block).
    unsafe fn give_up(worker: *mut Self) -> Result<(), Stuck> {
        // SAFETY: the threads are kernels, in C++ without destructors, and our `wait`, which owns nothing; what their
        // stacks hold may be forgotten.
        unsafe {
            for mut suspended in std::mem::take(&mut (*worker).suspended) {
                suspended.thread.force_reset();
                (*worker).stacks.push(suspended.thread.into_stack());
            }
        }
        Err(Stuck)
    }

    /// Takes out the threads that have nothing to wait for any more: lanes that all came, or else the whole block.
    fn release(&mut self) -> Vec<Thread> {
        let mut ready = Vec::new();
        let mut rest = Vec::new();
        let all = std::mem::take(&mut self.suspended);
        let total = self.frame.total;
        let mut waiting = all.into_iter().peekable();
        while let Some(first) = waiting.peek().map(|s| s.linear / WARP) {
            let mut warp = Vec::new();
            while let Some(next) = waiting.next_if(|s| s.linear / WARP == first) {
                warp.push(next);
            }
            let there = exists(first, total);
            for (at, released) in self.lanes(first, there, &warp).into_iter().enumerate().rev() {
                let thread = warp.remove(at);
                if released { ready.push(thread) } else { rest.push(thread) }
            }
        }
        ready.sort_unstable_by_key(|s| s.linear);
        rest.sort_unstable_by_key(|s| s.linear);
        if ready.is_empty() {
            return self.barrier(rest);
        }
        self.suspended = rest;
        ready.into_iter().map(|s| s.thread).collect()
    }

    /// Which of a warp's waiting threads may go on because all lanes that they wait for came, or can never come.
    fn lanes(&mut self, number: u32, there: u32, warp: &[Suspended]) -> Vec<bool> {
        let alive = warp.iter().fold(0, |lanes, s| lanes | 1 << (s.linear % WARP));
        let mut released = vec![false; warp.len()];
        for (at, suspended) in warp.iter().enumerate() {
            let Wait::Warp { mask, line } = suspended.wait else { continue };
            let same = |s: &Suspended| matches!(s.wait, Wait::Warp { mask: other, .. } if other == mask);
            let came = warp.iter().filter(|s| same(s)).fold(0, |lanes, s| lanes | 1 << (s.linear % WARP));
            let missing = mask & there & !came;
            if missing & alive != 0 {
                continue;
            }
            let lane = suspended.linear % WARP;
            if missing != 0 && came.trailing_zeros() == lane {
                self.complaints
                    .push(format!("line {line}: lanes {missing:#x} of the mask {mask:#x} have ended"));
            }
            if mask >> lane & 1 == 0 {
                self.complaints.push(format!("line {line}: lane {lane} is not in its own mask {mask:#x}"));
            }
            let values = &mut self.exchanged[number as usize];
            values[lane as usize] = self.left[suspended.linear as usize];
            values[(WARP + lane) as usize] = u64::from(came);
            released[at] = true;
        }
        released
    }

    /// All go on if all are at a barrier; else nobody can.
    fn barrier(&mut self, waiting: Vec<Suspended>) -> Vec<Thread> {
        let lines: Vec<u32> = waiting
            .iter()
            .filter_map(|s| if let Wait::Block { line } = s.wait { Some(line) } else { None })
            .collect();
        let total = self.frame.total as usize;
        if lines.len() < waiting.len() {
            let (at_barrier, lanes) = (lines.len(), waiting.len() - lines.len());
            self.complaints.push(format!(
                "{at_barrier} threads wait at a barrier and {lanes} for lanes that are not there: a deadlock"
            ));
            self.suspended = waiting;
            return Vec::new();
        }
        if lines.len() < total {
            self.complaints.push(format!(
                "divergent barrier: {} of {total} threads come to line {}",
                lines.len(),
                lines[0]
            ));
        }
        if let Some(other) = lines.iter().find(|l| **l != lines[0]) {
            self.complaints.push(format!(
                "divergent barrier: some threads wait in line {}, others in line {other}",
                lines[0]
            ));
        }
        waiting.into_iter().map(|s| s.thread).collect()
    }

    /// What went wrong since the last call, each once.
    pub(super) fn complaints(&mut self) -> Vec<String> {
        let mut found = std::mem::take(&mut self.complaints);
        found.sort();
        found.dedup();
        found
    }
}

/// The lanes of a warp that exist in a block of `total` threads.
fn exists(warp: u32, total: u32) -> u32 {
    let count = (total - warp * WARP).min(WARP);
    if count == WARP { u32::MAX } else { (1 << count) - 1 }
}

/// Suspends the thread that calls, from within a kernel.
extern "C" fn wait(frame: *mut Frame, kind: u32, mask: u32, line: u32, value: u64) -> *const u64 {
    // SAFETY: the kernel hands on the frame that it was given, whose worker runs it and outlives it. While this thread is
    // suspended others change the frame; what is this thread's own is put back when it goes on.
    unsafe {
        let worker = (*frame).worker.cast::<Worker>();
        let (yielder, thread, linear) = ((*worker).yielder, (*frame).thread, (*frame).linear);
        (&mut (*worker).left)[linear as usize] = value;
        (*yielder).suspend(if kind == 0 { Wait::Block { line } } else { Wait::Warp { mask, line } });
        (*worker).yielder = yielder;
        ((*frame).thread, (*frame).linear, (*frame).suspended) = (thread, linear, 1);
        (&(*worker).exchanged)[(linear / WARP) as usize].as_ptr()
    }
}

/// Keeps a message of the shim's.
extern "C" fn complain(frame: *mut Frame, message: *const c_char) {
    // SAFETY: as in `wait`; the message is a literal.
    unsafe {
        let worker = (*frame).worker.cast::<Worker>();
        (*worker).complaints.push(CStr::from_ptr(message).to_string_lossy().into_owned());
    }
}
