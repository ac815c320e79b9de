//! Where the tensors of a unit lie in one slot of memory, and which reads fill it.
//!
//! Tensors that are close together in a file form one *extent*, which is read at once and keeps
//! the order of the file. For direct I/O, an extent lies at a slot offset congruent to its file
//! offset, so that its read can be widened to whole sectors. The widened read stays within the
//! extent's own span of the slot.

use std::ops::Range;

use smallvec::SmallVec;
use vram_types::{FileId, FileRange, Located};

use crate::AllocError;

/// A tensor, or a part of one, that goes into the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its size in the slot.
    pub bytes: u64,
    /// Its file ranges. If there is exactly one, it is read directly; otherwise the piece is read
    /// by the tensor's name.
    pub ranges: SmallVec<[FileRange; 1]>,
}

impl Piece {
    /// A piece that is one range of a file.
    pub fn direct(range: FileRange) -> Piece {
        Piece { bytes: range.bytes, ranges: SmallVec::from_buf([range]) }
    }

    /// A piece that is read by the tensor's name.
    pub fn computed(bytes: u64) -> Piece {
        Piece { bytes, ranges: SmallVec::new() }
    }
}

impl From<&Located> for Piece {
    fn from(located: &Located) -> Piece {
        Piece { bytes: located.meta.bytes(), ranges: located.ranges.clone() }
    }
}

/// How [`pack`] lays pieces out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// Largest gap in a file, in bytes, that is read along with its neighbours instead of starting
    /// a new extent.
    pub merge_gap: u64,
    /// Alignment in the slot, in bytes, of computed pieces and, without sectors, of extents. A
    /// power of two.
    pub align: u64,
    /// Sector size in bytes, a power of two. Slot offsets of direct pieces are congruent to their
    /// file offsets modulo this size. 1 means no sectors.
    pub sector: u64,
}

impl Default for PackOptions {
    /// Gaps up to 64 KiB, 256-byte alignment, no sectors.
    fn default() -> PackOptions {
        PackOptions { merge_gap: 64 << 10, align: 256, sector: 1 }
    }
}

/// A read from a file into the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The file.
    pub file: FileId,
    /// File offset of the first wanted byte.
    pub offset: u64,
    /// Number of bytes from the first wanted byte to the last, gaps included.
    pub bytes: u64,
    /// The part of the slot that belongs to this extent. The whole sectors that hold the wanted
    /// bytes fit it exactly, the first one at its start.
    pub span: Range<u64>,
    /// Offset of the first wanted byte in the slot (not in the span).
    pub at: u64,
}

/// A piece that is read by its tensor's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputedPiece {
    /// Index of the input piece.
    pub piece: usize,
    /// Offset in the slot.
    pub at: u64,
    /// Its size.
    pub bytes: u64,
}

/// The layout of one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// Size of the slot, slack included.
    pub bytes: u64,
    /// Reads from files, ordered by file and offset. Their spans follow one another.
    pub extents: Vec<Extent>,
    /// Reads by name, in the order of the pieces, after the extents.
    pub computed: Vec<ComputedPiece>,
    /// Slot offset of each input piece; 0 for a piece without bytes.
    pub at: Vec<u64>,
}

/// Lays pieces out in one slot. Pieces that share bytes of a file share them in the slot.
///
/// For the offsets to be aligned in memory, the slot itself must be aligned to `align` and
/// `sector`.
///
/// # Errors
/// [`AllocError::Pack`] if `align` or `sector` is not a power of two, if the length of a piece's
/// only range differs from that of the piece, or if an offset overflows.
///
/// ```
/// use vram_alloc::pack::{PackOptions, Piece, pack};
/// use vram_types::{FileId, FileRange};
///
/// let range = |offset, bytes| Piece::direct(FileRange { file: FileId(0), offset, bytes });
/// let pieces = [range(5000, 100), range(5100, 300), Piece::computed(10)];
/// let packing = pack(&pieces, &PackOptions { merge_gap: 0, align: 64, sector: 512 })?;
/// assert_eq!(packing.extents.len(), 1); // the first two are neighbours
/// assert_eq!(packing.extents[0].span, 0..1024); // sectors 4608..5632 of the file
/// assert_eq!(packing.at, [392, 492, 1024]);
/// # Ok::<(), vram_alloc::AllocError>(())
/// ```
pub fn pack(pieces: &[Piece], options: &PackOptions) -> Result<Packing, AllocError> {
    if !options.align.is_power_of_two() || !options.sector.is_power_of_two() {
        return Err(AllocError::Pack { reason: "align and sector must be powers of two", piece: None });
    }
    let direct = direct_pieces(pieces)?;
    let mut packing = Packing { at: vec![0; pieces.len()], ..Packing::default() };
    for merged in merge(&direct, options.merge_gap) {
        let extent = place(&merged, packing.bytes, options).ok_or(OVERFLOW)?;
        packing.bytes = extent.span.end;
        for &(range, piece) in merged.pieces {
            // Cannot overflow: this lies within the extent, whose end has been computed.
            packing.at[piece] = extent.at + (range.offset - extent.offset);
        }
        packing.extents.push(extent);
    }
    for (i, piece) in pieces.iter().enumerate() {
        if piece.bytes == 0 || piece.ranges.len() == 1 {
            continue;
        }
        let at = round_up(packing.bytes, options.align).ok_or(OVERFLOW)?;
        packing.bytes = at.checked_add(piece.bytes).ok_or(OVERFLOW)?;
        packing.at[i] = at;
        packing.computed.push(ComputedPiece { piece: i, at, bytes: piece.bytes });
    }
    Ok(packing)
}

const OVERFLOW: AllocError = AllocError::Pack { reason: "the size of the slot overflows", piece: None };

/// Neighbouring direct pieces, sorted by offset, and the range that covers them.
struct Merged<'a> {
    file: FileId,
    start: u64,
    end: u64,
    pieces: &'a [(FileRange, usize)],
}

/// The direct pieces that have bytes, by file and offset.
fn direct_pieces(pieces: &[Piece]) -> Result<Vec<(FileRange, usize)>, AllocError> {
    let mut direct = Vec::with_capacity(pieces.len());
    for (i, piece) in pieces.iter().enumerate() {
        let &[range] = &piece.ranges[..] else { continue };
        let wrong = |reason| Err(AllocError::Pack { reason, piece: Some(i) });
        if range.bytes != piece.bytes {
            return wrong("its range has a different length");
        }
        if range.offset.checked_add(range.bytes).is_none() {
            return wrong("its end in the file overflows");
        }
        if range.bytes > 0 {
            direct.push((range, i));
        }
    }
    // By index last, so that the order does not depend on the sort algorithm.
    direct.sort_unstable();
    Ok(direct)
}

fn merge(sorted: &[(FileRange, usize)], gap: u64) -> Vec<Merged<'_>> {
    let mut all: Vec<Merged<'_>> = Vec::new();
    let mut first = 0;
    while let Some(&(head, _)) = sorted.get(first) {
        let mut end = head.end();
        let mut last = first + 1;
        while let Some(&(next, _)) = sorted.get(last) {
            if next.file != head.file || next.offset > end.saturating_add(gap) {
                break;
            }
            end = end.max(next.end());
            last += 1;
        }
        all.push(Merged { file: head.file, start: head.offset, end, pieces: &sorted[first..last] });
        first = last;
    }
    all
}

/// Places an extent after the first `used` bytes of the slot; `None` on overflow.
fn place(merged: &Merged<'_>, used: u64, options: &PackOptions) -> Option<Extent> {
    let sector = options.sector;
    let start = round_up(used, if sector == 1 { options.align } else { sector })?;
    let first_sector = merged.start & !(sector - 1);
    let at = start.checked_add(merged.start - first_sector)?;
    let end = start.checked_add(round_up(merged.end, sector)? - first_sector)?;
    let bytes = merged.end - merged.start;
    Some(Extent { file: merged.file, offset: merged.start, bytes, span: start..end, at })
}

/// Rounds up to a multiple of a power of two.
fn round_up(x: u64, to: u64) -> Option<u64> {
    Some(x.checked_add(to - 1)? & !(to - 1))
}
