//! The locks of budgets and memory: the standard ones, or with the test-only feature `shuttle`, ones that let
//! a test choose the schedule.

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{Mutex, MutexGuard};
