//! The public suite on the CPU, and on CPUs that are broken on purpose.

use std::ops::Range;

use vram_device::cpu::kernels::Isa;
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{
    Activation, AttentionArgs, Binary, Buffer, Device, DeviceError, DeviceInfo, Kernels, LinearArgs,
    MemoryInfo, Part, Queue, Region, Reservation, ScratchFor, Staging, Ticket, View, ViewMut, conformance,
};

#[test]
fn every_path_of_the_cpu_passes() {
    for isa in Isa::available() {
        for discrete in [false, true] {
            let cpu = Cpu::new(CpuOptions { threads: Some(2), discrete, isa: Some(isa) }).unwrap();
            let summary =
                conformance::run(&cpu).unwrap_or_else(|e| panic!("{isa}, discrete {discrete}: {e}"));
            println!("{}: {} cases", summary.device, summary.passed.len());
        }
    }
}

use Cpu as MyDevice;

// As docs/backends.md has it.
#[test]
fn my_device_passes() {
    match MyDevice::new(Default::default()) {
        Ok(device) => println!("{:?}", vram_device::conformance::run(&device).unwrap()),
        Err(reason) => println!("skipped: {reason}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    NoBias,
    Inexact,
    LastByte,
    OtherWhenSplit,
    WritesAll,
    WrongRow,
    Panics,
    Guesses,
    Leaks,
}

#[derive(Debug)]
struct Broken(Cpu, Flaw);

#[test]
fn every_flaw_is_found() {
    let flaws = [
        (Flaw::NoBias, "linear"),
        (Flaw::Inexact, "rms_norm"),
        (Flaw::LastByte, "memory: bytes come back"),
        (Flaw::OtherWhenSplit, "linear"),
        (Flaw::WritesAll, "linear"),
        (Flaw::WrongRow, "gather"),
        (Flaw::Panics, "refusals: attention"),
        (Flaw::Guesses, "refusals: rows"),
        (Flaw::Leaks, "memory: what is allocated"),
    ];
    for (flaw, case) in flaws {
        let cpu = Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
        let failure = conformance::run(&Broken(cpu, flaw)).expect_err("a flaw passed");
        assert!(failure.case.starts_with(case), "{flaw:?}: {failure}");
    }
}

impl Device for Broken {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }
    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        self.0.memory()
    }
    fn allocate(&self, reservation: Reservation) -> Result<Buffer, DeviceError> {
        if self.1 == Flaw::Leaks {
            std::mem::forget(self.0.allocate(reservation)?);
            let other = vram_device::Budget::new(vram_device::Tier::Device, u64::MAX);
            return self.0.allocate(other.reserve(vram_device::Lifetime::Pass, 4097)?);
        }
        self.0.allocate(reservation)
    }
    fn stage(&self, reservation: Reservation) -> Result<Staging, DeviceError> {
        self.0.stage(reservation)
    }
    fn upload(
        &self,
        src: &Staging,
        range: Range<u64>,
        dst: &mut Part,
        at: u64,
    ) -> Result<Ticket, DeviceError> {
        let lost = u64::from(self.1 == Flaw::LastByte && range.end > range.start);
        self.0.upload(src, range.start..range.end - lost, dst, at)
    }
    fn download(&self, src: &Region, at: u64, dst: &mut [u8]) -> Result<(), DeviceError> {
        self.0.download(src, at, dst)
    }
    fn ticket(&self, queue: Queue) -> Result<Ticket, DeviceError> {
        self.0.ticket(queue)
    }
    fn order(&self, queue: Queue, after: Ticket) -> Result<(), DeviceError> {
        self.0.order(queue, after)
    }
    fn is_done(&self, ticket: Ticket) -> Result<bool, DeviceError> {
        self.0.is_done(ticket)
    }
    fn wait(&self, ticket: Ticket) -> Result<(), DeviceError> {
        self.0.wait(ticket)
    }
}

/// Adds to the lowest bits of the first f32.
fn nudge(y: &mut ViewMut<'_>) {
    if let Some(byte) = y.bytes().and_then(|b| b.first_mut()) {
        *byte = byte.wrapping_add(1);
    }
}

impl Kernels for Broken {
    fn scratch_bytes(&self, kernel: ScratchFor<'_>) -> u64 {
        self.0.scratch_bytes(kernel)
    }
    fn linear_pack(&self, x: &View<'_>, packed: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        self.0.linear_pack(x, packed)
    }
    fn linear(&self, args: &LinearArgs<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        let mut args = args.clone();
        if self.1 == Flaw::NoBias {
            args.bias = None;
        }
        if self.1 == Flaw::WritesAll
            && let Some(bytes) = y.bytes()
        {
            bytes.fill(0);
        }
        self.0.linear(&args, y)?;
        if self.1 == Flaw::OtherWhenSplit && args.first_output > 0 {
            nudge(y);
        }
        Ok(())
    }
    fn rms_norm(
        &self,
        x: &View<'_>,
        weight: &View<'_>,
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        // More epsilon than was asked for.
        let eps = if self.1 == Flaw::Inexact { eps + 1e-4 } else { eps };
        self.0.rms_norm(x, weight, eps, y)
    }
    fn layer_norm(
        &self,
        x: &View<'_>,
        weight: &View<'_>,
        bias: &View<'_>,
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        self.0.layer_norm(x, weight, bias, eps, y)
    }
    fn activate(&self, f: Activation, x: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        self.0.activate(f, x)
    }
    fn binary(&self, op: Binary, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        if self.1 == Flaw::Guesses && x.shape() != y.shape() {
            return Ok(());
        }
        self.0.binary(op, x, y)
    }
    fn attention(
        &self,
        args: &AttentionArgs<'_>,
        scratch: &mut ViewMut<'_>,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        if self.1 == Flaw::Panics {
            assert!(args.heads > 0, "a backend's panic");
        }
        self.0.attention(args, scratch, y)
    }
    fn gather(&self, table: &View<'_>, ids: &[u32], y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        let ids: Vec<u32> =
            ids.iter().map(|&id| if self.1 == Flaw::WrongRow && id == 40 { 39 } else { id }).collect();
        self.0.gather(table, &ids, y)
    }
    fn cast(&self, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        self.0.cast(x, y)
    }
}
