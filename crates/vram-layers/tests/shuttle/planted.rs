//! The models with something left out that keeps threads apart. What is left out of the order of copies and kernels shows on
//! a device whose work is late; `tests/mutations` has one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use vram_layers::{Guard, leave_out};

use crate::engine::{Model, fails_once, put_away};
use crate::explore;

const PLANTED: [(Guard, Model); 3] =
    [(Guard::Drain, put_away), (Guard::Claim, put_away), (Guard::FailedLoad, fails_once)];

/// Whether the model goes wrong under one of the schedules tried, on either device.
fn wrong(model: Model) -> bool {
    [false, true]
        .into_iter()
        .any(|staged| catch_unwind(AssertUnwindSafe(|| explore(200, move || model(staged)))).is_err())
}

/// One test: what is left out is left out in the whole process.
#[test]
fn what_is_left_out_is_missed() {
    for (guard, model) in PLANTED {
        assert!(!wrong(model), "with nothing left out");
        leave_out(Some(guard));
        let missed = wrong(model);
        leave_out(None);
        assert!(missed, "{guard:?} is left out, and no schedule shows it");
    }
}
