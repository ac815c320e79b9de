//! Which units there are, where each waits between uses, and what that costs. Pure: no clock, no locks, no
//! threads, no I/O.

pub(crate) mod check;
pub(crate) mod compose;
pub(crate) mod costs;
pub(crate) mod partition;
pub(crate) mod profile;
pub mod schedule;
