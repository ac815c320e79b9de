//! Leaves out, one after the other, each wait, order, reservation and check that keeps the engine safe, and shows that
//! the simulated device, the ledger or a naive engine misses it; with none left out all is well.
//!
//! Run by `cargo xtask test`, or by `cargo test -p vram-layers --features mutations --test mutations`. It has no harness:
//! a guard is left out in the whole process, where no other test may run.

#![allow(clippy::unwrap_used)] // a test's failure is a panic
#![allow(unreachable_pub, dead_code, unused_imports)] // shared with the other tests, whose harness is not here

#[path = "../it/chain.rs"]
mod chain;
#[path = "../it/common.rs"]
mod common;
mod directed;
#[path = "../it/sim_bugs.rs"]
mod sim_bugs;
#[path = "../it/sim_common.rs"]
mod sim_common;
#[path = "../it/sim_faults.rs"]
mod sim_faults;
#[path = "../it/sim_random.rs"]
mod sim_random;
#[path = "../it/source.rs"]
mod source;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::in_time;
use vram_layers::{Guard, leave_out};

/// Seeds that are tried before a guard counts as not missed.
const SEEDS: u64 = 400;

type Driver = fn(u64);

const DRIVERS: [(&str, Driver); 9] = [
    ("a late lease", directed::late_lease),
    ("two plans", directed::lease_of_another_plan),
    ("two loads", directed::load_of_another_attempt),
    ("put away", directed::put_away_while_it_reads),
    ("one room", directed::memory_of_a_failed_attempt),
    ("a failed piece", sim_bugs::failed_piece),
    ("random calls", sim_random::run),
    ("faults", sim_faults::raw_run),
    ("models", sim_faults::model_run),
];

/// What is told first when a seed goes wrong, and by which driver.
fn failure(seed: u64) -> Option<(&'static str, String)> {
    DRIVERS.into_iter().find_map(|(name, run)| {
        let case = AssertUnwindSafe(|| in_time("a guard left out", move || run(seed)));
        let payload = catch_unwind(case).err()?;
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Some((name, text.unwrap_or_default()))
    })
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut wrong = Vec::new();
    for seed in 1..=SEEDS / 4 {
        if let Some((driver, what)) = failure(seed) {
            wrong.push(format!("with no guard left out, {driver} of seed {seed}: {what}"));
        }
    }
    println!("{:<22} all is well for {} seeds", "none left out", SEEDS / 4);
    for guard in Guard::ALL {
        leave_out(Some(guard));
        let caught = (1..=SEEDS).find_map(|seed| Some((seed, failure(seed)?)));
        leave_out(None);
        match caught {
            Some((seed, (driver, what))) => {
                let what: String = what.chars().take(110).collect();
                println!(
                    "{:<22} missed by {driver} {seed}: {}",
                    format!("{guard:?}"),
                    what.replace('\n', " ")
                );
            }
            None => wrong.push(format!("{guard:?} was left out, and nothing missed it in {SEEDS} seeds")),
        }
    }
    if !wrong.is_empty() {
        wrong.iter().for_each(|w| eprintln!("{w}"));
        std::process::exit(1);
    }
}
