//! Loops over the [scalar](super::scalar) casts, compiled once per instruction set.
//!
//! The loops have no intrinsics: the scalar functions are free of branches, and the compiler makes vector code of them
//! under each set of target features.

use std::marker::PhantomData;

use super::scalar::*;
use crate::DType;

/// Instruction set that a cast runs on. A value exists only for what this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// What every machine has.
    pub const PORTABLE: Isa = Isa(Level::Portable);

    /// The widest that this machine has.
    pub fn best() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512() {
                return Isa(Level::Avx512);
            }
            if is_x86_feature_detected!("avx2") {
                return Isa(Level::Avx2);
            }
        }
        Isa::PORTABLE
    }

    /// All that this machine has, from the narrowest to the widest.
    pub fn available() -> Vec<Isa> {
        let mut all = vec![Isa::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(is_x86_feature_detected!("avx2").then_some(Isa(Level::Avx2)));
            all.extend(has_avx512().then_some(Isa(Level::Avx512)));
        }
        all
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// The dtypes that cast into one another.
pub(super) const fn is_castable(d: DType) -> bool {
    use DType::*;
    matches!(d, F64 | F32 | F16 | BF16 | F8_E4M3 | F8_E5M2 | F8_E4M3FNUZ | F8_E5M2FNUZ | F8_E8M0)
}

/// Casts as many elements as both slices hold; the caller has checked that this is all of them.
pub(super) fn run(isa: Isa, src: &[u8], from: DType, dst: &mut [u8], to: DType) {
    if from == to {
        let n = src.len().min(dst.len());
        dst[..n].copy_from_slice(&src[..n]);
    } else if let Some(direct) = direct(from, to) {
        direct(isa, src, dst);
    } else if let (Some(decode), Some(encode)) = (to_f32(from), from_f32(to)) {
        through_f32(isa, (src, from, decode), (dst, to, encode));
    } else {
        debug_assert!(false, "{from} to {to} passed the check and has no loop");
    }
}

type Loop = fn(Isa, &[u8], &mut [u8]);

/// Elements that wait as `f32` between the two loops of a rare pair; 8 KiB stay in the first cache.
const BLOCK: usize = 2048;

fn through_f32(
    isa: Isa,
    (src, from, decode): (&[u8], DType, Loop),
    (dst, to, encode): (&mut [u8], DType, Loop),
) {
    let bytes = |d: DType| BLOCK * d.layout().block_bytes as usize;
    let mut block = [0u8; BLOCK * 4];
    for (src, dst) in src.chunks(bytes(from)).zip(dst.chunks_mut(bytes(to))) {
        let f32s = &mut block[..src.len() / from.layout().block_bytes as usize * 4];
        decode(isa, src, f32s);
        encode(isa, f32s, dst);
    }
}

/// What one loop does to one element.
trait Step {
    const FROM: usize;
    const TO: usize;
    fn step(src: &[u8], dst: &mut [u8]);
}

/// Any two dtypes by way of `f32`.
struct Via<A, B>(PhantomData<(A, B)>);

impl<A: Element, B: Element> Step for Via<A, B> {
    const FROM: usize = A::BYTES;
    const TO: usize = B::BYTES;
    #[inline(always)]
    fn step(src: &[u8], dst: &mut [u8]) {
        B::store(A::load(src), dst);
    }
}

/// A dtype as `Via` sees it.
trait Element {
    const BYTES: usize;
    fn load(bytes: &[u8]) -> f32;
    fn store(value: f32, bytes: &mut [u8]);
}

macro_rules! element {
    ($name:ident, $bits:ty, $load:expr, $store:expr) => {
        struct $name;
        impl Element for $name {
            const BYTES: usize = size_of::<$bits>();
            #[inline(always)]
            fn load(bytes: &[u8]) -> f32 {
                let mut raw = [0; size_of::<$bits>()];
                raw.copy_from_slice(bytes);
                $load(<$bits>::from_le_bytes(raw))
            }
            #[inline(always)]
            fn store(value: f32, bytes: &mut [u8]) {
                let raw: $bits = $store(value);
                bytes.copy_from_slice(&raw.to_le_bytes());
            }
        }
    };
}

element!(F64, u64, |x| f64::from_bits(x) as f32, |x| f64::from(x).to_bits());
element!(F32, u32, f32::from_bits, f32::to_bits);
element!(F16, u16, f16_to_f32, f32_to_f16);
element!(Bf16, u16, bf16_to_f32, f32_to_bf16);
element!(E4m3, u8, f8_e4m3_to_f32, f32_to_f8_e4m3);
element!(E5m2, u8, f8_e5m2_to_f32, f32_to_f8_e5m2);
element!(E4m3Fnuz, u8, f8_e4m3fnuz_to_f32, f32_to_f8_e4m3fnuz);
element!(E5m2Fnuz, u8, f8_e5m2fnuz_to_f32, f32_to_f8_e5m2fnuz);
element!(E8m0, u8, f8_e8m0_to_f32, f32_to_f8_e8m0);

/// fp8 into 16 bits without the way through `f32`; same bits, half the width.
macro_rules! widen {
    ($name:ident, $convert:ident) => {
        struct $name;
        impl Step for $name {
            const FROM: usize = 1;
            const TO: usize = 2;
            #[inline(always)]
            fn step(src: &[u8], dst: &mut [u8]) {
                dst.copy_from_slice(&$convert(src[0]).to_le_bytes());
            }
        }
    };
}

widen!(E4m3ToBf16, f8_e4m3_to_bf16);
widen!(E4m3ToF16, f8_e4m3_to_f16);
widen!(E5m2ToBf16, f8_e5m2_to_bf16);
widen!(E5m2ToF16, f8_e5m2_to_f16);

/// Pairs that move checkpoints get a loop of their own.
fn direct(from: DType, to: DType) -> Option<Loop> {
    use DType as D;
    Some(match (from, to) {
        (D::F32, _) => return from_f32(to),
        (_, D::F32) => return to_f32(from),
        (D::BF16, D::F16) => pair::<Bf16, F16>,
        (D::BF16, D::F8_E4M3) => pair::<Bf16, E4m3>,
        (D::BF16, D::F8_E5M2) => pair::<Bf16, E5m2>,
        (D::F16, D::BF16) => pair::<F16, Bf16>,
        (D::F16, D::F8_E4M3) => pair::<F16, E4m3>,
        (D::F16, D::F8_E5M2) => pair::<F16, E5m2>,
        (D::F8_E4M3, D::BF16) => steps::<E4m3ToBf16>,
        (D::F8_E4M3, D::F16) => steps::<E4m3ToF16>,
        (D::F8_E5M2, D::BF16) => steps::<E5m2ToBf16>,
        (D::F8_E5M2, D::F16) => steps::<E5m2ToF16>,
        _ => return None,
    })
}

fn to_f32(from: DType) -> Option<Loop> {
    Some(match from {
        DType::F64 => pair::<F64, F32>,
        DType::F16 => pair::<F16, F32>,
        DType::BF16 => pair::<Bf16, F32>,
        DType::F8_E4M3 => pair::<E4m3, F32>,
        DType::F8_E5M2 => pair::<E5m2, F32>,
        DType::F8_E4M3FNUZ => pair::<E4m3Fnuz, F32>,
        DType::F8_E5M2FNUZ => pair::<E5m2Fnuz, F32>,
        DType::F8_E8M0 => pair::<E8m0, F32>,
        _ => return None,
    })
}

fn from_f32(to: DType) -> Option<Loop> {
    Some(match to {
        DType::F64 => pair::<F32, F64>,
        DType::F16 => pair::<F32, F16>,
        DType::BF16 => pair::<F32, Bf16>,
        DType::F8_E4M3 => pair::<F32, E4m3>,
        DType::F8_E5M2 => pair::<F32, E5m2>,
        DType::F8_E4M3FNUZ => pair::<F32, E4m3Fnuz>,
        DType::F8_E5M2FNUZ => pair::<F32, E5m2Fnuz>,
        DType::F8_E8M0 => pair::<F32, E8m0>,
        _ => return None,
    })
}

fn pair<A: Element, B: Element>(isa: Isa, src: &[u8], dst: &mut [u8]) {
    steps::<Via<A, B>>(isa, src, dst);
}

fn steps<S: Step>(isa: Isa, src: &[u8], dst: &mut [u8]) {
    match isa.0 {
        Level::Portable => elements::<S>(src, dst),
        // SAFETY: an `Isa` of this level is made only after `is_x86_feature_detected!` said yes to its features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { elements_avx2::<S>(src, dst) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { elements_avx512::<S>(src, dst) },
    }
}

#[inline(always)]
fn elements<S: Step>(src: &[u8], dst: &mut [u8]) {
    for (s, d) in src.chunks_exact(S::FROM).zip(dst.chunks_exact_mut(S::TO)) {
        S::step(s, d);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn elements_avx2<S: Step>(src: &[u8], dst: &mut [u8]) {
    elements::<S>(src, dst);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn elements_avx512<S: Step>(src: &[u8], dst: &mut [u8]) {
    elements::<S>(src, dst);
}
