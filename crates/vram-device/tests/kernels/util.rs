//! Random numbers, dtypes by hand, and comparisons.

use rayon::ThreadPool;
use vram_device::cpu::Isa;
use vram_types::DType;
use vram_types::DType::{BF16, F16, F32};

pub const ACTS: [DType; 3] = [F32, BF16, F16];
pub const WEIGHTS: [DType; 5] = [F32, BF16, F16, DType::F8_E4M3, DType::F8_E5M2];

pub fn isas() -> Vec<Isa> {
    let isas: Vec<Isa> = Isa::available().collect();
    assert!(!isas.is_empty());
    isas
}

pub fn pool(threads: usize) -> ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    /// Near a normal distribution of deviation 1.
    pub fn value(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            sum += (self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        }
        sum * 1.7
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

pub fn size(dtype: DType) -> usize {
    dtype.bits() as usize / 8
}

/// Rounds to nearest, ties to even, with `mantissa` stored bits and a smallest exponent, in exact f64 steps.
fn round_to(v: f32, mantissa: i32, smallest: i32, largest: f64) -> f64 {
    let v = f64::from(v);
    if v == 0.0 || !v.is_finite() {
        return v;
    }
    let exponent = ((v.abs().to_bits() >> 52) as i32 - 1023).max(smallest);
    let unit = 2f64.powi(exponent - mantissa);
    let rounded = (v / unit).round_ties_even() * unit;
    if rounded.abs() > largest { f64::INFINITY.copysign(v) } else { rounded }
}

/// The value as `dtype` holds it.
pub fn quantise(v: f32, dtype: DType) -> f32 {
    let rounded = match dtype {
        DType::F32 => f64::from(v),
        DType::BF16 => round_to(v, 7, -126, f64::from(f32::MAX)),
        DType::F16 => round_to(v, 10, -14, 65504.0),
        DType::F8_E4M3 => round_to(v.clamp(-448.0, 448.0), 3, -6, 448.0),
        DType::F8_E5M2 => round_to(v, 2, -14, 57344.0),
        _ => unreachable!(),
    };
    rounded as f32
}

/// Bytes of values that `dtype` holds exactly.
pub fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * size(dtype));
    for &v in values {
        let (mantissa, bias, low, width) = match dtype {
            DType::F32 => {
                bytes.extend(v.to_le_bytes());
                continue;
            }
            DType::BF16 => {
                bytes.extend(((v.to_bits() >> 16) as u16).to_le_bytes());
                continue;
            }
            DType::F16 => (10, 15, -14, 2),
            DType::F8_E4M3 => (3, 7, -6, 1),
            DType::F8_E5M2 => (2, 15, -14, 1),
            _ => unreachable!(),
        };
        let exponent = ((v.to_bits() >> 23 & 0xff) as i32 - 127).max(low);
        let scaled = (f64::from(v.abs()) * 2f64.powi(mantissa - exponent)) as i32;
        let bits = scaled + ((exponent + bias - 1) << mantissa);
        let sign = i32::from(v.is_sign_negative()) << (8 * width - 1);
        bytes.extend(&(bits | sign).to_le_bytes()[..width as usize]);
    }
    bytes
}

pub fn decode(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let half = |c: &[u8]| u16::from_le_bytes([c[0], c[1]]);
    match dtype {
        DType::F32 => bytes.chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect(),
        DType::BF16 => bytes.chunks(2).map(|c| f32::from_bits(u32::from(half(c)) << 16)).collect(),
        DType::F16 => bytes
            .chunks(2)
            .map(|c| {
                let (h, sign) = (half(c) & 0x7fff, if half(c) >> 15 == 1 { -1.0 } else { 1.0 });
                let (exponent, mantissa) = (i32::from(h >> 10), f32::from(h & 0x3ff));
                sign * match exponent {
                    0 => mantissa * 2f32.powi(-24),
                    31 if mantissa == 0.0 => f32::INFINITY,
                    31 => f32::NAN,
                    e => (mantissa + 1024.0) * 2f32.powi(e - 25),
                }
            })
            .collect(),
        _ => unreachable!(),
    }
}

/// Random values that `dtype` holds exactly, and their bytes.
pub fn tensor(random: &mut Random, n: usize, dtype: DType) -> (Vec<f32>, Vec<u8>) {
    let values: Vec<f32> = random.values(n).into_iter().map(|v| quantise(v, dtype)).collect();
    let bytes = encode(&values, dtype);
    (values, bytes)
}

/// The same bytes at an address that is odd.
pub struct Odd(Vec<u8>, usize);

impl Odd {
    pub fn new(bytes: &[u8]) -> Odd {
        let mut v = Vec::with_capacity(bytes.len() + 2);
        let skip = 1 - (v.as_ptr() as usize & 1);
        v.resize(skip, 0);
        v.extend(bytes);
        Odd(v, skip)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0[self.1..]
    }
}

/// How far a result in `act` may be from the truth, relative to the size of what was added up.
pub fn tolerance(act: DType) -> f64 {
    match act {
        DType::F32 => 1e-5,
        DType::BF16 => 1e-2,
        _ => 2e-3,
    }
}

/// Every `actual` is within `tolerance * size` of what is expected, the size being given with it (at least 1e-4: below that
/// F16 has few bits).
#[track_caller]
pub fn near(what: &str, actual: &[f32], expected: &[(f64, f64)], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (&a, &(e, size))) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(a) - e).abs();
        assert!(error <= tolerance * size.max(1e-4), "{what}: element {i} is {a}, not {e} (size {size})");
    }
}

pub const POISON: u8 = 0xff;
