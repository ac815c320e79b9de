//! Casting what is read piece by piece.

use super::whole::{can_cast, cast_serial};
use crate::{DType, TypeError};

/// Fills `dst` with `to` elements that are cast from `from` elements, `most_bytes` of which are in
/// memory at a time.
///
/// `read` fills memory with elements from a number on, counted from the first that `dst` takes; it
/// is called for one piece after the other, on the calling thread. Elements that need no cast are
/// read to their place at once.
///
/// ```
/// use vram_types::{DType, TypeError, cast::cast_pieces};
///
/// let stored: Vec<u8> = (0..6u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
/// let mut dst = [0; 12];
/// cast_pieces(DType::F32, &mut dst, DType::BF16, 16, |first, piece| {
///     let at = first as usize * 4;
///     piece.copy_from_slice(&stored[at..at + piece.len()]);
///     Ok::<(), TypeError>(())
/// })?;
/// assert_eq!(dst[8..], [0x80, 0x40, 0xa0, 0x40]);
/// # Ok::<(), TypeError>(())
/// ```
///
/// # Errors
/// [`TypeError::NoCast`] if [`can_cast`] says no, [`TypeError::Length`] if `dst` is not a whole
/// number of elements, before anything is read; those of `read`.
pub fn cast_pieces<E: From<TypeError>>(
    from: DType,
    dst: &mut [u8],
    to: DType,
    most_bytes: usize,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    if !can_cast(from, to) {
        return Err(TypeError::NoCast { from, to }.into());
    }
    let (wide, narrow) = (from.layout().block_bytes as usize, to.layout().block_bytes as usize);
    if !dst.len().is_multiple_of(narrow) {
        let expected = dst.len().next_multiple_of(narrow) as u64;
        let what = "the destination of a cast, which ends within an element,";
        return Err(TypeError::Length { what, expected, actual: dst.len() as u64 }.into());
    }
    if from == to {
        return read(0, dst);
    }
    let most = (most_bytes / wide).max(1);
    let mut memory = Vec::new();
    for (number, piece) in dst.chunks_mut(most * narrow).enumerate() {
        memory.resize(piece.len() / narrow * wide, 0);
        read((number * most) as u64, &mut memory)?;
        cast_serial(&memory, from, piece, to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_cast_of_the_whole() {
        let stored: Vec<u8> = (0..1000u32).flat_map(|i| (i as f32 * 0.37 - 100.0).to_le_bytes()).collect();
        for to in [DType::BF16, DType::F64, DType::F32, DType::F8_E4M3] {
            let width = to.layout().block_bytes as usize;
            let (mut expected, mut pieced) = (vec![0; 1000 * width], vec![1; 1000 * width]);
            cast_serial(&stored, DType::F32, &mut expected, to).unwrap();
            for most in [0, 1, 12, 400, 1 << 20] {
                let mut longest = 0;
                cast_pieces(DType::F32, &mut pieced, to, most, |first, piece| {
                    longest = longest.max(piece.len());
                    piece.copy_from_slice(&stored[first as usize * 4..][..piece.len()]);
                    Ok::<(), TypeError>(())
                })
                .unwrap();
                assert_eq!(pieced, expected, "{to} by {most}");
                assert!(to == DType::F32 || longest <= most.max(4), "{longest} bytes of {most}");
            }
        }
        let nothing = |_: u64, _: &mut [u8]| -> Result<(), TypeError> { panic!("nothing is to be read") };
        let error = cast_pieces(DType::I8, &mut [0], DType::F32, 64, nothing).unwrap_err();
        assert_eq!(error, TypeError::NoCast { from: DType::I8, to: DType::F32 });
        let error = cast_pieces(DType::F32, &mut [0; 3], DType::BF16, 64, nothing).unwrap_err();
        assert!(matches!(error, TypeError::Length { expected: 4, actual: 3, .. }));
    }
}
