//! Kernels on simulated memory: issued like copies, and computed by the inner processor on copies of their operands.

use std::sync::Arc;

use vram_types::TensorMeta;

use super::memory::Span;
use super::profile::Cost;
use super::queue::{Issue, Run, Work};
use super::trace::OpKind;
use super::{Cpu, Sim};
use crate::{
    Activation, AttentionArgs, Binary, Budget, Device, DeviceError, Kernels, Lifetime, LinearArgs, Queue,
    ScratchFor, Tier, View, ViewMut,
};

/// Where a kernel writes, and as what.
type Target = (Span, TensorMeta);

impl Sim {
    /// Issues a kernel of one's own. `run` gets the bytes of what it reads and of what it writes, in the order given,
    /// as they are when its turn comes. A panic in it passes through whichever call forces it.
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
        let to = writes.iter_mut().map(|v| Ok(self.target(v)?.0)).collect::<Result<_, DeviceError>>()?;
        self.submit(name, cost, &reads.iter().collect::<Vec<_>>(), to, (run, false))
    }

    /// Issues a kernel that the inner processor has.
    fn on_cpu(
        &self,
        name: &'static str,
        flops: f64,
        reads: &[&View<'_>],
        writes: Vec<Target>,
        call: impl Fn(&Cpu, &[View<'_>], &mut [ViewMut<'_>]) -> Result<(), DeviceError> + Send + 'static,
    ) -> Result<(), DeviceError> {
        let from: Vec<TensorMeta> = reads.iter().map(|v| v.meta().clone()).collect();
        let (writes, to): (Vec<Span>, Vec<TensorMeta>) = writes.into_iter().unzip();
        let cpu = Arc::clone(&self.cpu);
        let run: Run = Box::new(move |inputs, outputs| {
            let views = inputs.iter().zip(&from).map(|(bytes, meta)| View::host(bytes, meta.clone()));
            let views: Vec<View<'_>> = views.collect::<Result<_, _>>()?;
            on_pages(&cpu, &to, outputs, |outputs| call(&cpu, &views, outputs))
        });
        self.submit(name, Cost::Flops(flops), reads, writes, (run, true))
    }

    fn submit(
        &self,
        name: &'static str,
        cost: Cost,
        reads: &[&View<'_>],
        writes: Vec<Span>,
        (run, rehearse): (Run, bool),
    ) -> Result<(), DeviceError> {
        let reads: Vec<Span> = reads.iter().map(|v| self.read(v)).collect::<Result<_, _>>()?;
        let bytes = reads.iter().chain(&writes).map(Span::bytes).sum();
        let ns = self.profile.kernel_ns(cost, bytes);
        let work = Work::Kernel { reads, writes, run, rehearse };
        self.lock().issue(Issue { queue: Queue::Compute, kind: OpKind::Kernel(name), ns, work })?;
        Ok(())
    }

    fn read(&self, view: &View<'_>) -> Result<Span, DeviceError> {
        const WHAT: &str = "an operand of a kernel";
        let bytes = view.meta().bytes();
        let (region, at) =
            view.region().ok_or(DeviceError::OutOfRange { what: WHAT, offset: 0, bytes, available: 0 })?;
        self.span(WHAT, region, at..at + bytes)
    }

    fn target(&self, view: &mut ViewMut<'_>) -> Result<Target, DeviceError> {
        let meta = view.meta().clone();
        let (region, at) = view.region();
        Ok((self.span("the result of a kernel", region, at..at + meta.bytes())?, meta))
    }
}

/// Calls `f` with the bytes in pages of the processor's, and takes them back.
fn on_pages(
    cpu: &Cpu,
    metas: &[TensorMeta],
    bytes: &mut [Vec<u8>],
    f: impl FnOnce(&mut [ViewMut<'_>]) -> Result<(), DeviceError>,
) -> Result<(), DeviceError> {
    let unlimited = Budget::new(Tier::Host, u64::MAX);
    let mut regions = Vec::with_capacity(bytes.len());
    for bytes in bytes.iter() {
        let room = unlimited.reserve(Lifetime::Pass, bytes.len() as u64)?;
        let mut region = cpu.allocate(room)?.into_region();
        region.host_mut().unwrap_or_default().copy_from_slice(bytes);
        regions.push(region);
    }
    let views = regions.iter_mut().zip(metas).map(|(region, meta)| ViewMut::new(region, 0, meta.clone()));
    f(&mut views.collect::<Result<Vec<_>, _>>()?)?;
    for (bytes, region) in bytes.iter_mut().zip(&regions) {
        bytes.copy_from_slice(region.host().unwrap_or_default());
    }
    Ok(())
}

fn elements(view: &View<'_>) -> f64 {
    view.meta().elements() as f64
}

impl Kernels for Sim {
    fn scratch_bytes(&self, kernel: ScratchFor<'_>) -> u64 {
        self.cpu.scratch_bytes(kernel)
    }

    fn linear_pack(&self, x: &View<'_>, packed: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        self.on_cpu("linear_pack", 0.0, &[x], vec![self.target(packed)?], |cpu, from, to| {
            cpu.linear_pack(&from[0], &mut to[0])
        })
    }

    fn linear(&self, args: &LinearArgs<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        let flops = 2.0 * args.x.shape().rows() as f64 * elements(&args.weight);
        let first_output = args.first_output;
        let mut reads = vec![&args.x, &args.packed, &args.weight];
        reads.extend(&args.bias);
        self.on_cpu("linear", flops, &reads, vec![self.target(y)?], move |cpu, from, to| {
            let [x, packed, weight] = [0, 1, 2].map(|i| from[i].clone());
            let args = LinearArgs { x, packed, weight, bias: from.get(3).cloned(), first_output };
            cpu.linear(&args, &mut to[0])
        })
    }

    fn rms_norm(
        &self,
        x: &View<'_>,
        weight: &View<'_>,
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        self.on_cpu(
            "rms_norm",
            4.0 * elements(x),
            &[x, weight],
            vec![self.target(y)?],
            move |cpu, from, to| cpu.rms_norm(&from[0], &from[1], eps, &mut to[0]),
        )
    }

    fn layer_norm(
        &self,
        x: &View<'_>,
        weight: &View<'_>,
        bias: &View<'_>,
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        self.on_cpu(
            "layer_norm",
            8.0 * elements(x),
            &[x, weight, bias],
            vec![self.target(y)?],
            move |cpu, from, to| cpu.layer_norm(&from[0], &from[1], &from[2], eps, &mut to[0]),
        )
    }

    fn activate(&self, f: Activation, x: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        let flops = 10.0 * x.meta().elements() as f64;
        self.on_cpu("activate", flops, &[], vec![self.target(x)?], move |cpu, _, to| {
            cpu.activate(f, &mut to[0])
        })
    }

    fn binary(&self, op: Binary, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        self.on_cpu("binary", elements(x), &[x], vec![self.target(y)?], move |cpu, from, to| {
            cpu.binary(op, &from[0], &mut to[0])
        })
    }

    fn attention(
        &self,
        args: &AttentionArgs<'_>,
        scratch: &mut ViewMut<'_>,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        let flops = 4.0 * elements(&args.q) * args.k.shape().rows() as f64;
        let (heads, scale) = (args.heads, args.scale);
        let reads = [&args.q, &args.k, &args.v];
        let writes = vec![self.target(scratch)?, self.target(y)?];
        self.on_cpu("attention", flops, &reads, writes, move |cpu, from, to| {
            let [q, k, v] = [0, 1, 2].map(|i| from[i].clone());
            let [scratch, y] = to else { return Ok(()) };
            cpu.attention(&AttentionArgs { q, k, v, heads, scale }, scratch, y)
        })
    }

    fn gather(&self, table: &View<'_>, ids: &[u32], y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        let ids = ids.to_vec();
        self.on_cpu("gather", 0.0, &[table], vec![self.target(y)?], move |cpu, from, to| {
            cpu.gather(&from[0], &ids, &mut to[0])
        })
    }

    fn cast(&self, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        self.on_cpu("cast", elements(x), &[x], vec![self.target(y)?], |cpu, from, to| {
            cpu.cast(&from[0], &mut to[0])
        })
    }
}
