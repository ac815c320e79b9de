//! The CPU as a device.
pub mod kernels;
