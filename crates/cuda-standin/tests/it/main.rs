//! The stand-in as a caller sees it: a library that is opened by path, with functions that are
//! looked up by name.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod child;
mod exit;
mod faults;
mod kernels;
mod misuse;
mod nvrtc;
mod order;
mod product;
mod standin;
mod symbols;
