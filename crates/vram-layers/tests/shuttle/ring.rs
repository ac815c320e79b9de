//! Threads that share a ring.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;
use vram_device::{Arena, Budget, Lifetime, Queue, Region, Ticket, Tier};

use crate::common::cpu;
use crate::explore;

const BYTES: u64 = 64;

/// For each byte of the ring, the last ticket that it was retired with.
#[derive(Clone)]
struct Naive(Arc<Mutex<Vec<Option<u64>>>>);

impl Naive {
    /// Whoever has the region is told to come after all work on it.
    fn check_after(&self, region: &Region) {
        let last = self.0.lock().unwrap();
        let told = region.after().iter().map(|ticket| ticket.value).max();
        for at in region.offset()..region.offset() + region.bytes() {
            let needed = last[at as usize];
            assert!(needed <= told, "byte {at} is used until {needed:?}, and its owner was told of {told:?}");
        }
    }

    /// While the region is still its owner's.
    fn retire(&self, region: &Region, value: u64) {
        let bytes = region.offset() as usize..(region.offset() + region.bytes()) as usize;
        self.0.lock().unwrap()[bytes].fill(Some(value));
    }
}

fn work(arena: &Arena, naive: &Naive, clock: &Mutex<u64>, id: u8) {
    for turn in 0..4 {
        let bytes = 8 + 8 * u64::from((id + turn) % 3);
        let Some(mut region) = arena.alloc(bytes, 8) else { continue };
        naive.check_after(&region);
        let mine = 16 * id + turn;
        region.host_mut().unwrap().fill(mine);
        // Tickets grow in the order in which work is issued.
        let value = {
            let mut clock = clock.lock().unwrap();
            *clock += 1;
            *clock
        };
        assert!(region.host().unwrap().iter().all(|&byte| byte == mine), "somebody else wrote here");
        if (id + turn).is_multiple_of(2) {
            drop(region);
        } else {
            naive.retire(&region, value);
            region.retire(Ticket { queue: Queue::Compute, value });
        }
    }
}

fn ring() {
    let budget = Budget::new(Tier::Device, BYTES);
    let room = budget.reserve(Lifetime::Weights, BYTES).unwrap();
    let arena = Arena::ring(vec![cpu(1, false).allocate(room).unwrap()]);
    let naive = Naive(Arc::new(Mutex::new(vec![None; BYTES as usize])));
    let clock = Arc::new(Mutex::new(0));
    let threads: Vec<_> = (1..=3)
        .map(|id| {
            let (arena, naive, clock) = (arena.clone(), naive.clone(), Arc::clone(&clock));
            thread::spawn(move || work(&arena, &naive, &clock, id))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let all = arena.alloc(BYTES, 8).expect("all was given back");
    naive.check_after(&all);
    drop((all, arena));
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_ring_that_threads_share_hands_out_each_byte_once() {
    explore(1000, ring);
}
