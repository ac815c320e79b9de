//! The functions of the driver, by topic, with the names and arguments of `cuda.h`.
//!
//! Every call goes through [`state::call`](crate::state::call). Status codes are numbers, 0 for
//! success.

#![allow(non_snake_case, reason = "the names are NVIDIA's")]

mod copy;
mod device;
mod event;
mod memory;
mod module;
mod stream;

pub(crate) use memory::release;
