//! Blocks that choose runs of numbers from a grid, and blocks of three values.
//!
//! As in `decode`, the order of the arithmetic is that of ggml and of the `gguf` package.

use super::fields::{half, word};
use super::grids;

/// The values of the grids of two bits.
const IQ2_VALUES: [u8; 4] = [0x08, 0x19, 0x2b, 0];
const IQ3_XXS_VALUES: [u8; 8] = [0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3e];
const IQ3_S_VALUES: [u8; 8] = [0x01, 0x03, 0x05, 0x07, 0x09, 0x0b, 0x0d, 0x0f];
/// What `IQ1` blocks shift a run by, up or down.
const IQ1_DELTA: f32 = 0.125;

pub(super) fn iq2_xxs(block: &[u8], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let at = 2 + group * 8;
        let (chosen, packed) = (&block[at..at + 4], word(block, at + 4));
        let scale = d * (0.5 + (packed >> 28) as f32) * 0.25;
        for (i, run) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let entry = grids::IQ2_XXS[usize::from(chosen[i])];
            two_bits(entry, scale, even_signs(packed >> (7 * i)), run);
        }
    }
}

pub(super) fn iq2_xs(block: &[u8], out: &mut [f32; 256]) {
    let (d, scales) = (half(block, 0), &block[66..74]);
    for (i, run) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let chosen = u16::from_le_bytes([block[2 + 2 * i], block[3 + 2 * i]]);
        let scale = d * (0.5 + f32::from(nibble(scales, i / 2))) * 0.25;
        let entry = grids::IQ2_XS[usize::from(chosen & 511)];
        two_bits(entry, scale, even_signs(u32::from(chosen >> 9)), run);
    }
}

pub(super) fn iq2_s(block: &[u8], out: &mut [f32; 256]) {
    let (d, low, signs, high, scales) =
        (half(block, 0), &block[2..34], &block[34..66], &block[66..74], &block[74..82]);
    for (i, run) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let two = u16::from(high[i / 4] >> (i % 4 * 2) & 3);
        let scale = d * (0.5 + f32::from(nibble(scales, i / 2))) * 0.25;
        let entry = grids::IQ2_S[usize::from(u16::from(low[i]) | two << 8)];
        two_bits(entry, scale, signs[i], run);
    }
}

pub(super) fn iq3_xxs(block: &[u8], out: &mut [f32; 256]) {
    let d = half(block, 0);
    for (i, run) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let packed = word(block, 66 + i / 4 * 4);
        let scale = d * (0.5 + (packed >> 28) as f32) * 0.5;
        let entries = [0, 1].map(|half| grids::IQ3_XXS[usize::from(block[2 + 2 * i + half])]);
        four_bits(entries, &IQ3_XXS_VALUES, scale, even_signs(packed >> (i % 4 * 7)), run);
    }
}

pub(super) fn iq3_s(block: &[u8], out: &mut [f32; 256]) {
    let (d, low, high, signs, scales) =
        (half(block, 0), &block[2..66], &block[66..74], &block[74..106], &block[106..110]);
    for (i, run) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * f32::from(1 + 2 * nibble(scales, i / 4));
        let entries = [2 * i, 2 * i + 1].map(|at| {
            let one = u16::from(high[at / 8] >> (at % 8) & 1);
            grids::IQ3_S[usize::from(u16::from(low[at]) | one << 8)]
        });
        four_bits(entries, &IQ3_S_VALUES, scale, signs[i], run);
    }
}

pub(super) fn iq1_s(block: &[u8], out: &mut [f32; 256]) {
    let (d, low) = (half(block, 0), &block[2..34]);
    for (i, run) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let at = 34 + i / 4 * 2;
        let high = u16::from_le_bytes([block[at], block[at + 1]]);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        let delta = if high & 0x8000 == 0 { IQ1_DELTA } else { -IQ1_DELTA };
        let three = high >> (i % 4 * 3) & 7;
        shifted(grids::IQ1[usize::from(u16::from(low[i]) | three << 8)], scale, delta, run);
    }
}

pub(super) fn iq1_m(block: &[u8], out: &mut [f32; 256]) {
    let (low, high) = (&block[..32], &block[32..48]);
    let scales: [u16; 4] =
        std::array::from_fn(|i| u16::from_le_bytes([block[48 + 2 * i], block[49 + 2 * i]]));
    // The scale of the block is in the top four bits of each.
    let bits = scales.iter().rev().fold(0, |bits, scale| bits << 4 | scale >> 12);
    let d = crate::cast::f16_to_f32(bits);
    for (i, run) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * f32::from(2 * (scales[i / 8] >> (i / 2 % 4 * 3) & 7) + 1);
        let four = nibble(high, i);
        let delta = if four & 8 == 0 { IQ1_DELTA } else { -IQ1_DELTA };
        shifted(grids::IQ1[usize::from(u16::from(low[i]) | u16::from(four & 7) << 8)], scale, delta, run);
    }
}

pub(super) fn tq1_0(block: &[u8], out: &mut [f32; 256]) {
    /// Powers of three, by which a byte is multiplied to bring one of its digits to the top.
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let d = half(block, 52);
    let mut out = out.iter_mut();
    for (bytes, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
        for power in &POWERS[..digits] {
            for (byte, out) in bytes.iter().zip(&mut out) {
                let digit = (u16::from(byte.wrapping_mul(*power)) * 3) >> 8;
                *out = d * (f32::from(digit) - 1.0);
            }
        }
    }
}

pub(super) fn tq2_0(block: &[u8], out: &mut [f32; 256]) {
    let d = half(block, 64);
    for (i, out) in out.iter_mut().enumerate() {
        let q = block[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        *out = d * (f32::from(q) - 1.0);
    }
}

/// Eight numbers of a grid of two bits, times the scale, with these signs.
fn two_bits(entry: u16, scale: f32, signs: u8, run: &mut [f32; 8]) {
    for (i, out) in run.iter_mut().enumerate() {
        let value = scale * f32::from(IQ2_VALUES[usize::from(entry >> (2 * i) & 3)]);
        *out = value * sign(signs, i);
    }
}

/// Eight numbers of two entries of a grid of four bits.
fn four_bits(entries: [u16; 2], values: &[u8; 8], scale: f32, signs: u8, run: &mut [f32; 8]) {
    for (i, out) in run.iter_mut().enumerate() {
        let value = scale * f32::from(values[usize::from(entries[i / 4] >> (4 * (i % 4)) & 7)]);
        *out = value * sign(signs, i);
    }
}

/// Eight numbers of -1, 0 and 1, shifted.
fn shifted(entry: u16, scale: f32, delta: f32, run: &mut [f32; 8]) {
    for (i, out) in run.iter_mut().enumerate() {
        *out = scale * (f32::from(entry >> (2 * i) & 3) - 1.0 + delta);
    }
}

/// Seven signs, and an eighth that makes the number of them even.
fn even_signs(bits: u32) -> u8 {
    let seven = (bits & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

fn sign(signs: u8, i: usize) -> f32 {
    if signs >> i & 1 == 0 { 1.0 } else { -1.0 }
}

fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (i % 2 * 4) & 15
}
