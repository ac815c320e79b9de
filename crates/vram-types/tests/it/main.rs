//! Integration tests of vram-types.

#![allow(clippy::unwrap_used)] // helpers outside of test functions

mod casts;
mod golden;
mod sources;
