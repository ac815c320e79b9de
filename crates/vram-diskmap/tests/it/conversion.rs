//! Conversions against a model in memory, and what they read, hold and locate.

use std::path::Path;

use vram_diskmap::{Conversion, ConversionErrorKind, Converted, DiskMap, Names, Rule};
use vram_types::{
    DType, Priority, ReadOptions, ReadRequest, ReadTarget, SourceErrorKind, TensorMeta, WeightSource,
    WeightSourceExt,
};

use crate::counting;
use crate::helpers::noise;
use crate::naive::{self, State, Tensor, Wrong};

/// Choices that follow from a seed.
pub(crate) struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n.max(1) as u64) as usize
    }

    /// 1 once in `n` times, 0 else.
    fn rarely(&mut self, n: usize) -> usize {
        usize::from(self.below(n) == 0)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        (1..n).rev().for_each(|i| all.swap(i, self.below(i + 1)));
        all
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Writes a file of these tensors.
fn write(path: &Path, tensors: &[(&str, DType, &[usize], Vec<u8>)]) {
    let declared =
        tensors.iter().map(|(name, dtype, shape, _)| (*name, TensorMeta::new(*dtype, *shape).unwrap()));
    let mut writer = vram_diskmap::SafetensorsWriter::create(path, declared, &[]).unwrap();
    tensors.iter().for_each(|t| writer.write(&t.3).unwrap());
    writer.finish().unwrap();
}

/// Small tensors of any dtype, several of which can be put together, as a file and as a model.
fn sources(dice: &mut Dice, path: &Path) -> State {
    let mut tensors = Vec::new();
    for number in 0..1 + dice.below(4) {
        let dtype = *dice.pick(&DType::ALL);
        let rank = dice.below(4);
        let mut shape: Vec<usize> = (0..rank).map(|_| *dice.pick(&[1, 2, 3, 4, 6, 8])).collect();
        if rank > 0 && dice.below(12) == 0 {
            shape[0] = 0;
        }
        let Ok(meta) = TensorMeta::new(dtype, shape.as_slice()) else { continue };
        tensors.push((format!("t{number}"), dtype, shape, noise(dice.0, meta.bytes() as usize)));
    }
    let slices: Vec<_> = tensors.iter().map(|t| (t.0.as_str(), t.1, t.2.as_slice(), t.3.clone())).collect();
    write(path, &slices);
    let numbered = tensors.iter().enumerate();
    numbered.map(|(number, t)| (t.0.clone(), Tensor::new(number, t.1, &t.2, &t.3))).collect()
}

/// A rule that is mostly possible.
fn rule(dice: &mut Dice, state: &State, number: usize) -> Option<Rule> {
    let names: Vec<&String> = state.keys().collect();
    if names.is_empty() {
        return None;
    }
    let name = (*dice.pick(&names)).clone();
    let tensor = &state[&name];
    let rank = tensor.shape.len();
    let tensors = Names::Exact(name.clone());
    let beyond = dice.rarely(20);
    let dim = dice.below(rank + beyond);
    let extent = tensor.shape.get(dim).copied().unwrap_or(1);
    let new = |part: usize| format!("n{number}.{part}");
    Some(match dice.below(14) {
        0 => Rule::Rename { tensors, to: (*dice.pick(&names)).clone() },
        1 => Rule::Copy { tensors, to: new(0) },
        2 => Rule::Drop { tensors },
        3 => Rule::Keep { tensors },
        4 | 5 => {
            let first = dice.below(extent + 1);
            let sizes = [first, extent - first].map(|size| size + dice.rarely(30)).to_vec();
            let sizes = (dice.below(3) > 0).then_some(sizes);
            let equal = sizes.is_none() && extent % 2 == 1;
            Rule::Split {
                tensors,
                dim: if equal { rank + 1 } else { dim },
                into: vec![new(0), new(1)],
                sizes,
            }
        }
        6..=8 => {
            let fits = |other: &&&String| {
                let other = &state[**other];
                let same = |i: usize| i == dim || other.shape[i] == tensor.shape[i];
                other.dtype == tensor.dtype && other.shape.len() == rank && (0..rank).all(same)
            };
            let mut parts = vec![name.clone()];
            let fitting: Vec<&&String> = names.iter().filter(fits).collect();
            for _ in 0..1 + dice.below(2) {
                parts.push(if dice.below(20) == 0 {
                    (*dice.pick(&names)).clone()
                } else {
                    (**dice.pick(&fitting)).clone()
                });
            }
            let last = parts.len() - 1;
            parts.swap(0, last);
            Rule::Concat { tensors, dim, parts, into: new(0) }
        }
        9 | 10 => Rule::Transpose { tensors, axes: (dice.below(3) > 0).then(|| dice.shuffled(rank)) },
        11 => {
            let mut left: usize = tensor.shape.iter().product();
            let mut shape = Vec::new();
            while left > 1 && shape.len() < 3 {
                let divisors: Vec<usize> = (1..=left).filter(|d| left.is_multiple_of(*d)).collect();
                let next = *dice.pick(&divisors);
                shape.push(next as i64);
                left /= next;
            }
            shape.push(if dice.below(3) == 0 { -1 } else { left as i64 });
            Rule::Reshape { tensors, shape }
        }
        12 => {
            let start = dice.below(extent + 1);
            let beyond = dice.rarely(20);
            let end = start + dice.below(extent - start + 1 + beyond);
            let end = (dice.below(3) > 0).then_some(end);
            Rule::Slice { tensors, dim, start, end }
        }
        _ => Rule::Cast {
            tensors,
            dtype: *dice.pick(&[DType::F32, DType::BF16, DType::F16, DType::F8_E4M3, DType::F64]),
        },
    })
}

fn kind(wrong: Wrong) -> ConversionErrorKind {
    match wrong {
        Wrong::NotFound => ConversionErrorKind::NotFound,
        Wrong::Duplicate => ConversionErrorKind::Duplicate,
        Wrong::Shape => ConversionErrorKind::Shape,
        Wrong::Unsupported => ConversionErrorKind::Unsupported,
    }
}

/// Reads ranges of many tensors at once, with slack around some.
fn read_at_random(dice: &mut Dice, converted: &Converted, state: &State, what: &str) {
    let names: Vec<&String> = state.keys().collect();
    let wanted: Vec<(&String, Vec<u8>, usize, usize, usize)> = (0..6)
        .map(|_| {
            let name = *dice.pick(&names);
            let bytes = state[name].bytes();
            let from = dice.below(bytes.len() + 1);
            let len = dice.below(bytes.len() - from + 1);
            (name, bytes[from..from + len].to_vec(), from, dice.below(9), dice.below(9))
        })
        .collect();
    let mut buffers: Vec<Vec<u8>> = wanted.iter().map(|w| vec![0xAA; w.3 + w.1.len() + w.4]).collect();
    let mut requests: Vec<ReadRequest<'_>> = wanted
        .iter()
        .zip(&mut buffers)
        .map(|((name, bytes, from, at, _), dst)| ReadRequest {
            target: ReadTarget::Tensor { name, offset: *from as u64 },
            bytes: bytes.len() as u64,
            dst,
            at: *at,
        })
        .collect();
    converted.read_many(&mut requests, &ReadOptions::default().with_priority(Priority::ReadAhead)).unwrap();
    for ((name, bytes, from, at, _), got) in wanted.iter().zip(&buffers) {
        assert!(got[*at..at + bytes.len()] == *bytes, "{what}: {name} from {from}, {} bytes", bytes.len());
    }
}

#[test]
fn random_programs_do_what_a_model_in_memory_does() {
    let dir = folder();
    let path = dir.path().join("m.safetensors");
    let (mut refused, mut held) = (0, 0);
    let seeds = std::env::var("VRAM_SEED").ok().map_or(0..3000, |seed| {
        let seed = seed.parse().unwrap();
        seed..seed + 1
    });
    for seed in seeds {
        let mut dice = Dice(seed);
        let mut state = sources(&mut dice, &path);
        let mut conversion = Conversion::new();
        let mut wrong = None;
        for number in 0..1 + dice.below(5) {
            let Some(rule) = rule(&mut dice, &state, number) else { break };
            conversion = conversion.rule(rule.clone());
            match naive::apply(&state, &rule) {
                Ok(next) => state = next,
                Err(e) => {
                    wrong = Some((number + 1, kind(e)));
                    break;
                }
            }
        }
        let what = format!("VRAM_SEED={seed}: {conversion:?}");
        let converted = DiskMap::open(&path).unwrap().convert(&conversion);
        let (converted, (number, kind)) = match (converted, wrong) {
            (Ok(converted), None) => {
                held += 1;
                holds(&mut dice, &converted, &state, &what);
                continue;
            }
            (converted, wrong) => (converted, wrong.unwrap_or((0, ConversionErrorKind::Io))),
        };
        let error = converted.map(drop).expect_err(&what);
        refused += 1;
        assert_eq!((error.rule(), error.kind()), (Some(number), kind), "{error}; {what}");
    }
    println!("{held} programs gave what the model gives, {refused} were refused as it refuses");
    assert!(held == 1 || held > 1000 && refused > 100 || refused == 1);
}

/// Whether every tensor is that of the model: all of it, ranges of it, and where it is said to lie.
fn holds(dice: &mut Dice, converted: &Converted, state: &State, what: &str) {
    let mut names: Vec<&str> = converted.names().collect();
    names.sort_unstable();
    assert!(names.iter().eq(state.keys()), "{what}: {names:?}");
    let mut identities = std::collections::HashMap::new();
    for (name, tensor) in state {
        let located = converted.locate(name).unwrap();
        let meta = TensorMeta::new(tensor.dtype, tensor.shape.as_slice()).unwrap();
        assert_eq!(located.meta, meta, "{what}: {name}");
        let got = converted.get(name).unwrap_or_else(|e| panic!("{e}; {what}: {name}"));
        assert!(
            got.bytes() == tensor.bytes(),
            "{what}: {name}: {:?} is not {:?}",
            got.bytes(),
            tensor.bytes()
        );
        if !located.ranges.is_empty() {
            let mut bytes = Vec::new();
            for range in &located.ranges {
                let mut part = vec![0; range.bytes as usize];
                let request = ReadRequest::file(range.file, range.offset, &mut part);
                converted.read_many(&mut [request], &ReadOptions::BLOCKING).unwrap();
                bytes.extend(part);
            }
            assert!(bytes == tensor.bytes(), "{what}: {name} lies elsewhere");
        }
        if meta.bytes() > 0 {
            let before = identities.insert((located.storage, meta), tensor.bytes());
            assert!(
                before.is_none_or(|before| before == tensor.bytes()),
                "{what}: {name} is tied to another"
            );
        }
        let ranges: Vec<_> = tensor.shape.iter().map(|&d| d / 3..d - d / 4).collect();
        let cut = tensor.shape.iter().enumerate().try_fold(state.clone(), |state, (dim, _)| {
            let (start, end) = (ranges[dim].start, Some(ranges[dim].end));
            naive::apply(&state, &Rule::Slice { tensors: Names::Exact(name.clone()), dim, start, end })
        });
        match (converted.get_slice(name, &ranges), cut) {
            (Ok(got), Ok(cut)) => assert!(got.bytes() == cut[name].bytes(), "{what}: {name} {ranges:?}"),
            (Err(e), Err(_)) => assert_eq!(e.kind(), SourceErrorKind::Unsupported, "{what}: {name}"),
            (got, cut) => panic!("{what}: {name} {ranges:?}: {got:?} and {:?}", cut.map(drop)),
        }
    }
    if !state.is_empty() {
        read_at_random(dice, converted, state, what);
    }
}

/// A checkpoint of one tensor of 2048 rows of 2048 elements of four bytes, and of a vector.
fn large(dir: &tempfile::TempDir) -> (std::path::PathBuf, Vec<u8>) {
    let path = dir.path().join("large.safetensors");
    let bytes = noise(7, 2048 * 2048 * 4);
    let vector = noise(8, 2048 * 4);
    write(&path, &[("w", DType::U32, &[2048, 2048], bytes.clone()), ("v", DType::U32, &[2048], vector)]);
    (path, bytes)
}

#[test]
fn a_part_asks_for_its_own_bytes_alone() {
    let dir = folder();
    let (path, bytes) = large(&dir);
    let check = |conversion: Conversion, name: &str, asked: u64, expected: &dyn Fn(usize, usize) -> usize| {
        let converted = DiskMap::open(&path).unwrap().convert(&conversion).unwrap();
        let headers = converted.bytes_read();
        let got = converted.get(name).unwrap();
        assert_eq!(converted.bytes_read() - headers, asked, "{conversion:?}");
        let [rows, columns] = *got.meta().shape().dims() else { panic!("{got:?}") };
        for row in (0..rows).step_by(97) {
            for column in (0..columns).step_by(89) {
                let (at, from) = ((row * columns + column) * 4, expected(row, column) * 4);
                assert_eq!(got.bytes()[at..at + 4], bytes[from..from + 4], "{conversion:?}: {row}, {column}");
            }
        }
    };
    let mib = |n: u64| n << 20;
    check(Conversion::new().slice("w", 0, 100..228), "w", mib(1), &|r, c| (r + 100) * 2048 + c);
    check(Conversion::new().split("w", 0, ["a", "b"]), "b", mib(8), &|r, c| (r + 1024) * 2048 + c);
    // Columns, with more than a page between them.
    check(Conversion::new().slice("w", 1, 5..261), "w", mib(2), &|r, c| r * 2048 + c + 5);
    check(Conversion::new().split("w", 1, (0..8).map(|i| i.to_string())), "3", mib(2), &|r, c| {
        r * 2048 + c + 768
    });
    check(
        Conversion::new().slice("w", 1, 0..512).transpose("w", [1, 0]).slice("w", 0, 256..512),
        "w",
        mib(2),
        &|r, c| c * 2048 + r + 256,
    );
    let halves =
        Conversion::new().split("w", 0, ["a", "b"]).concat("b", 1, ["b", "a"], "w").slice("w", 0, 0..64);
    check(halves, "w", mib(1), &|r, c| if c < 2048 { (r + 1024) * 2048 + c } else { r * 2048 + c - 2048 });
}

#[test]
fn memory_stays_bounded_whatever_is_made() {
    let dir = folder();
    let (path, bytes) = large(&dir);
    let check = |conversion: Conversion, most: usize| {
        let what = format!("{conversion:?}");
        let converted = DiskMap::open(&path).unwrap().convert(&conversion).unwrap();
        let len = converted.locate("w").unwrap().meta.bytes();
        assert_eq!(len, bytes.len() as u64);
        let mut dst = vec![0; len as usize];
        let ((), held) = counting::peak(|| converted.read_range("w", 0..len, &mut dst).unwrap());
        println!("{held} bytes held for {what}");
        assert!(held <= most, "{held}: {what}");
    };
    let mib = |n: usize| n << 20;
    check(Conversion::new().reshape("w", [-1]), 4 << 10);
    check(Conversion::new().split("w", 0, ["a", "b"]).concat("b", 0, ["b", "a"], "w"), 4 << 10);
    check(Conversion::new().transpose("w", [1, 0]), mib(3));
    check(Conversion::new().split("w", 1, ["a", "b"]).concat("b", 1, ["b", "a"], "w"), mib(3));
    check(
        Conversion::new().reshape("w", [8, 256, 2048]).transpose("w", [1, 0, 2]).reshape("w", [2048, 2048]),
        mib(3),
    );
    let nested = Conversion::new().transpose("w", [1, 0]).reshape("w", [-1]).reshape("w", [1024, 4096]);
    check(nested.transpose("w", [1, 0]), mib(7));
}

#[test]
fn a_cast_goes_through_pieces() {
    let dir = folder();
    let path = dir.path().join("m.safetensors");
    write(&path, &[("w", DType::BF16, &[2048, 2048], noise(3, 2048 * 2048 * 2))]);
    let conversion = Conversion::new().cast(Names::all(), DType::F32).transpose("w", [1, 0]);
    let converted = DiskMap::open(&path).unwrap().convert(&conversion).unwrap();
    let mut dst = vec![0; 16 << 20];
    let ((), held) = counting::peak(|| converted.read_range("w", 0..16 << 20, &mut dst).unwrap());
    assert!(held <= 7 << 20, "{held}");
    let plain = DiskMap::open(&path).unwrap().get("w").unwrap();
    let (at, from) = ((3 * 2048 + 5) * 4, (5 * 2048 + 3) * 2);
    // Widening a bf16 puts zeros below it.
    assert_eq!(dst[at..at + 4], [0, 0, plain.bytes()[from], plain.bytes()[from + 1]]);
}

#[test]
fn what_lies_in_files_is_located_and_stays_tied() {
    let dir = folder();
    let (path, _) = large(&dir);
    let convert = |conversion: Conversion| DiskMap::open(&path).unwrap().convert(&conversion).unwrap();
    let plain = DiskMap::open(&path).unwrap();
    let whole = plain.locate("w").unwrap();

    let tied = convert(Conversion::new().copy("w", "copy").reshape("copy", [-1, 64]).copy("copy", "again"));
    let [w, copy, again] = ["w", "copy", "again"].map(|name| tied.locate(name).unwrap());
    assert_eq!(w, whole);
    assert_eq!((copy.storage, &copy.ranges), (whole.storage, &whole.ranges));
    assert_eq!(copy, again);

    let parts = convert(Conversion::new().split("w", 0, ["a", "b"]).copy("b", "c"));
    let b = parts.locate("b").unwrap();
    assert_eq!((b.ranges.len(), b.ranges[0].offset), (1, whole.ranges[0].offset + (8 << 20)));
    assert_eq!(b, parts.locate("c").unwrap());
    assert_ne!(b.storage, parts.locate("a").unwrap().storage);
    assert_eq!(parts.made_of("c"), ["w"]);

    let joined = convert(Conversion::new().split("w", 0, ["a", "b"]).concat("a", 0, ["a", "b"], "w"));
    assert_eq!(joined.locate("w"), Some(whole.clone()), "cut and put together again, it is what it was");
    let swapped = convert(Conversion::new().split("w", 0, ["a", "b"]).concat("a", 0, ["b", "a"], "w"));
    let ranges = swapped.locate("w").unwrap().ranges;
    assert_eq!(
        ranges.iter().map(|r| r.offset).collect::<Vec<_>>(),
        [b.ranges[0].offset, whole.ranges[0].offset]
    );

    let turned =
        Conversion::new().transpose("w", [1, 0]).copy("w", "tied").copy("w", "cast").reshape("cast", [-1]);
    let turned = convert(turned);
    let [w, tied, other] = ["w", "tied", "cast"].map(|name| turned.locate(name).unwrap());
    assert!(w.ranges.is_empty() && w.storage != whole.storage);
    assert_eq!(w, tied);
    assert_ne!(w.storage, other.storage);

    // A conversion of a conversion is one too, over any source.
    let twice =
        Converted::new(std::sync::Arc::new(swapped), &Conversion::new().split("w", 0, ["x", "y"])).unwrap();
    assert_eq!(twice.locate("x").unwrap().ranges.as_slice(), [b.ranges[0]]);
    assert!(twice.get("x").unwrap() == parts.get("b").unwrap());
    assert_eq!(twice.describe(b.ranges[0].file).as_deref(), path.to_str());
    // SAFETY: nobody writes to this file while the test runs.
    let mapped = unsafe { DiskMap::open_mapped(&path) }.unwrap();
    let mapped = mapped.convert(&Conversion::new().split("w", 0, ["a", "b"])).unwrap();
    let window = mapped.map(b.ranges[0]).unwrap().unwrap();
    assert!(window.bytes() == parts.get("b").unwrap().bytes());
}

/// The same conversion of a file and of what is expected to be read from it, which is stored plainly.
#[test]
fn what_the_source_computes_is_converted_like_anything_else() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for file in ["torch/layouts.pt", "torch/legacy_layouts.pt", "gguf/blocks.gguf"] {
        let path = here.join(file);
        let plain = here.join(format!("{file}.expected.safetensors"));
        let mut conversion = Conversion::new();
        for (name, info) in DiskMap::open(&plain).unwrap().iter() {
            if let [rows, columns, ..] = *info.shape().dims()
                && rows > 1
                && columns > 2
            {
                conversion =
                    conversion.slice(name, 1, 1..columns).transpose(name, (0..info.shape().rank()).rev());
            }
        }
        let of = |path: &Path| DiskMap::open(path).unwrap().convert(&conversion).unwrap();
        let (got, expected) = (of(&path), of(&plain));
        assert!(!conversion.is_empty() && got.len() == expected.len());
        for (name, located) in expected.iter() {
            assert!(got.get(name).unwrap() == expected.get(name).unwrap(), "{file}: {name}");
            let bytes = located.meta.bytes();
            let mut part = vec![0; (bytes - bytes / 3) as usize];
            got.read_range(name, bytes / 3..bytes, &mut part).unwrap();
            assert!(part == expected.get(name).unwrap().bytes()[(bytes / 3) as usize..], "{file}: {name}");
        }
    }
}

#[test]
fn raw_blocks_are_never_parted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf/blocks.gguf");
    let map = || DiskMap::options().raw_blocks(true).open(&path).unwrap();
    let all = map();
    let (name, info) = all.iter().find(|(_, info)| info.shape().rank() == 2 && info.shape()[0] > 1).unwrap();
    let (block, columns) = (info.raw_block().unwrap(), info.shape()[1]);
    let bytes = block.block_bytes() as usize;
    assert!(columns >= bytes, "{name}");
    let rows = map().convert(&Conversion::new().slice(name, 0, 1..2)).unwrap();
    assert!(rows.get(name).unwrap() == all.get_slice(name, &[1..2]).unwrap());
    for wrong in [
        Conversion::new().slice(name, 1, 1..columns),
        Conversion::new().slice(name, 1, 0..columns - 1),
        Conversion::new().transpose(name, [1, 0]),
    ] {
        let error = map().convert(&wrong).unwrap_err();
        assert_eq!((error.kind(), error.tensor()), (ConversionErrorKind::Unsupported, Some(name)));
        assert!(error.message().contains(block.name()), "{error}");
    }
}

#[test]
fn the_conversion_of_old_norms_changes_these_and_nothing_else() {
    // The story: BERT's first checkpoints call the weight and the bias of a norm gamma and beta, and
    // a model that asks for the names of today was told that they are missing.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    let t = |name: &str| (name.to_owned(), safetensors::tensor::Dtype::U8, vec![2], vec![1, 2]);
    let old = ["a.LayerNorm.beta", "a.LayerNorm.gamma", "gamma", "ls1.gamma", "x.LayerNorm.weight"];
    crate::helpers::write(&path, &old.map(t));
    let conversion = Conversion::shipped("layer-norm-names").unwrap();
    let converted = DiskMap::open(&path).unwrap().convert(&conversion).unwrap();
    let mut names: Vec<&str> = converted.names().collect();
    names.sort_unstable();
    let new = ["a.LayerNorm.bias", "a.LayerNorm.weight", "gamma", "ls1.gamma", "x.LayerNorm.weight"];
    assert_eq!(names, new);
    assert_eq!(converted.get("a.LayerNorm.bias").unwrap().bytes(), [1, 2]);
    assert!(Conversion::shipped("layer-norm").is_none());
}
