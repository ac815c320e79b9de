//! What passes do, told as it happens and reported afterwards.

pub(crate) mod event;
pub(crate) mod report;
pub(crate) mod trace;
