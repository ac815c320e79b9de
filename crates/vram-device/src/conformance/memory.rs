//! [`Device`](crate::Device): memory, copies and order.

use super::case::{Case, Fault, ensure};
use super::tensors::{Random, put, same};
use crate::{Budget, DeviceError, Kernels, Lifetime, Memory, Queue, Tier};

pub(super) const CASES: &[Case] = &[
    Case::new("memory: what is allocated is what was reserved", exact),
    Case::new("memory: bytes come back as they went, at any offset", round_trips),
    Case::new("memory: parts are filled by several threads", parts),
    Case::new("memory: ranges outside are errors", outside),
    Case::new("memory: tickets order and end", tickets),
    Case::new("memory: the device tells what it is", told),
];

fn exact(device: &dyn Kernels) -> Result<(), Fault> {
    let budget = Budget::new(Tier::Device, 10_000);
    let buffer = device.allocate(budget.reserve(Lifetime::Weights, 4097)?)?;
    ensure(buffer.bytes() == 4097 && budget.used() == 4097, || format!("{buffer:?} of {budget:?}"))?;
    let region = buffer.into_region();
    let mut staging = device.stage(budget.reserve(Lifetime::Pass, 5000)?)?;
    ensure(staging.bytes() == 5000 && staging.host_mut().len() == 5000, || format!("{staging:?}"))?;
    ensure(budget.used() == 9097, || format!("{budget:?}"))?;
    ensure(budget.reserve(Lifetime::Pass, 904).is_err(), || "a budget was passed".into())?;
    let nothing = device.allocate(budget.reserve(Lifetime::Session, 0)?)?.into_region();
    ensure(nothing.bytes() == 0, || "an allocation of 0 bytes has some".into())?;
    device.download(&nothing, 0, &mut [])?;
    drop((region, staging, nothing));
    ensure(budget.used() == 0, || format!("{} bytes were not given back", budget.used()))
}

fn round_trips(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(1);
    for len in [0usize, 1, 3, 255, 4096, 70_001] {
        for at in [0u64, 1, 7, 333] {
            let bytes = random.bytes(len);
            let region = put(device, &bytes, at)?;
            let mut back = vec![0; len];
            device.download(&region, at, &mut back)?;
            same(&format!("{len} bytes at {at}"), &back, &bytes)?;
            if device.info().topology.memory == Memory::Shared {
                let host =
                    region.host().ok_or_else(|| Fault::Wrong("host-visible memory is not visible".into()))?;
                same("seen by the host", &host[at as usize..], &bytes)?;
            }
            let half = len / 2;
            device.download(&region, at + half as u64, &mut back[..len - half])?;
            same(&format!("from byte {half} on"), &back[..len - half], &bytes[half..])?;
        }
    }
    Ok(())
}

fn parts(device: &dyn Kernels) -> Result<(), Fault> {
    let (near, far) = (Budget::new(Tier::Host, u64::MAX), Budget::new(Tier::Device, u64::MAX));
    let bytes = Random::new(2).bytes(10_007);
    let region = device.allocate(far.reserve(Lifetime::Weights, 10_007)?)?.into_region();
    let parts = region.into_parts(&[1, 1, 4097, 9999])?;
    let fill = |mut part: crate::Part| -> Result<_, Fault> {
        let range = part.range();
        let len = range.end - range.start;
        let mut staging = device.stage(near.reserve(Lifetime::Pass, len + 3)?)?;
        staging.host_mut()[3..].copy_from_slice(&bytes[range.start as usize..range.end as usize]);
        let ticket = device.upload(&staging, 3..len + 3, &mut part, 0)?;
        device.wait(ticket)?;
        Ok(part.finish())
    };
    let finished = std::thread::scope(|scope| {
        let threads: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| fill(part))).collect();
        threads
            .into_iter()
            .map(|t| t.join().map_err(|_| Fault::Wrong("a thread panicked".into()))?)
            .collect::<Vec<_>>()
    });
    let mut whole = finished.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
    let region = whole.next().ok_or_else(|| Fault::Wrong("no part gave the region back".into()))?;
    let mut back = vec![0; bytes.len()];
    device.download(&region, 0, &mut back)?;
    same("five parts", &back, &bytes)
}

fn outside(device: &dyn Kernels) -> Result<(), Fault> {
    let budget = Budget::new(Tier::Device, u64::MAX);
    let staging = device.stage(budget.reserve(Lifetime::Pass, 100)?)?;
    let region = device.allocate(budget.reserve(Lifetime::Pass, 64)?)?.into_region();
    let refused = |what: &str, result: Result<(), DeviceError>| {
        ensure(matches!(result, Err(DeviceError::OutOfRange { .. })), || format!("{what} gave {result:?}"))
    };
    refused("a download past the end", device.download(&region, 60, &mut [0; 5]))?;
    refused("a download from outside", device.download(&region, u64::MAX, &mut [0; 1]))?;
    for mut part in region.into_parts(&[32])? {
        let mut upload = |range, at| device.upload(&staging, range, &mut part, at).map(drop);
        refused("an upload past the end of a part", upload(0..33, 0))?;
        refused("an upload behind a part", upload(0..1, 32))?;
        refused("an upload from outside the staging", upload(90..101, 0))?;
        upload(0..32, 0)?;
        upload(100..100, 32)?;
    }
    Ok(())
}

fn tickets(device: &dyn Kernels) -> Result<(), Fault> {
    for queue in [Queue::Copy, Queue::Compute] {
        let first = device.ticket(queue)?;
        let second = device.ticket(queue)?;
        ensure(first.queue == queue && second.value >= first.value, || {
            format!("{first:?}, then {second:?}")
        })?;
        device.order(Queue::Compute, second)?;
        device.order(Queue::Copy, second)?;
        device.wait(second)?;
        for ticket in [first, second] {
            ensure(device.is_done(ticket)?, || {
                format!("{ticket:?} is not done after a wait for {second:?}")
            })?;
        }
    }
    Ok(())
}

fn told(device: &dyn Kernels) -> Result<(), Fault> {
    let info = device.info();
    ensure(info.alignment.is_power_of_two() && info.max_allocation > 0, || format!("{info:?}"))?;
    ensure(!info.backend.is_empty() && !info.name.is_empty(), || format!("{info:?}"))?;
    match device.memory() {
        Ok(memory) => ensure(memory.total > 0 && memory.free <= memory.total, || format!("{memory:?}")),
        Err(DeviceError::Unavailable { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
