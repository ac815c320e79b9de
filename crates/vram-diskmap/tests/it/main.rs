//! Tests of the crate as its users see it.

#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(clippy::single_range_in_vec_init)] // one extent, one range

mod bad;
mod batches;
mod cases;
#[cfg(target_os = "linux")]
mod cold;
mod conversion;
mod conversion_rules;
#[cfg(feature = "toml")]
mod conversion_toml;
mod counting;
mod dependencies;
mod extracting;
mod faults;
mod foreign;
mod gguf;
mod helpers;
mod hostile;
mod naive;
mod oracle;
mod reading;
mod real;
mod scaled;
mod sets;
mod sharded;
mod storage;
mod torch;
mod weights_only;
mod writing;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;
