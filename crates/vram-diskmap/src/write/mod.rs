//! New files: one tensor after the other (`safetensors`), by several threads at once (`placed`,
//! `fill`), or copied from any source (`extract`: `beside` says what becomes of each, `copying`
//! and `decoding` make it). `partial` says what they are called before they are complete.

mod beside;
mod copying;
mod decoding;
pub(crate) mod extract;
pub(crate) mod fill;
pub(crate) mod partial;
mod placed;
mod quant_state;
pub(crate) mod safetensors;
