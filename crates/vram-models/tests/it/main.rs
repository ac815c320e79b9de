//! The models against what PyTorch computed; `golden/` says how.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bits;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod card;
mod common;
mod controlnet;
#[cfg(feature = "cuda")]
mod cuda;
mod minilm;
mod smollm2;
#[cfg(feature = "wgpu")]
mod wgpu;
