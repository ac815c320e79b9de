//! The ring and the engine's queues under schedules that the crate `shuttle` chooses: at each lock, wait, atomic and
//! start of a thread, another thread may go on. A deadlock, a lost wake-up or an assertion that fails prints the
//! schedule, which `shuttle::replay` runs again; `VRAM_SEED` chooses other schedules.
//!
//! With the feature `mutations` as well, the same models run with what keeps the engine safe left out, and have to see it.
//!
//! Run by `cargo xtask test`, or by `cargo test -p vram-layers --features shuttle --test shuttle`.

#![allow(clippy::unwrap_used)] // a test's failure is a panic
#![allow(unreachable_pub, dead_code)] // shared with the other tests

#[path = "../it/common.rs"]
mod common;
mod engine;
#[cfg(feature = "mutations")]
mod planted;
#[cfg(not(feature = "mutations"))]
mod ring;
#[path = "../it/source.rs"]
mod source;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// Places in a schedule at which the second kind of scheduler changes what it prefers.
const CHANGES: usize = 3;

/// Runs a model under so many schedules at random, and as many by priorities that change seldom.
fn explore(schedules: usize, model: impl Fn() + Copy + Send + Sync + 'static) {
    let seed: u64 = std::env::var("VRAM_SEED").ok().map_or(1, |seed| seed.parse().unwrap());
    println!("VRAM_SEED={seed}");
    // Processors have threads of their own, which no schedule chooses and no model uses.
    let _ = common::cpu(1, false);
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    Runner::new(RandomScheduler::new_from_seed(seed, schedules), config.clone()).run(model);
    Runner::new(PctScheduler::new_from_seed(seed, CHANGES, schedules), config).run(model);
}
