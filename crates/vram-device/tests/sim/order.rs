//! Each order that is left out is seen, in the answer and in the list; none is seen where all are there.

use vram_device::sim::{Lateness, OpKind, Sim, SimTopology, Violation};
use vram_device::{Device, Queue};

use crate::util::{TOPOLOGIES, copy, download, latenesses, region, ring, sim, staging, upload};

const SEPARATE: SimTopology = SimTopology::SeparateCopyQueue;

/// Units of one byte value each stream through a ring of two slots, each read by a kernel. What they left behind.
fn stream(sim: &Sim, kernel_after_copy: bool, copy_after_kernel: bool, wait_for_staging: bool) -> Vec<u8> {
    let ring = ring(sim, 2 * 64);
    let mut staged = staging(sim, &[0; 64]);
    let mut outputs = Vec::new();
    for unit in 1..=8u8 {
        let slot = ring.alloc(64, 1).unwrap();
        if copy_after_kernel {
            slot.after().iter().for_each(|t| sim.order(Queue::Copy, *t).unwrap());
        }
        staged.host_mut().fill(unit);
        let (slot, copied) = upload(sim, &staged, slot);
        if kernel_after_copy {
            sim.order(Queue::Compute, copied).unwrap();
        }
        let mut output = region(sim, 64);
        copy(sim, &slot, &mut output);
        slot.retire(sim.ticket(Queue::Compute).unwrap());
        outputs.push(output);
        if wait_for_staging {
            sim.wait(copied).unwrap();
        }
    }
    outputs.iter().map(|o| download(sim, o)[63]).collect()
}

const RIGHT: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn with_all_orders_every_lateness_is_right() {
    for topology in TOPOLOGIES {
        for lateness in latenesses() {
            let sim = sim(lateness, topology);
            assert_eq!(stream(&sim, true, true, true), RIGHT, "{sim:?}");
            assert_eq!(sim.violations(), []);
        }
    }
}

#[test]
fn a_kernel_that_does_not_wait_for_its_copy_reads_poison() {
    let late = sim(Lateness::Copies, SEPARATE);
    let got = stream(&late, false, true, true);
    assert_eq!(got[0], 0xff, "{got:?}");
    assert_ne!(got, RIGHT);
    let first = &late.violations()[0];
    let Violation::Race { first, second, .. } = first else { panic!("{first}") };
    assert_eq!((first.kind, first.writes), (OpKind::Upload, true));
    assert_eq!((second.kind, second.writes), (OpKind::Kernel("copy"), false));
    for lateness in latenesses() {
        let sim = sim(lateness, SEPARATE);
        stream(&sim, false, true, true);
        assert!(!sim.violations().is_empty(), "the race is one even where nothing is late: {sim:?}");
    }
}

#[test]
fn a_copy_that_does_not_wait_for_the_kernels_overwrites_what_they_read() {
    let late = sim(Lateness::Kernels, SEPARATE);
    let got = stream(&late, true, false, true);
    assert_eq!(got, [8; 8], "all units share a slot, and the last stays in it");
    for lateness in latenesses() {
        let sim = sim(lateness, SEPARATE);
        stream(&sim, true, false, true);
        let found = sim.violations();
        let copy_second = |v: &Violation| matches!(v, Violation::Race { second, .. } if second.writes);
        assert!(found.iter().any(copy_second), "{sim:?}: {found:?}");
    }
}

#[test]
fn one_queue_needs_no_orders() {
    for lateness in latenesses() {
        let sim = sim(lateness, SimTopology::OneQueue);
        assert_eq!(stream(&sim, false, false, true), RIGHT);
        assert_eq!(sim.violations(), []);
    }
}

#[test]
fn staging_that_is_written_too_early_is_copied_as_it_is_then() {
    for topology in TOPOLOGIES {
        let late = sim(Lateness::Copies, topology);
        let mut staged = staging(&late, &[1; 16]);
        let (first, copied) = upload(&late, &staged, region(&late, 16));
        staged.host_mut().fill(2);
        let (second, also) = upload(&late, &staged, region(&late, 16));
        late.order(Queue::Compute, copied).unwrap();
        late.order(Queue::Compute, also).unwrap();
        assert_eq!(download(&late, &first), [2; 16]);
        assert_eq!(download(&late, &second), [2; 16]);
        assert!(matches!(late.violations()[..], [Violation::StagingReused { upload: 1, .. }]));
    }
    for lateness in latenesses() {
        let sim = sim(lateness, SEPARATE);
        stream(&sim, true, true, false);
        let found = sim.violations();
        assert!(found.iter().any(|v| matches!(v, Violation::StagingReused { .. })), "{sim:?}: {found:?}");
    }
}

#[test]
fn the_same_staged_bytes_may_be_copied_twice() {
    let sim = sim(Lateness::Copies, SEPARATE);
    let mut staged = staging(&sim, &[1; 16]);
    let (first, _) = upload(&sim, &staged, region(&sim, 16));
    let (second, copied) = upload(&sim, &staged, region(&sim, 16));
    sim.wait(copied).unwrap();
    staged.host_mut().fill(2);
    let (third, copied) = upload(&sim, &staged, region(&sim, 16));
    sim.order(Queue::Compute, copied).unwrap();
    assert_eq!([&first, &second, &third].map(|r| download(&sim, r)[0]), [1, 1, 2]);
    assert_eq!(sim.violations(), []);
}

#[test]
fn a_slot_given_back_while_a_kernel_reads_it_is_used_after_it_was_freed() {
    for lateness in latenesses() {
        let sim = sim(lateness, SEPARATE);
        let ring = ring(&sim, 64);
        let (slot, copied) = upload(&sim, &staging(&sim, &[1; 64]), ring.alloc(64, 1).unwrap());
        sim.order(Queue::Compute, copied).unwrap();
        let mut output = region(&sim, 64);
        copy(&sim, &slot, &mut output);
        // Not retired: whoever gets the slot next is told of the copy and not of the kernel.
        drop(slot);
        let slot = ring.alloc(64, 1).unwrap();
        slot.after().iter().for_each(|t| sim.order(Queue::Copy, *t).unwrap());
        let (_slot, _) = upload(&sim, &staging(&sim, &[2; 64]), slot);
        let got = download(&sim, &output);
        match lateness {
            Lateness::Kernels => assert_eq!(got, [2; 64]),
            Lateness::Nothing | Lateness::Copies => assert_eq!(got, [1; 64]),
            _ => {}
        }
        assert!(matches!(sim.violations()[..], [Violation::Race { .. }]), "{sim:?}");
    }
}

#[test]
fn a_buffer_is_freed_behind_the_operations_that_use_it() {
    for lateness in latenesses() {
        let sim = sim(lateness, SEPARATE);
        let (from, copied) = upload(&sim, &staging(&sim, &[7; 64]), region(&sim, 64));
        sim.order(Queue::Compute, copied).unwrap();
        let mut to = region(&sim, 64);
        copy(&sim, &from, &mut to);
        drop(from);
        assert_eq!(sim.usage().buffers, 1);
        assert_eq!(download(&sim, &to), [7; 64]);
        assert_eq!(sim.violations(), []);
    }
}

#[test]
fn what_the_host_knows_to_be_done_is_ordered() {
    for lateness in latenesses() {
        let sim = sim(lateness, SEPARATE);
        let (from, copied) = upload(&sim, &staging(&sim, &[3; 8]), region(&sim, 8));
        // It may say no, but not for ever.
        let asked = (1..10).find(|_| sim.is_done(copied).unwrap());
        assert!(asked.is_some());
        assert_eq!(download(&sim, &from), [3; 8]);
        assert_eq!(sim.violations(), []);
    }
}

#[test]
fn tickets_and_memory_of_another_device_are_refused() {
    let (a, b) = (sim(Lateness::Nothing, SEPARATE), sim(Lateness::Nothing, SEPARATE));
    let (on_a, ticket) = upload(&a, &staging(&a, &[1; 8]), region(&a, 8));
    for result in [b.wait(ticket), b.order(Queue::Copy, ticket), b.is_done(ticket).map(drop)] {
        assert!(result.unwrap_err().to_string().contains("belongs to another device"));
    }
    let unissued = vram_device::Ticket { queue: Queue::Copy, value: ticket.value + 1 };
    assert!(a.wait(unissued).is_err());
    assert!(b.download(&on_a, 0, &mut [0; 8]).is_err());
    let mut part = region(&b, 8).into_parts(&[]).unwrap().remove(0);
    assert!(b.upload(&staging(&a, &[1; 8]), 0..8, &mut part, 0).is_err());
    let mut part = on_a.into_parts(&[]).unwrap().remove(0);
    assert!(b.upload(&staging(&b, &[1; 8]), 0..8, &mut part, 0).is_err());
}
