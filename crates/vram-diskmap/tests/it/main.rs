//! Tests of the crate as its users see it.

mod helpers;
mod reading;
mod sharded;
