//! Kernels on simulated memory: issued like copies, and computed by the inner CPU on copies of their
//! operands.

use std::sync::Arc;

use vram_types::TensorMeta;

use super::Sim;
use super::memory::Span;
use super::profile::Cost;
use super::queue::{Issue, Run, Work};
use super::trace::OpKind;
use crate::ops::{Checked, Op, Operation, Places};
use crate::{DeviceError, Kernels, KernelsExt, Queue, Region, View, ViewMut};

impl Sim {
    /// Issues a custom kernel. `run` gets the bytes of its reads and writes, in the order given, as they are
    /// when its turn comes. If it panics, the panic passes through the call that forces it.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] for memory of another device, [`DeviceError::Lost`].
    pub fn launch(
        &self,
        name: &'static str,
        cost: Cost,
        reads: &[View<'_>],
        writes: &mut [ViewMut<'_>],
        run: impl Fn(&[Vec<u8>], &mut [Vec<u8>]) + Send + 'static,
    ) -> Result<(), DeviceError> {
        let run: Run = Box::new(move |reads, writes| {
            run(reads, writes);
            Ok(())
        });
        let from = reads.iter().map(|view| self.read(view)).collect::<Result<_, _>>()?;
        let to = writes.iter().map(|view| self.target(view)).collect::<Result<_, _>>()?;
        self.submit(name, cost, from, to, (run, false))
    }

    fn submit(
        &self,
        name: &'static str,
        cost: Cost,
        reads: Vec<Span>,
        writes: Vec<Span>,
        (run, rehearse): (Run, bool),
    ) -> Result<(), DeviceError> {
        let bytes = reads.iter().chain(&writes).map(Span::bytes).sum();
        let ns = self.profile.kernel_ns(cost, bytes);
        let work = Work::Kernel { reads, writes, run, rehearse };
        self.lock().issue(Issue { queue: Queue::Compute, kind: OpKind::Kernel(name), ns, work })?;
        Ok(())
    }

    fn read(&self, view: &View<'_>) -> Result<Span, DeviceError> {
        self.operand("an operand of a kernel", view.region(), view.stored_bytes())
    }

    fn target(&self, view: &ViewMut<'_>) -> Result<Span, DeviceError> {
        self.operand("the result of a kernel", view.region(), view.meta().bytes())
    }

    fn operand(
        &self,
        what: &'static str,
        place: Option<(&Region, u64)>,
        bytes: u64,
    ) -> Result<Span, DeviceError> {
        let (region, at) = place.ok_or(DeviceError::OutOfRange { what, offset: 0, bytes, available: 0 })?;
        self.span(what, region, at..at + bytes)
    }
}

/// Any operation, by the inner CPU's kernel for it.
impl Kernels for Sim {
    fn scratch(&self, op: &Op<'_>) -> u64 {
        self.cpu.scratch(op)
    }

    fn takes(&self, op: &Op<'_>) -> Result<(), DeviceError> {
        self.cpu.takes(op)
    }

    fn run(&self, op: Checked<'_>, scratch: Option<&mut ViewMut<'_>>) -> Result<(), DeviceError> {
        let op = op.into_op();
        let (mut reads, mut writes) = (Ok(Vec::new()), Ok(Vec::new()));
        op.for_each_read(|view| add(&mut reads, || self.read(view)));
        op.for_each_write(|view| add(&mut writes, || self.target(view)));
        // The last of the written operands, so that its contents come back for the next tile.
        let scratch = match scratch {
            Some(view) => {
                add(&mut writes, || self.target(view));
                Some(view.meta().clone())
            }
            None => None,
        };
        let later = op.rebind(&mut Nowhere)?;
        let cpu = Arc::clone(&self.cpu);
        let run: Run = Box::new(move |inputs, outputs| {
            let mut outputs = outputs.iter_mut();
            let room = scratch.as_ref().and_then(|meta| Some((outputs.next_back()?, meta.clone())));
            let mut room = room.map(|(bytes, meta)| ViewMut::host(bytes, meta)).transpose()?;
            let op = later.rebind(&mut Copies { reads: inputs.iter(), writes: outputs })?;
            cpu.call(op, room.as_mut())
        });
        self.submit(op.name(), Cost::Flops(op.flops() as f64), reads?, writes?, (run, true))
    }
}

fn add(spans: &mut Result<Vec<Span>, DeviceError>, span: impl FnOnce() -> Result<Span, DeviceError>) {
    if let Ok(all) = spans {
        match span() {
            Ok(span) => all.push(span),
            Err(e) => *spans = Err(e),
        }
    }
}

/// For an operation that waits until its operands are copied.
struct Nowhere;

impl<'b> Places<'b> for Nowhere {
    fn read(&mut self, from: &View<'_>) -> Result<View<'b>, DeviceError> {
        Ok(from.to_absent())
    }

    fn write(&mut self, meta: &TensorMeta) -> Result<ViewMut<'b>, DeviceError> {
        Ok(ViewMut::absent(meta.clone()))
    }
}

/// The operands as they are when the operation's turn comes.
struct Copies<'b> {
    reads: std::slice::Iter<'b, Vec<u8>>,
    writes: std::slice::IterMut<'b, Vec<u8>>,
}

impl<'b> Places<'b> for Copies<'b> {
    fn read(&mut self, from: &View<'_>) -> Result<View<'b>, DeviceError> {
        from.to_host(self.reads.next().map_or(&[], Vec::as_slice))
    }

    fn write(&mut self, meta: &TensorMeta) -> Result<ViewMut<'b>, DeviceError> {
        ViewMut::host(self.writes.next().map_or(&mut [], Vec::as_mut_slice), meta.clone())
    }
}
