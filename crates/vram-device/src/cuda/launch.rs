//! Launches kernels: selects the program and the grid, and passes the arguments.

use std::ffi::c_void;
use std::sync::Arc;

use smallvec::SmallVec;

use super::context::Context;
use super::driver::Function;
use super::program::{Key, Origin, Programs};
use crate::{DeviceError, Queue};

/// Threads of a block.
const THREADS: u32 = 256;

/// Ids that one launch of the gather passes as arguments: the `Ids` of `ops/gather.cu`.
pub(super) const IDS: usize = 900;

/// Maximum blocks along the second and third dimension.
const BLOCKS: u64 = 65535;

/// An argument of a kernel, by its type in the source.
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    /// A pointer; 0 for a null pointer.
    Pointer(u64),
    /// `u64`.
    Long(u64),
    /// `u32`.
    Int(u32),
    /// `float`.
    Float(f32),
    /// `Ids`.
    Ids(&'a [u32; IDS]),
    /// A structure of this many `u64`.
    Longs(&'a [u64]),
}

impl Arg<'_> {
    /// The address of its value.
    fn place(&self) -> *mut c_void {
        // The driver reads arguments and does not write them.
        let pointer: *const c_void = match self {
            Arg::Pointer(value) | Arg::Long(value) => std::ptr::from_ref(value).cast(),
            Arg::Int(value) => std::ptr::from_ref(value).cast(),
            Arg::Float(value) => std::ptr::from_ref(value).cast(),
            Arg::Ids(ids) => std::ptr::from_ref(*ids).cast(),
            Arg::Longs(values) => values.as_ptr().cast(),
        };
        pointer.cast_mut()
    }
}

/// Issues kernels on the compute stream.
pub(super) struct Launcher {
    pub(super) context: Arc<Context>,
    programs: Arc<Programs>,
}

impl Launcher {
    pub(super) fn new(context: &Arc<Context>, programs: Programs) -> Launcher {
        let programs = Arc::new(programs);
        context.at_end(Arc::<Programs>::clone(&programs));
        Launcher { context: Arc::clone(context), programs }
    }

    /// Issues a kernel on the compute stream. The arguments match the kernel's parameters in its source, in
    /// order. What they point to is on this device and as large as the kernel assumes.
    pub(super) fn launch(
        &self,
        key: Key,
        name: &'static str,
        blocks: [u64; 3],
        args: &[Arg<'_>],
    ) -> Result<(), DeviceError> {
        let mut grid = [0; 3];
        for (to, blocks) in grid.iter_mut().zip(blocks) {
            *to = u32::try_from(blocks)
                .map_err(|_| DeviceError::shape(name, "more blocks than a card runs"))?;
        }
        if grid.contains(&0) {
            return Ok(());
        }
        if blocks[0] > i32::MAX as u64 || blocks[1..].iter().any(|&n| n > BLOCKS) {
            return Err(DeviceError::shape(name, format!("{blocks:?} blocks are more than a card runs")));
        }
        self.context.with(|| {
            let function = match self.programs.find(key, name) {
                Some(function) => function,
                None => self.program(key, name)?,
            };
            let mut places: SmallVec<[*mut c_void; 16]> = args.iter().map(Arg::place).collect();
            let stream = &self.context.timeline(Queue::Compute).stream;
            // SAFETY: callers pass what the kernel expects (see above; each call is next to the source of the
            // kernel); views and the workspace are in memory that is freed after what was issued
            // (`Context::free`); programs are unloaded only with the context.
            unsafe { function.launch(grid, THREADS, &mut places, stream) }
        })
    }

    /// Loads the program of a kernel, which may compile it.
    fn program(&self, key: Key, name: &'static str) -> Result<Function, DeviceError> {
        let origin = self.context.measured(|reserve| &mut reserve.libraries, || self.programs.load(key))?;
        if let Some(Origin::Compiled { not_kept: Some(why) }) = origin {
            self.context.note(format!("compiled kernels are not cached on disk: {why}"));
        }
        let missing = || DeviceError::Failed { what: name, reason: "its program has no such kernel".into() };
        self.programs.find(key, name).ok_or_else(missing)
    }
}

/// A grid with one thread per element.
pub(super) fn over(elements: u64) -> [u64; 3] {
    [elements.div_ceil(u64::from(THREADS)), 1, 1]
}
