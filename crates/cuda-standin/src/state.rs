//! All state of the stand-in, behind one lock, and how every call enters it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::blas::Objects;
use crate::blocks::{Blocks, Kind, Named};
use crate::books::{Books, Complaints};
use crate::clock::Clock;
use crate::config::Config;
use crate::kernel::{Function, Module};
use crate::queue::{Event, Stream};
use crate::space::Space;
use crate::status::{SUCCESS, Status};

/// The state. Kernels run while it is locked, so calls wait for them.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) initialised: bool,
    /// The status of every call after the device is lost.
    pub(crate) lost: Option<Status>,
    pub(crate) space: Option<Space>,
    pub(crate) blocks: Blocks,
    pub(crate) contexts: HashMap<usize, Context>,
    pub(crate) streams: HashMap<usize, Stream>,
    pub(crate) events: HashMap<usize, Event>,
    pub(crate) modules: HashMap<usize, LoadedModule>,
    pub(crate) functions: HashMap<usize, LoadedFunction>,
    pub(crate) blas: Objects,
    pub(crate) books: Books,
    pub(crate) misuse: Complaints,
    pub(crate) leaks: Complaints,
    /// What the host, with all its threads as one, knows to be done.
    pub(crate) host: Clock,
    handles: usize,
    lanes: usize,
    call: &'static str,
}

/// The primary context of a device while it is retained.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) device: usize,
    pub(crate) retained: u32,
    /// The error that ended it.
    pub(crate) dead: Option<Status>,
    /// Its default stream, once it has been used.
    pub(crate) default_stream: Option<usize>,
    /// Device memory taken by it, its modules and its library handles, in bytes.
    pub(crate) own_bytes: u64,
}

/// A module of a context.
#[derive(Debug)]
pub(crate) struct LoadedModule {
    pub(crate) context: usize,
    pub(crate) module: Module,
    /// Device memory that it takes, in bytes.
    pub(crate) bytes: i64,
}

/// A kernel that the caller has looked up.
#[derive(Debug)]
pub(crate) struct LoadedFunction {
    pub(crate) context: usize,
    /// Handle of its module.
    pub(crate) module: usize,
    pub(crate) function: Arc<Function>,
    /// The dynamic shared memory that it may be launched with, in bytes.
    pub(crate) dynamic: usize,
}

/// The type of a handle. It is part of the number, so handles of different types are never
/// confused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handle {
    Context = 1,
    Stream,
    Event,
    Module,
    Function,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| Mutex::new(State::fresh()));

thread_local! {
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Locks the state. A panic inside leaves it as it is: the call that panicked returned `UNKNOWN`.
pub(crate) fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A driver call: counted, then refused if the device is lost or its context has ended, otherwise
/// performed.
pub(crate) fn call(name: &'static str, body: impl FnOnce(&mut State) -> Result<(), Status>) -> u32 {
    guarded(name, |state| {
        state.admit()?;
        body(state)
    })
}

/// Like [`call`], but without these refusals, for calls before initialisation.
pub(crate) fn guarded(name: &'static str, body: impl FnOnce(&mut State) -> Result<(), Status>) -> u32 {
    let answer = catch_unwind(AssertUnwindSafe(|| {
        let mut state = lock();
        state.call = name;
        body(&mut state)
    }));
    match answer {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(status)) => status.0,
        Err(_) => {
            lock().misused("the stand-in itself panicked; this is a bug in the stand-in".to_owned());
            Status::UNKNOWN.0
        }
    }
}

impl State {
    /// The initial state, configured by the environment.
    pub(crate) fn fresh() -> Self {
        let (config, wrong) = Config::from_environment();
        let mut state = Self { config, call: "the environment", ..Self::default() };
        wrong.into_iter().for_each(|message| state.misused(message));
        state
    }

    /// Takes over what must survive a reset: handles and addresses that were handed out stay
    /// invalid.
    pub(crate) fn continue_from(&mut self, old: Self) {
        (self.space, self.handles) = (old.space, old.handles);
        self.initialised = old.initialised;
    }

    fn admit(&mut self) -> Result<(), Status> {
        self.count_call()?;
        if !self.initialised {
            return Err(Status::NOT_INITIALIZED);
        }
        match self.current().ok().and_then(|c| self.contexts.get(&c)).and_then(|c| c.dead) {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }

    /// Counts a call towards the one at which the device is lost.
    pub(crate) fn count_call(&mut self) -> Result<(), Status> {
        if Config::fails(&mut self.config.lose_at_call) {
            self.lost = Some(Status::of(self.config.lose_code).unwrap_or(Status::UNKNOWN));
        }
        self.lost.map_or(Ok(()), Err)
    }

    /// Records a mistake of the caller.
    pub(crate) fn misused(&mut self, message: String) {
        self.books.misuses += 1;
        self.misuse.add(format!("{}: {message}", self.call));
    }

    /// Records a mistake and returns the status of the call.
    pub(crate) fn refused(&mut self, status: Status, message: impl Into<String>) -> Status {
        self.misused(message.into());
        status
    }

    pub(crate) fn handle(&mut self, kind: Handle) -> usize {
        self.handles += 1;
        ((kind as usize) << 40) | (self.handles << 4)
    }

    pub(crate) fn lane(&mut self) -> usize {
        self.lanes += 1;
        self.lanes - 1
    }

    /// The current context of this thread.
    ///
    /// # Errors
    ///
    /// `INVALID_CONTEXT` if there is none, `CONTEXT_IS_DESTROYED` if it no longer exists.
    pub(crate) fn current(&self) -> Result<usize, Status> {
        let handle = current_handle().ok_or(Status::INVALID_CONTEXT)?;
        if self.contexts.contains_key(&handle) { Ok(handle) } else { Err(Status::CONTEXT_IS_DESTROYED) }
    }

    /// The current context; records a mistake if there is none.
    pub(crate) fn need_context(&mut self) -> Result<usize, Status> {
        self.current().map_err(|status| self.refused(status, "no context is current on this thread"))
    }

    /// The device of the current context.
    pub(crate) fn current_device(&mut self) -> Result<usize, Status> {
        let context = self.need_context()?;
        self.contexts.get(&context).map(|c| c.device).ok_or(Status::INVALID_CONTEXT)
    }

    /// Free and total bytes of a device.
    pub(crate) fn memory(&self, device: usize) -> (u64, u64) {
        let own: u64 = self.contexts.values().filter(|c| c.device == device).map(|c| c.own_bytes).sum();
        let held = |b: &crate::blocks::Block| b.kind == Kind::Device && b.device == device;
        // The driver allocates in pieces of 512 bytes.
        let blocks: u64 =
            self.blocks.iter().filter(|(_, b)| held(b)).map(|(_, b)| rounded(b.bytes as u64)).sum();
        let total = u64::try_from(self.config.capacity).unwrap_or(0);
        (total.saturating_sub(own + blocks), total)
    }

    /// Takes memory of a context's device for something other than an allocation.
    ///
    /// # Errors
    ///
    /// `OUT_OF_MEMORY`.
    pub(crate) fn take_own(&mut self, context: usize, bytes: i64) -> Result<(), Status> {
        let bytes = u64::try_from(bytes).unwrap_or(0);
        let device = self.contexts.get(&context).map_or(0, |c| c.device);
        if bytes > self.memory(device).0 {
            return Err(Status::OUT_OF_MEMORY);
        }
        if let Some(context) = self.contexts.get_mut(&context) {
            context.own_bytes += bytes;
        }
        Ok(())
    }

    /// Returns such memory.
    pub(crate) fn give_own(&mut self, context: usize, bytes: i64) {
        if let Some(context) = self.contexts.get_mut(&context) {
            context.own_bytes = context.own_bytes.saturating_sub(u64::try_from(bytes).unwrap_or(0));
        }
    }

    /// Ends a context with an error that every later call in it returns. Queued work is dropped.
    pub(crate) fn kill(&mut self, context: usize, status: Status) {
        if let Some(context) = self.contexts.get_mut(&context) {
            context.dead.get_or_insert(status);
        }
        self.streams.values_mut().filter(|s| s.context == context).for_each(Stream::abandon);
    }

    /// The live objects, one line each. Empty after a device was lost, because a caller cannot
    /// free anything there.
    pub(crate) fn remains(&self) -> Vec<String> {
        if self.lost.is_some() || self.contexts.values().any(|c| c.dead.is_some()) {
            return Vec::new();
        }
        let mut lines: Vec<String> =
            self.blocks.iter().map(|(n, b)| format!("{} is not freed", Named(*n, b))).collect();
        let streams = self.streams.values().filter(|s| !s.closed && !s.is_default).count();
        let counts = [("stream", streams), ("event", self.events.len()), ("module", self.modules.len())];
        let counts = counts.into_iter().chain(self.blas.counts());
        lines.extend(counts.filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} x {what} not destroyed")));
        for context in self.contexts.values() {
            let Context { device, retained, .. } = context;
            lines.push(format!("the context of device {device} is still retained, {retained} x"));
        }
        lines
    }
}

/// The memory that the driver takes for this many bytes.
pub(crate) fn rounded(bytes: u64) -> u64 {
    bytes.div_ceil(512) * 512
}

/// The handle on top of this thread's stack of contexts.
pub(crate) fn current_handle() -> Option<usize> {
    CURRENT.with_borrow(|stack| stack.last().copied().filter(|&handle| handle != 0))
}

/// Replaces the context on top of the stack; 0 for none.
pub(crate) fn set_current(handle: usize) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        stack.push(handle);
    });
}

/// Pushes a context.
pub(crate) fn push_current(handle: usize) {
    CURRENT.with_borrow_mut(|stack| stack.push(handle));
}

/// Pops the top context.
pub(crate) fn pop_current() -> Option<usize> {
    CURRENT.with_borrow_mut(Vec::pop)
}
