//! Quantised blocks, decoded into `F32`.
//!
//! The layouts and the order of the arithmetic are those of ggml's own `ggml-quants.c` and of the
//! `gguf` Python package: the results are the same to the bit.

use super::block::BlockType;
use super::fields::{half, word};
use super::lookup;
use crate::TypeError;

/// The values that `IQ4_NL` and `IQ4_XS` choose from.
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// The values of e2m1, doubled.
const E2M1_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl BlockType {
    /// Decodes whole blocks into little-endian `F32`, on the calling thread.
    ///
    /// # Errors
    /// [`TypeError::Length`] if `blocks` ends within a block, or `dst` has not exactly room for
    /// what they hold.
    pub fn decode(self, blocks: &[u8], dst: &mut [u8]) -> Result<(), TypeError> {
        self.check(blocks, dst.len() as u64, 4)?;
        let out = dst.chunks_exact_mut(self.block_elements() as usize * 4);
        for (block, out) in blocks.chunks_exact(self.block_bytes() as usize).zip(out) {
            let mut values = [0f32; 256];
            self.decode_block(block, &mut values);
            for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
        }
        Ok(())
    }

    /// The same into numbers.
    ///
    /// # Errors
    /// As [`decode`](BlockType::decode).
    pub fn decode_f32(self, blocks: &[u8], dst: &mut [f32]) -> Result<(), TypeError> {
        self.check(blocks, dst.len() as u64, 1)?;
        let elements = self.block_elements() as usize;
        let out = dst.chunks_exact_mut(elements);
        for (block, out) in blocks.chunks_exact(self.block_bytes() as usize).zip(out) {
            let mut values = [0f32; 256];
            self.decode_block(block, &mut values);
            out.copy_from_slice(&values[..elements]);
        }
        Ok(())
    }

    /// Whether there are whole blocks and room for their elements, of which each takes `unit`.
    fn check(self, blocks: &[u8], room: u64, unit: u64) -> Result<(), TypeError> {
        let (stored, bytes) = (blocks.len() as u64, self.block_bytes());
        if !stored.is_multiple_of(bytes) {
            let what = "quantised data, which ends within a block,";
            return Err(TypeError::Length { what, expected: stored.next_multiple_of(bytes), actual: stored });
        }
        let expected = stored / bytes * self.block_elements() * unit;
        if room != expected {
            let what = "the destination of decoded blocks";
            return Err(TypeError::Length { what, expected, actual: room });
        }
        Ok(())
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
            BlockType::IQ2_XXS => lookup::iq2_xxs(block, out),
            BlockType::IQ2_XS => lookup::iq2_xs(block, out),
            BlockType::IQ2_S => lookup::iq2_s(block, out),
            BlockType::IQ3_XXS => lookup::iq3_xxs(block, out),
            BlockType::IQ3_S => lookup::iq3_s(block, out),
            BlockType::IQ1_S => lookup::iq1_s(block, out),
            BlockType::IQ1_M => lookup::iq1_m(block, out),
            BlockType::TQ1_0 => lookup::tq1_0(block, out),
            BlockType::TQ2_0 => lookup::tq2_0(block, out),
            BlockType::NVFP4 => nvfp4(block, out),
        }
    }
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

fn nvfp4(block: &[u8], out: &mut [f32; 256]) {
    for (part, scale) in block[..4].iter().enumerate() {
        let (d, at) = (half_e4m3(*scale), 16 * part);
        let quants = &block[4 + 8 * part..12 + 8 * part];
        nibbles(quants, |i, q| out[at + i] = d * f32::from(E2M1_VALUES[usize::from(q)]));
    }
}

/// Half of the number that a byte of e4m3 is, without its sign; nothing for the one NaN.
fn half_e4m3(bits: u8) -> f32 {
    let (exponent, fraction) = (bits >> 3 & 15, f32::from(bits & 7));
    match (bits, exponent) {
        (0x7F, _) => 0.0,
        (_, 0) => fraction / 1024.0,
        _ => (1.0 + fraction / 8.0) * f32::from_bits((u32::from(exponent) + 119) << 23),
    }
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
    fn blocks_decode_to_their_own_elements_and_no_more() {
        for block in BlockType::ALL {
            let (bytes, elements) = (block.block_bytes() as usize, block.block_elements() as usize);
            let mut dst = vec![7; elements * 8];
            block.decode(&vec![0; 2 * bytes], &mut dst).unwrap();
            assert!(dst.as_chunks::<4>().0.iter().all(|&b| f32::from_le_bytes(b) == 0.0), "{block}");
            for (stored, room) in
                [(bytes + 1, elements * 4), (bytes, elements * 4 + 4), (bytes, elements * 4 - 4)]
            {
                let error = block.decode(&vec![0; stored], &mut vec![7; room]).unwrap_err();
                assert!(matches!(error, TypeError::Length { .. }), "{block}");
            }
        }
    }

    #[test]
    fn numbers_are_those_of_the_bytes() {
        for block in BlockType::ALL {
            let stored: Vec<u8> =
                (0..3 * block.block_bytes()).map(|i| (i * 37 + i / 11) as u8 & 0x3B).collect();
            let mut bytes = vec![0; 3 * block.block_elements() as usize * 4];
            let mut numbers = vec![0f32; 3 * block.block_elements() as usize];
            block.decode(&stored, &mut bytes).unwrap();
            block.decode_f32(&stored, &mut numbers).unwrap();
            let same = |(bytes, number): (&[u8; 4], &f32)| *bytes == number.to_le_bytes();
            assert!(bytes.as_chunks::<4>().0.iter().zip(&numbers).all(same), "{block}");
            assert!(numbers.iter().any(|n| *n != 0.0), "{block}");
        }
    }
}
