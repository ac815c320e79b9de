//! Casts between dtypes over byte slices, as PyTorch's `.to(dtype)` rounds.
//!
//! The floating-point types `F64`, `F32`, `F16`, `BF16` and the five fp8 types cast into one another; every other dtype
//! casts into itself only, which copies. Elements are little-endian, as files keep them, and neither slice need be
//! aligned to its elements.
//!
//! # Rounding
//! To nearest, ties to even, subnormals included. Every pair rounds as if through `f32`, `F64` into `F16` too: PyTorch's own
//! narrowing begins with `static_cast<float>`, and so rounds twice. Beyond the largest finite value:
//!
//! | to | overflow | infinity | NaN |
//! |---|---|---|---|
//! | `F32`, `F16`, `BF16`, `F8_E5M2` | infinity | infinity | NaN of the same sign |
//! | `F8_E4M3` | ±448 | ±448 | NaN of the same sign |
//! | `F8_E4M3FNUZ`, `F8_E5M2FNUZ` | NaN | NaN | NaN (there is one, and no negative zero) |
//! | `F8_E8M0` | NaN | NaN | NaN; the sign is dropped |
//!
//! NaNs stay NaNs; their payload may differ from PyTorch's, and is the same on every [`Isa`], so that a cast gives the
//! same bits on every machine and for every number of threads.
//!
//! ```
//! use vram_types::DType;
//! use vram_types::cast::{bf16_to_f32, cast};
//!
//! let src = 3.1415927f32.to_le_bytes();
//! let mut dst = [0; 2];
//! cast(&src, DType::F32, &mut dst, DType::BF16)?;
//! assert_eq!(bf16_to_f32(u16::from_le_bytes(dst)), 3.140625);
//! # Ok::<(), vram_types::TypeError>(())
//! ```

mod kernel;
mod pieces;
mod scalar;
mod whole;

pub use kernel::Isa;
pub use pieces::cast_pieces;
pub use scalar::{
    bf16_to_f32, f8_e4m3_to_bf16, f8_e4m3_to_f16, f8_e4m3_to_f32, f8_e4m3fnuz_to_f32, f8_e5m2_to_bf16,
    f8_e5m2_to_f16, f8_e5m2_to_f32, f8_e5m2fnuz_to_f32, f8_e8m0_to_f32, f16_to_f32, f32_to_bf16,
    f32_to_f8_e4m3, f32_to_f8_e4m3fnuz, f32_to_f8_e5m2, f32_to_f8_e5m2fnuz, f32_to_f8_e8m0, f32_to_f16,
};
pub use whole::{can_cast, cast, cast_serial, cast_serial_on};
