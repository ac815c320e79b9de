//! Integration tests of vram-types.

mod casts;
mod golden;
