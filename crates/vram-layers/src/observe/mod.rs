//! What passes do: events as they happen, and reports afterwards.

pub(crate) mod event;
pub(crate) mod report;
pub(crate) mod trace;
