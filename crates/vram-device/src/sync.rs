//! The locks of budgets and of memory: the standard ones, or with the feature `shuttle`, which is for tests alone, those
//! that let a test choose the schedule.

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{Mutex, MutexGuard};
