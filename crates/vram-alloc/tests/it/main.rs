//! Integration tests of vram-alloc.

#![allow(clippy::unwrap_used)] // helpers outside of test functions

mod allocation;
mod load;
mod models;
mod modules;
mod pack;
mod parameters;
mod source;
