//! Packing: known layouts, and properties of random layouts.

use proptest::prelude::*;
use vram_alloc::AllocError;
use vram_alloc::pack::{PackOptions, Packing, Piece, pack};
use vram_types::{FileId, FileRange};

fn range(file: u32, offset: u64, bytes: u64) -> FileRange {
    FileRange { file: FileId(file), offset, bytes }
}

fn direct(file: u32, offset: u64, bytes: u64) -> Piece {
    Piece::direct(range(file, offset, bytes))
}

fn options(merge_gap: u64, align: u64, sector: u64) -> PackOptions {
    PackOptions { merge_gap, align, sector }
}

#[test]
fn neighbours_become_one_extent_and_nothing_is_lost() {
    let pieces = [direct(0, 108, 50), direct(0, 8, 100), direct(0, 158, 10)];
    let p = pack(&pieces, &options(0, 64, 1)).unwrap();
    assert_eq!((p.bytes, p.extents.len()), (160, 1));
    assert_eq!(p.at, [100, 0, 150]);
    assert_eq!((p.extents[0].offset, p.extents[0].bytes, p.extents[0].at), (8, 160, 0));
}

#[test]
fn gaps_and_files_separate() {
    let pieces = [direct(0, 0, 10), direct(0, 30, 10), direct(1, 40, 10)];
    let count = |gap| pack(&pieces, &options(gap, 64, 1)).unwrap().extents.len();
    assert_eq!((count(19), count(20), count(u64::MAX)), (3, 2, 2));
    assert_eq!(pack(&pieces, &options(0, 64, 1)).unwrap().at, [0, 64, 128]);
}

#[test]
fn tied_and_overlapping_pieces_share_bytes() {
    let pieces = [direct(0, 100, 50), direct(0, 100, 50), direct(0, 120, 60), direct(0, 110, 5)];
    let p = pack(&pieces, &options(0, 1, 1)).unwrap();
    assert_eq!((p.bytes, &p.at[..]), (80, &[0, 0, 20, 10][..]));
}

#[test]
fn several_ranges_or_none_are_read_by_name() {
    let gathered = Piece { bytes: 30, ranges: [range(0, 0, 10), range(0, 100, 20)].into_iter().collect() };
    let pieces = [Piece::computed(7), gathered, direct(0, 5, 3), Piece::computed(0), direct(9, 9, 0)];
    let p = pack(&pieces, &options(0, 16, 1)).unwrap();
    assert_eq!((p.bytes, &p.at[..]), (62, &[16, 32, 0, 0, 0][..]));
    assert_eq!(
        p.computed.iter().map(|c| (c.piece, c.at, c.bytes)).collect::<Vec<_>>(),
        [(0, 16, 7), (1, 32, 30)]
    );
    assert_eq!(p.extents.len(), 1);
    assert_eq!(pack(&[], &options(0, 16, 1)).unwrap(), Packing::default());
}

#[test]
fn nonsense_is_an_error() {
    let reason = |pieces: &[Piece], o| match pack(pieces, &o).unwrap_err() {
        AllocError::Pack { reason, piece } => (reason, piece),
        other => panic!("{other}"),
    };
    let ok = options(0, 16, 512);
    assert_eq!(reason(&[], options(0, 3, 1)).0, "align and sector must be powers of two");
    assert_eq!(reason(&[], options(0, 1, 0)).0, "align and sector must be powers of two");
    let mut long = direct(0, 0, 4);
    long.bytes = 5;
    assert_eq!(reason(&[direct(0, 0, 1), long], ok), ("its range has a different length", Some(1)));
    assert_eq!(reason(&[direct(0, u64::MAX, 1)], ok), ("its end in the file overflows", Some(0)));
    let overflow = "the size of the slot overflows";
    assert_eq!(reason(&[direct(0, u64::MAX - 100, 90)], ok).0, overflow);
    assert_eq!(reason(&[Piece::computed(u64::MAX), Piece::computed(1)], ok).0, overflow);
    assert_eq!(reason(&[direct(0, 0, u64::MAX - 600), direct(1, 0, 600)], ok).0, overflow);
}

fn piece() -> impl Strategy<Value = Piece> {
    let one = (0u32..3, 0u64..20_000, prop_oneof![0u64..5, 0u64..4000]);
    prop_oneof![
        8 => one.clone().prop_map(|(f, o, b)| direct(f, o, b)),
        1 => (0u64..300).prop_map(Piece::computed),
        1 => (one.clone(), one).prop_map(|(a, b)| Piece {
            bytes: a.2 + b.2,
            ranges: [range(a.0, a.1, a.2), range(b.0, b.1, b.2)].into_iter().collect(),
        }),
    ]
}

proptest! {
    #[test]
    fn layouts_are_sound(
        pieces in prop::collection::vec(piece(), 0..24),
        merge_gap in prop_oneof![Just(0u64), 0u64..3000],
        align in (0u32..10).prop_map(|p| 1u64 << p),
        sector in prop::sample::select(&[1u64, 1, 512, 4096][..]),
    ) {
        let o = options(merge_gap, align, sector);
        let p = pack(&pieces, &o).unwrap();
        prop_assert_eq!(&p, &pack(&pieces, &o).unwrap());
        let is_direct = |i: usize| pieces[i].ranges.len() == 1;

        // Spans and computed pieces are disjoint, in order and inside the slot.
        let mut owned: Vec<_> = p.extents.iter().map(|e| e.span.clone()).collect();
        owned.extend(p.computed.iter().map(|c| c.at..c.at + c.bytes));
        let mut end = 0;
        for span in &owned {
            prop_assert!(end <= span.start && span.start < span.end);
            end = span.end;
        }
        prop_assert_eq!(end, p.bytes);

        let mut slack = 0;
        for e in &p.extents {
            // Whole sectors of the file fit the span exactly.
            let (first, last) = (e.offset / sector * sector, (e.offset + e.bytes).div_ceil(sector) * sector);
            prop_assert_eq!(e.span.start % if sector == 1 { align } else { sector }, 0);
            prop_assert_eq!((e.at - e.span.start, e.span.end - e.span.start), (e.offset - first, last - first));
            // The slack is what sectors and mergeable gaps add.
            let mut covered = vec![false; e.bytes as usize];
            for r in pieces.iter().filter(|q| q.ranges.len() == 1).map(|q| q.ranges[0]) {
                if r.file == e.file && r.offset >= e.offset && r.end() <= e.offset + e.bytes {
                    covered[(r.offset - e.offset) as usize..(r.end() - e.offset) as usize].fill(true);
                }
            }
            prop_assert!(covered.first() == Some(&true) && covered.last() == Some(&true));
            let longest_gap = covered.split(|&c| c).map(<[bool]>::len).max().unwrap_or(0);
            prop_assert!(longest_gap as u64 <= merge_gap);
            let wanted = covered.iter().filter(|&&c| c).count() as u64;
            slack += e.span.end - e.span.start - wanted;
            let gaps = e.bytes - wanted;
            prop_assert!(e.span.end - e.span.start - wanted <= 2 * (sector - 1) + gaps);
        }
        prop_assert!(slack <= p.bytes);

        for (i, piece) in pieces.iter().enumerate().filter(|(_, q)| q.bytes > 0) {
            if is_direct(i) {
                let r = piece.ranges[0];
                prop_assert_eq!(p.at[i] % sector, r.offset % sector);
                let home = p.extents.iter().find(|e| e.file == r.file && e.offset <= r.offset && r.end() <= e.offset + e.bytes);
                let home = home.expect("every wanted byte is in an extent");
                prop_assert_eq!(p.at[i] - home.at, r.offset - home.offset);
            } else {
                prop_assert_eq!(p.at[i] % align, 0);
                prop_assert!(p.computed.iter().any(|c| c.piece == i && c.at == p.at[i] && c.bytes == piece.bytes));
            }
            for (j, other) in pieces.iter().enumerate().take(i).filter(|(_, q)| q.bytes > 0) {
                let apart = p.at[i] + piece.bytes <= p.at[j] || p.at[j] + other.bytes <= p.at[i];
                let shared = is_direct(i) && is_direct(j) && {
                    let (a, b) = (piece.ranges[0], other.ranges[0]);
                    a.file == b.file && a.offset < b.end() && b.offset < a.end()
                };
                prop_assert!(apart != shared, "pieces {} and {}", i, j);
            }
        }
        // Extents of one file were merged wherever possible.
        for e in p.extents.windows(2).filter(|e| e[0].file == e[1].file) {
            prop_assert!(e[1].offset > e[0].offset + e[0].bytes + merge_gap);
        }
    }
}
