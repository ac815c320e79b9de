//! Copies of more than caches hold.

/// From here on what is copied would push itself out of the caches before anybody looks at it.
pub(crate) const LEAST_STREAMED_BYTES: usize = 32 << 20;

/// Copies `src` to `dst`, of the same length, without bringing `dst` into the caches: to write to
/// a line that is there it would have to be read first, which is a third of all that a long copy
/// moves.
#[cfg(target_arch = "x86_64")]
pub(super) fn copy_past_caches(dst: &mut [u8], src: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    const LINE: usize = 64;

    let head = dst.as_ptr().align_offset(LINE).min(dst.len());
    let (first, rest) = dst.split_at_mut(head);
    first.copy_from_slice(&src[..head]);
    let (to, last) = rest.as_chunks_mut::<LINE>();
    let (from, tail) = src[head..].as_chunks::<LINE>();
    assert_eq!(to.len(), from.len(), "a copy of another length");
    for (to, from) in to.iter_mut().zip(from) {
        let (to, from) = (to.as_mut_ptr().cast::<__m128i>(), from.as_ptr().cast::<__m128i>());
        // SAFETY: SSE2 is part of x86_64. 64 bytes are read that `from` has, at any alignment; 64 are written that `to` has,
        // which begins with a line.
        unsafe {
            let line = [0, 1, 2, 3].map(|i| _mm_loadu_si128(from.add(i)));
            line.into_iter().enumerate().for_each(|(i, part)| _mm_stream_si128(to.add(i), part));
        }
    }
    // SAFETY: SSE is part of x86_64. These stores are ordered with no others until this, which is before anybody else looks.
    unsafe { _mm_sfence() };
    last.copy_from_slice(tail);
}

/// Elsewhere the library's copy knows best.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn copy_past_caches(dst: &mut [u8], src: &[u8]) {
    dst.copy_from_slice(src);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_and_no_other_is_touched() {
        let src: Vec<u8> = (0..1024u32).map(|i| (i * 7 % 251) as u8 + 1).collect();
        for at in 0..70 {
            for from in [0, 1, 8, 63] {
                for len in (0..200).chain([513, 700]) {
                    let mut dst = vec![0; 1024];
                    copy_past_caches(&mut dst[at..at + len], &src[from..from + len]);
                    assert_eq!(dst[at..at + len], src[from..from + len], "{len} bytes from {from} to {at}");
                    assert!(dst[..at].iter().chain(&dst[at + len..]).all(|&byte| byte == 0));
                }
            }
        }
    }
}
