//! Positions of a volume.

/// Depth, height and width of a position; positions count along the width first.
pub(super) fn split(position: usize, [_, height, width]: [usize; 3]) -> [usize; 3] {
    let rest = position / width;
    [rest / height, rest % height, position % width]
}
