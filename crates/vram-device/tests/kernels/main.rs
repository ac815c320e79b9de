//! The CPU kernels against sums in f64, and the promise that shapes, splits and threads do not show in the bits.

#![allow(clippy::unwrap_used)] // a test that fails to call is a test that fails

mod attention;
mod blocks;
mod linear;
mod rows;
mod scaled;
#[allow(unreachable_pub)]
mod util;
