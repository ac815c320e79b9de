//! Quantised blocks of GGUF files, decoded into `F32`.
//!
//! The layouts and the order of the arithmetic are those of ggml's own `ggml-quants.c` and of the `gguf` Python package: the
//! results are the same to the bit.

use vram_types::cast::f16_to_f32;

/// A quantised element type of GGUF that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(non_camel_case_types)] // the format's own spelling
pub enum BlockType {
    /// 4 bits, a scale per 32.
    Q4_0,
    /// 4 bits, a scale and a minimum per 32.
    Q4_1,
    /// 5 bits, a scale per 32.
    Q5_0,
    /// 5 bits, a scale and a minimum per 32.
    Q5_1,
    /// 8 bits, a scale per 32.
    Q8_0,
    /// 2 bits, scales and minima of 4 bits per 16.
    Q2_K,
    /// 3 bits, scales of 6 bits per 16.
    Q3_K,
    /// 4 bits, scales and minima of 6 bits per 32.
    Q4_K,
    /// 5 bits, scales and minima of 6 bits per 32.
    Q5_K,
    /// 6 bits, scales of 8 bits per 16.
    Q6_K,
    /// 4 bits into a table of 16 values, a scale per 32.
    IQ4_NL,
    /// The same with scales of 6 bits per 32.
    IQ4_XS,
    /// 4-bit floats (e2m1), a power of two per 32 (OCP MX).
    MXFP4,
}

/// The values that `IQ4_NL` and `IQ4_XS` choose from.
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// The values of e2m1, doubled.
const E2M1_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl BlockType {
    /// Every block type.
    pub const ALL: [BlockType; 13] = [
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q2_K,
        BlockType::Q3_K,
        BlockType::Q4_K,
        BlockType::Q5_K,
        BlockType::Q6_K,
        BlockType::IQ4_NL,
        BlockType::IQ4_XS,
        BlockType::MXFP4,
    ];

    /// The name that GGUF's own tools use.
    pub const fn name(self) -> &'static str {
        match self {
            BlockType::Q4_0 => "Q4_0",
            BlockType::Q4_1 => "Q4_1",
            BlockType::Q5_0 => "Q5_0",
            BlockType::Q5_1 => "Q5_1",
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q2_K => "Q2_K",
            BlockType::Q3_K => "Q3_K",
            BlockType::Q4_K => "Q4_K",
            BlockType::Q5_K => "Q5_K",
            BlockType::Q6_K => "Q6_K",
            BlockType::IQ4_NL => "IQ4_NL",
            BlockType::IQ4_XS => "IQ4_XS",
            BlockType::MXFP4 => "MXFP4",
        }
    }

    /// Elements of one block.
    pub const fn elements(self) -> u64 {
        match self {
            BlockType::Q4_0
            | BlockType::Q4_1
            | BlockType::Q5_0
            | BlockType::Q5_1
            | BlockType::Q8_0
            | BlockType::IQ4_NL
            | BlockType::MXFP4 => 32,
            _ => 256,
        }
    }

    /// Bytes of one block.
    pub const fn bytes(self) -> u64 {
        match self {
            BlockType::Q4_0 | BlockType::IQ4_NL => 18,
            BlockType::Q4_1 => 20,
            BlockType::Q5_0 => 22,
            BlockType::Q5_1 => 24,
            BlockType::Q8_0 => 34,
            BlockType::MXFP4 => 17,
            BlockType::Q2_K => 84,
            BlockType::Q3_K => 110,
            BlockType::Q4_K => 144,
            BlockType::Q5_K => 176,
            BlockType::Q6_K => 210,
            BlockType::IQ4_XS => 136,
        }
    }

    /// Decodes whole blocks into little-endian `F32`; blocks beyond the shorter of the two are left alone.
    pub(crate) fn decode(self, blocks: &[u8], dst: &mut [u8]) {
        let out = dst.chunks_exact_mut(self.elements() as usize * 4);
        for (block, out) in blocks.chunks_exact(self.bytes() as usize).zip(out) {
            let mut values = [0f32; 256];
            self.decode_block(block, &mut values);
            for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
        }
    }

    fn decode_block(self, block: &[u8], out: &mut [f32; 256]) {
        match self {
            BlockType::Q4_0 => nibbles(&block[2..18], |i, q| out[i] = half(block, 0) * (f32::from(q) - 8.0)),
            BlockType::Q4_1 => {
                let (d, m) = (half(block, 0), half(block, 2));
                nibbles(&block[4..20], |i, q| out[i] = d * f32::from(q) + m);
            }
            BlockType::Q5_0 => {
                let (d, high) = (half(block, 0), word(block, 2));
                nibbles(&block[6..22], |i, q| out[i] = d * (f32::from(fifth(q, high, i)) - 16.0));
            }
            BlockType::Q5_1 => {
                let (d, m, high) = (half(block, 0), half(block, 2), word(block, 4));
                nibbles(&block[8..24], |i, q| out[i] = d * f32::from(fifth(q, high, i)) + m);
            }
            BlockType::Q8_0 => {
                let d = half(block, 0);
                for (out, &q) in out.iter_mut().zip(&block[2..34]) {
                    *out = f32::from(q as i8) * d;
                }
            }
            BlockType::IQ4_NL => {
                let d = half(block, 0);
                nibbles(&block[2..18], |i, q| out[i] = d * f32::from(IQ4_VALUES[usize::from(q)]));
            }
            BlockType::MXFP4 => {
                let d = half_power(block[0]);
                nibbles(&block[1..17], |i, q| out[i] = d * f32::from(E2M1_VALUES[usize::from(q)]));
            }
            BlockType::Q2_K => q2_k(block, out),
            BlockType::Q3_K => q3_k(block, out),
            BlockType::Q4_K => q4_or_5_k(block, None, &block[16..144], out),
            BlockType::Q5_K => q4_or_5_k(block, Some(&block[16..48]), &block[48..176], out),
            BlockType::Q6_K => q6_k(block, out),
            BlockType::IQ4_XS => iq4_xs(block, out),
        }
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The low halves of all bytes, then the high ones.
fn nibbles(bytes: &[u8], mut each: impl FnMut(usize, u8)) {
    for (i, &byte) in bytes.iter().enumerate() {
        each(i, byte & 15);
        each(i + bytes.len(), byte >> 4);
    }
}

/// Four bits with a fifth on top.
fn fifth(low: u8, high: u32, i: usize) -> u8 {
    low | ((high >> i & 1) as u8) << 4
}

/// Half of the power of two that a byte of e8m0 is.
fn half_power(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    })
}

fn q2_k(block: &[u8], out: &mut [f32; 256]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, min) = (half(block, 80), half(block, 82));
    for (i, out) in out.iter_mut().enumerate() {
        let q = quants[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        let scale = scales[i / 16];
        *out = d * f32::from(scale & 15) * f32::from(q) - min * f32::from(scale >> 4);
    }
}

fn q3_k(block: &[u8], out: &mut [f32; 256]) {
    let (mask, quants, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    let scale = |i: usize| {
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        d * (f32::from(low | high << 4) - 32.0)
    };
    let scales: [f32; 16] = std::array::from_fn(scale);
    for (i, out) in out.iter_mut().enumerate() {
        let low = quants[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        // A bit that is set takes nothing away.
        let taken = if mask[i % 32] >> (i / 32) & 1 == 1 { 0.0 } else { 4.0 };
        *out = scales[i / 16] * (f32::from(low) - taken);
    }
}

fn q4_or_5_k(block: &[u8], high: Option<&[u8]>, quants: &[u8], out: &mut [f32; 256]) {
    let (d, min, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    let scale_min = |j: usize| match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => (packed[j + 4] & 15 | packed[j - 4] >> 2 & 0x30, packed[j + 4] >> 4 | packed[j] >> 2 & 0x30),
    };
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, least) = scale_min(j);
        let (scale, least) = (d * f32::from(scale), min * f32::from(least));
        for (i, out) in out.iter_mut().enumerate() {
            let low = quants[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
            let fifth = high.map_or(0, |high| (high[i] >> j & 1) << 4);
            *out = scale * f32::from(low | fifth) - least;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        let (part, within) = (i / 128, i % 128);
        let four = low[part * 64 + within % 64] >> (within / 64 * 4) & 15;
        let two = high[part * 32 + within % 32] >> (within / 32 * 2) & 3;
        *out = d * f32::from(scales[i / 16] as i8) * (f32::from(four | two << 4) - 32.0);
    }
}

fn iq4_xs(block: &[u8], out: &mut [f32; 256]) {
    let (d, high, low, quants) =
        (half(block, 0), u16::from_le_bytes([block[2], block[3]]), &block[4..8], &block[8..136]);
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let four = low[j / 2] >> (j % 2 * 4) & 15;
        let two = (high >> (2 * j) & 3) as u8;
        let scale = d * (f32::from(four | two << 4) - 32.0);
        nibbles(&quants[j * 16..j * 16 + 16], |i, q| out[i] = scale * f32::from(IQ4_VALUES[usize::from(q)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_decodes_to_its_own_elements_and_no_more() {
        for block in BlockType::ALL {
            let (bytes, elements) = (block.bytes() as usize, block.elements() as usize);
            let mut dst = vec![7; elements * 8 + 3];
            block.decode(&vec![0; bytes + 1], &mut dst);
            assert!(dst[elements * 4..].iter().all(|&b| b == 7), "{block:?}");
            assert!(dst[..elements * 4].as_chunks::<4>().0.iter().all(|&b| f32::from_le_bytes(b) == 0.0));
        }
    }
}
