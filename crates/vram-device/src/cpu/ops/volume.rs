//! Positions of a volume.

/// Depth, height and width of a position that is counted with the width fastest.
pub(super) fn split(position: usize, [_, height, width]: [usize; 3]) -> [usize; 3] {
    let rest = position / width;
    [rest / height, rest % height, position % width]
}
