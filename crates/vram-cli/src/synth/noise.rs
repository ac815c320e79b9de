//! Random bf16 weights. Every element is a function of seed, tensor and position, so any thread
//! can generate any part and the bytes are the same.

/// Elements per random number.
const LANES: u64 = 4;

/// Fills `piece` with bf16 elements of tensor number `tensor`, starting at element `first`,
/// uniform from `middle - spread` to `middle + spread`.
pub(super) fn fill(seed: u64, tensor: u64, middle: f32, spread: f32, first: u64, piece: &mut [u8]) {
    // Mixed twice, so that neighbouring seeds and tensors are unrelated.
    let key = mix(mix(seed).wrapping_add(tensor));
    // Rounding to bf16 moves a value by up to 2^-9 of itself; the factor keeps the result within
    // the spread around zero.
    let scale = spread * (1.0 - 1.0 / 256.0) / 32768.0;
    let element = |word: u64, lane: u64| {
        let bits = (word >> (16 * lane)) as u16;
        to_bf16(middle + (f32::from(bits as i16) + 0.5) * scale).to_le_bytes()
    };
    let count = (piece.len() / 2) as u64;
    // Up to the next whole random number, then four elements at a time.
    let head = (first.next_multiple_of(LANES) - first).min(count);
    let (start, rest) = piece.split_at_mut(2 * head as usize);
    for (i, out) in start.chunks_exact_mut(2).enumerate() {
        let at = first + i as u64;
        out.copy_from_slice(&element(random(key, at / LANES), at % LANES));
    }
    let (groups, end) = rest.as_chunks_mut::<{ 2 * LANES as usize }>();
    let mut counter = (first + head) / LANES;
    for group in groups {
        let word = random(key, counter);
        let lanes: [[u8; 2]; LANES as usize] = std::array::from_fn(|lane| element(word, lane as u64));
        group.copy_from_slice(lanes.as_flattened());
        counter += 1;
    }
    for (lane, out) in end.chunks_exact_mut(2).enumerate() {
        out.copy_from_slice(&element(random(key, counter), lane as u64));
    }
}

/// Number `counter` of the sequence for `key` (SplitMix64, whose state is a counter).
fn random(key: u64, counter: u64) -> u64 {
    mix(key.wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// The finaliser of SplitMix64.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Rounds a finite value to the nearest bf16, ties to even.
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(piece: &[u8]) -> Vec<f32> {
        piece
            .chunks_exact(2)
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
            .collect()
    }

    #[test]
    fn any_part_is_the_same_as_the_whole() {
        let mut whole = vec![0; 2 * 103];
        fill(7, 3, 0.0, 0.5, 0, &mut whole);
        for begin in 0..20usize {
            for end in begin..40 {
                let mut part = vec![0; 2 * (end - begin)];
                fill(7, 3, 0.0, 0.5, begin as u64, &mut part);
                assert_eq!(part, whole[2 * begin..2 * end], "{begin}..{end}");
            }
        }
    }

    #[test]
    fn uniform_within_the_spread_and_different_for_each_tensor() {
        let mut piece = vec![0; 200_000];
        fill(0, 0, 0.0, 0.25, 0, &mut piece);
        let v = values(&piece);
        let mean = v.iter().sum::<f32>() / v.len() as f32;
        let variance = v.iter().map(|x| x * x).sum::<f32>() / v.len() as f32;
        assert!(v.iter().all(|x| x.abs() <= 0.25) && v.iter().any(|x| x.abs() > 0.249));
        assert!(mean.abs() < 2e-3 && (variance - 0.25 * 0.25 / 3.0).abs() < 5e-4, "{mean} {variance}");
        for (seed, tensor) in [(0, 1), (1, 0)] {
            let mut other = vec![0; piece.len()];
            fill(seed, tensor, 0.0, 0.25, 0, &mut other);
            let same = v.iter().zip(values(&other)).filter(|(a, b)| **a == *b).count();
            assert!(same < v.len() / 50, "{same}");
        }
    }

    #[test]
    fn norms_are_near_one() {
        let mut piece = vec![0; 2000];
        fill(0, 0, 1.0, 0.05, 0, &mut piece);
        assert!(values(&piece).iter().all(|x| (0.945..=1.055).contains(x)));
    }
}
