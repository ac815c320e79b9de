//! The public suite on the CPU, and on CPUs that are broken on purpose.

#[path = "../table/mod.rs"]
mod table;

use std::ops::Range;

use vram_device::cpu::{Cpu, CpuOptions, Isa};
use vram_device::ops::{self, Checked, Op, Operation as _};
use vram_device::{
    Buffer, Device, DeviceError, DeviceInfo, Kernels, KernelsExt, MemoryInfo, Part, Queue, Region,
    Reservation, Staging, Ticket, ViewMut, conformance,
};
use vram_types::DType;

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

#[test]
fn the_page_says_what_the_cpu_can_run() {
    table::check("cpu", &Cpu::new(CpuOptions::default()).unwrap());
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
    LacksAll,
    LacksGather,
    LacksCustom,
    LacksCustomByAnotherName,
    LacksDecoding,
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
        (Flaw::Panics, "refusals: unary"),
        (Flaw::Guesses, "refusals: binary"),
        (Flaw::Leaks, "memory: what is allocated"),
        (Flaw::LacksGather, "gather"),
        (Flaw::LacksCustomByAnotherName, "custom"),
    ];
    for (flaw, case) in flaws {
        let failure = conformance::run(&broken(flaw)).expect_err("a flaw passed");
        assert!(failure.case.starts_with(case), "{flaw:?}: {failure}");
    }
}

#[test]
fn an_optional_operation_that_is_refused_by_its_name_is_a_gap() {
    let why = || "not today".to_owned();
    let summary = conformance::run(&broken(Flaw::LacksCustom)).unwrap();
    assert_eq!(summary.gaps, [("custom", why())]);
    assert_eq!(summary.passed.len(), conformance::cases().len() - 1);
    let lacking = |flaw| -> Vec<_> {
        let support = conformance::support(&broken(flaw)).unwrap();
        support.into_iter().filter_map(|s| Some((s.operation, s.variant, s.result.err()?))).collect()
    };
    assert_eq!(lacking(Flaw::LacksCustom), [("custom", "", why())]);
    // What a device lacks is told, whether it may lack it or not.
    assert_eq!(lacking(Flaw::LacksGather), [("gather", "", why()), ("gather", "quantised blocks", why())]);
    assert_eq!(
        lacking(Flaw::LacksAll).len(),
        conformance::support(&broken(Flaw::LacksCustom)).unwrap().len()
    );
    assert!(conformance::support(&broken(Flaw::LacksCustomByAnotherName)).is_err());
    assert!(conformance::support(&broken(Flaw::NoBias)).is_err());
}

#[test]
fn a_device_decodes_nothing_unless_it_says_so() {
    let summary = conformance::run(&broken(Flaw::LacksDecoding)).unwrap();
    let gaps: Vec<&str> = summary.gaps.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        gaps,
        [
            "linear: quantised blocks",
            "linear: quantised blocks, x in 8 bits",
            "linear: fp8 with scales",
            "gather: quantised blocks",
            "cast: quantised blocks",
            "cast: fp8 with scales"
        ]
    );
    let named = |(name, why): &(&str, String)| match name.contains("scales") {
        true => why == "it does not decode F8_E4M3 with scales",
        false => why.starts_with("it does not decode Q"),
    };
    assert!(summary.gaps.iter().all(named), "{:?}", summary.gaps);
}

fn broken(flaw: Flaw) -> Broken {
    Broken(
        Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).expect("the CPU is always there"),
        flaw,
    )
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

impl Broken {
    fn linear(&self, op: &mut ops::Linear<'_>, scratch: Option<&mut ViewMut<'_>>) -> Result<(), DeviceError> {
        if self.1 == Flaw::WritesAll
            && let Some(bytes) = op.y.bytes()
        {
            bytes.fill(0);
        }
        let mut same = ops::Linear::new(op.x.clone(), op.weight.clone(), op.y.reborrow());
        (same.first_output, same.packed) = (op.first_output, op.packed);
        same.activations = op.activations;
        if self.1 != Flaw::NoBias {
            same.bias = op.bias.clone();
        }
        self.0.call(same, scratch)?;
        if self.1 == Flaw::OtherWhenSplit && op.first_output > 0 {
            nudge(&mut op.y);
        }
        Ok(())
    }
}

impl Kernels for Broken {
    fn scratch(&self, op: &Op<'_>) -> u64 {
        self.0.scratch(op)
    }
    fn takes(&self, op: &Op<'_>) -> Result<(), DeviceError> {
        match op.decoded().filter(|view| view.is_encoded() && self.1 == Flaw::LacksDecoding) {
            // As any device that has not this function.
            Some(view) => Err(op.unsupported(format!("it does not decode {}", view.encoding()))),
            None => self.0.takes(op),
        }
    }
    fn run(&self, op: Checked<'_>, scratch: Option<&mut ViewMut<'_>>) -> Result<(), DeviceError> {
        let mut op = op.into_op();
        match (self.1, &mut op) {
            (flaw, Op::Linear(op)) if flaw != Flaw::LacksAll => return self.linear(op, scratch),
            // More epsilon than was asked for.
            (Flaw::Inexact, Op::RmsNorm(op)) => op.eps += 1e-4,
            (Flaw::Guesses, Op::Binary(op)) if op.x.bytes().is_none() => return Ok(()),
            (Flaw::Panics, Op::Unary(op)) => assert!(op.x.dtype() != DType::I64, "a backend's panic"),
            (Flaw::WrongRow, Op::Gather(op)) => {
                op.ids.to_mut().iter_mut().filter(|id| **id == 40).for_each(|id| *id = 39);
            }
            (Flaw::LacksAll, _) | (Flaw::LacksGather, Op::Gather(_)) | (Flaw::LacksCustom, Op::Custom(_)) => {
                return Err(op.unsupported("not today"));
            }
            (Flaw::LacksCustomByAnotherName, Op::Custom(_)) => {
                let why = "not today".to_owned();
                return Err(DeviceError::Unsupported { op: "another", dtype: None, why });
            }
            _ => {}
        }
        self.0.call(op, scratch)
    }
}
