//! Runs the threads of a block one after another. A thread gets its own stack once it has to wait
//! for others.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use corosensei::stack::{DefaultStack, Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::frame::{Frame, RunFn};

/// Stack size of a thread, in bytes.
const STACK: usize = 256 << 10;
/// Static and dynamic shared memory in bytes: the most that any card has.
pub(crate) const SHARED: usize = 227 << 10;
/// The static shared memory that every card has; CUDA C with more does not compile.
const STATIC_SHARED: u64 = 48 << 10;
const WARP: u32 = 32;

/// What a suspended thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// The other threads of the block, at the barrier on this line.
    Block { line: u32 },
    /// The lanes of its warp in `mask`.
    Warp { mask: u32, line: u32 },
}

type Thread = Coroutine<(), Wait, (), Staggered>;

/// A suspended thread.
struct Suspended {
    /// `None` after it has ended.
    thread: Option<Thread>,
    linear: u32,
    wait: Wait,
    /// Whether it can continue.
    ready: bool,
}

/// A stack whose top is at a slightly different offset than that of other stacks. Stacks start at
/// pages, so without this the tops of hundreds of stacks would compete for a few lines of the
/// caches.
struct Staggered {
    stack: DefaultStack,
    lower: usize,
}

// SAFETY: the memory between these bounds belongs to the inner stack, is aligned like it, and is
// smaller by less than a page.
unsafe impl Stack for Staggered {
    fn base(&self) -> StackPointer {
        // The stack is much larger than a page, so this is not zero.
        StackPointer::new(self.stack.base().get() - self.lower).unwrap_or(self.stack.base())
    }

    fn limit(&self) -> StackPointer {
        self.stack.limit()
    }
}

/// A host thread that runs blocks.
pub(super) struct Worker {
    frame: Frame,
    arena: Vec<u128>,
    dynamic: Vec<u128>,
    stacks: Vec<Staggered>,
    /// How many stacks were created.
    made: usize,
    suspended: Vec<Suspended>,
    /// The values that each thread of the block left for the lanes of its warp.
    left: Vec<u64>,
    /// For each warp: the values of the lanes at its latest exchange, then for each lane which
    /// lanes took part.
    exchanged: Vec<[u64; 64]>,
    yielder: *const Yielder<(), Wait>,
    complaints: Vec<String>,
}

/// A block that could not continue, because its threads wait for something that never happens.
#[derive(Debug)]
pub(super) struct Stuck;

impl Worker {
    pub(super) fn new() -> Box<Self> {
        let mut worker = Box::new(Self {
            frame: Frame::new(wait, complain),
            arena: vec![0; SHARED / 16],
            dynamic: vec![0; SHARED / 16],
            stacks: Vec::new(),
            made: 0,
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
    /// [`Stuck`]; the [complaints](Self::complaints) say why.
    ///
    /// # Safety
    ///
    /// `run` is the entry of a kernel, and `arguments` are pointers to as many arguments as it
    /// has.
    pub(super) unsafe fn block(
        &mut self,
        run: RunFn,
        arguments: *const *mut c_void,
        [grid, dim, block]: [[u32; 3]; 3],
        dynamic: usize,
    ) -> Result<(), Stuck> {
        let total = dim.iter().product::<u32>();
        // Shared memory starts with arbitrary contents. Dynamic memory is filled here, static
        // arrays when they first appear.
        self.dynamic[..dynamic.div_ceil(16)].fill(u128::MAX);
        self.left.resize(total as usize, 0);
        self.exchanged.resize(total.div_ceil(WARP) as usize, [0; 64]);
        let worker: *mut Self = self;
        let frame = &mut self.frame;
        (frame.grid_dim, frame.block_dim, frame.block) = (grid, dim, block);
        (frame.cursor, frame.next, frame.total) = ([0; 3], 0, total);
        (frame.slots_used, frame.arena_used, frame.worker) = (0, 0, worker.cast());
        let frame: *mut Frame = frame;
        // From here on, the frame and the worker are only accessed through these pointers, by us
        // and by the threads in turn. SAFETY: both belong to `self`, which is borrowed for as long
        // as any thread runs; threads run one at a time.
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
    /// As for [`block`](Self::block); the pointers are valid until it returns.
    unsafe fn threads(
        worker: *mut Self,
        frame: *mut Frame,
        run: RunFn,
        arguments: *const *mut c_void,
    ) -> Result<(), Stuck> {
        // SAFETY: see above. A thread is resumed only here, and every suspended thread is ended
        // before this returns.
        unsafe {
            while (*frame).next < (*frame).total {
                (*frame).suspended = 0;
                let Some(stack) = (*worker).stack() else {
                    (*worker).complaints.push("no memory for another thread's stack".to_owned());
                    return Self::give_up(worker);
                };
                let body = move |yielder: &Yielder<(), Wait>, ()| {
                    (*worker).yielder = yielder;
                    run(frame, arguments);
                };
                let mut thread = Coroutine::with_stack(stack, body);
                match thread.resume(()) {
                    CoroutineResult::Yield(wait) => {
                        let linear = (*frame).linear;
                        let new = Suspended { thread: Some(thread), linear, wait, ready: false };
                        (*worker).suspended.push(new);
                    }
                    CoroutineResult::Return(()) => (*worker).stacks.push(thread.into_stack()),
                }
            }
            while !(*worker).suspended.is_empty() {
                if !(*worker).release() {
                    return Self::give_up(worker);
                }
                // Running threads access other fields of the worker, but not this one.
                let mut suspended = std::mem::take(&mut (*worker).suspended);
                for one in suspended.iter_mut().filter(|s| s.ready) {
                    one.ready = false;
                    let Some(thread) = &mut one.thread else { continue };
                    match thread.resume(()) {
                        CoroutineResult::Yield(wait) => one.wait = wait,
                        CoroutineResult::Return(()) => {
                            let stack = one.thread.take().map(Coroutine::into_stack);
                            (*worker).stacks.extend(stack);
                        }
                    }
                }
                suspended.retain(|s| s.thread.is_some());
                (*worker).suspended = suspended;
            }
        }
        Ok(())
    }

    /// A free stack, or a new one.
    fn stack(&mut self) -> Option<Staggered> {
        if let Some(stack) = self.stacks.pop() {
            return Some(stack);
        }
        // Another line of a page, and another page.
        let lower = self.made % 32 * 128;
        let stack = DefaultStack::new(STACK + self.made % 16 * 4096).ok()?;
        self.made += 1;
        Some(Staggered { stack, lower })
    }

    /// Ends all waiting threads.
    ///
    /// # Safety
    ///
    /// As for [`block`](Self::block).
    unsafe fn give_up(worker: *mut Self) -> Result<(), Stuck> {
        // SAFETY: the threads are kernels, in C++ without destructors, and our `wait`, which owns
        // nothing; the contents of their stacks may be forgotten.
        unsafe {
            for mut thread in std::mem::take(&mut (*worker).suspended).into_iter().filter_map(|s| s.thread) {
                thread.force_reset();
                (*worker).stacks.push(thread.into_stack());
            }
        }
        Err(Stuck)
    }

    /// Marks the threads that can continue: complete groups of lanes, or else the whole block.
    /// False if there are none.
    fn release(&mut self) -> bool {
        let mut suspended = std::mem::take(&mut self.suspended);
        let mut any = false;
        if suspended.iter().any(|s| matches!(s.wait, Wait::Warp { .. })) {
            for warp in suspended.chunk_by_mut(|a, b| a.linear / WARP == b.linear / WARP) {
                any |= self.lanes(warp);
            }
        }
        if !any {
            any = self.barrier(&suspended);
            suspended.iter_mut().for_each(|s| s.ready = any);
        }
        self.suspended = suspended;
        any
    }

    /// Marks the threads of a warp that can continue, because all lanes that they wait for came or
    /// can never come.
    fn lanes(&mut self, warp: &mut [Suspended]) -> bool {
        let number = warp[0].linear / WARP;
        let there = exists(number, self.frame.total);
        let bits = |s: &Suspended| 1u32 << (s.linear % WARP);
        let alive = warp.iter().fold(0, |lanes, s| lanes | bits(s));
        let mut any = false;
        for at in 0..warp.len() {
            let Wait::Warp { mask, line } = warp[at].wait else { continue };
            let same = |s: &Suspended| matches!(s.wait, Wait::Warp { mask: other, .. } if other == mask);
            let came = warp.iter().filter(|s| same(s)).fold(0, |lanes, s| lanes | bits(s));
            let missing = mask & there & !came;
            if missing & alive != 0 {
                continue;
            }
            let lane = warp[at].linear % WARP;
            if missing != 0 && came.trailing_zeros() == lane {
                self.complaints
                    .push(format!("line {line}: lanes {missing:#x} of the mask {mask:#x} have ended"));
            }
            if mask >> lane & 1 == 0 {
                self.complaints.push(format!("line {line}: lane {lane} is not in its own mask {mask:#x}"));
            }
            let values = &mut self.exchanged[number as usize];
            values[lane as usize] = self.left[warp[at].linear as usize];
            values[(WARP + lane) as usize] = u64::from(came);
            warp[at].ready = true;
            any = true;
        }
        any
    }

    /// Whether all threads are at a barrier and can continue; otherwise no thread can.
    fn barrier(&mut self, waiting: &[Suspended]) -> bool {
        let line = |s: &Suspended| if let Wait::Block { line } = s.wait { Some(line) } else { None };
        let total = self.frame.total as usize;
        let came = waiting.iter().filter_map(line).count();
        let Some(first) = waiting.iter().find_map(line).filter(|_| came == waiting.len()) else {
            let lanes = waiting.len() - came;
            let what = "threads wait at a barrier and";
            self.complaints.push(format!("{came} {what} {lanes} for lanes that are not there: a deadlock"));
            return false;
        };
        if came < total {
            self.complaints
                .push(format!("divergent barrier: {came} of {total} threads come to line {first}"));
        }
        if let Some(other) = waiting.iter().filter_map(line).find(|l| *l != first) {
            let what = "divergent barrier: some threads wait in line";
            self.complaints.push(format!("{what} {first}, others in line {other}"));
        }
        true
    }

    /// The problems since the last call, without repetition.
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

/// Suspends the calling thread, from within a kernel.
extern "C" fn wait(frame: *mut Frame, kind: u32, mask: u32, line: u32, value: u64) -> *const u64 {
    // SAFETY: the kernel passes the frame that it was given, whose worker runs it and outlives it.
    // While this thread is suspended, others change the frame; its own values are restored when it
    // continues.
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

/// Records a message from the shim.
extern "C" fn complain(frame: *mut Frame, message: *const c_char) {
    // SAFETY: as in `wait`; the message is a literal.
    unsafe {
        let worker = (*frame).worker.cast::<Worker>();
        (*worker).complaints.push(CStr::from_ptr(message).to_string_lossy().into_owned());
    }
}
