//! Pickles and archives that mean harm: each is refused for what it is, within bounded memory.

use std::path::{Path, PathBuf};

use vram_diskmap::DiskMap;
use vram_types::{SourceError, SourceErrorKind};

use crate::counting::{allowed, peak};

/// An entry of an archive: name, contents, method and flags.
pub(crate) struct Entry<'a> {
    name: &'a str,
    bytes: &'a [u8],
    method: u16,
    flags: u16,
}

pub(crate) fn stored<'a>(name: &'a str, bytes: &'a [u8]) -> Entry<'a> {
    Entry { name, bytes, method: 0, flags: 0 }
}

/// A zip archive, written the simplest way.
pub(crate) fn zip(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for Entry { name, bytes, method, flags } in entries {
        let header = (file.len() as u32).to_le_bytes();
        let (size, name_len) = ((bytes.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
        let mut common = Vec::new();
        common.extend_from_slice(&[20, 0]);
        common.extend_from_slice(&flags.to_le_bytes());
        common.extend_from_slice(&method.to_le_bytes());
        common.extend_from_slice(&[0; 8]); // time, date, checksum
        common.extend_from_slice(&size);
        common.extend_from_slice(&size);
        common.extend_from_slice(&name_len);
        common.extend_from_slice(&[0, 0]);
        file.extend_from_slice(b"PK\x03\x04");
        file.extend_from_slice(&common);
        file.extend_from_slice(name.as_bytes());
        file.extend_from_slice(bytes);
        directory.extend_from_slice(b"PK\x01\x02\x14\0");
        directory.extend_from_slice(&common);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&header);
        directory.extend_from_slice(name.as_bytes());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (at, len) = ((file.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    file.extend_from_slice(&directory);
    file.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    file.extend_from_slice(&[count, count].concat());
    file.extend_from_slice(&[len, at].concat());
    file.extend_from_slice(&[0, 0]);
    file
}

/// An archive of a pickle and one storage of 16 bytes.
fn archive(pickle: &[u8]) -> Vec<u8> {
    zip(&[stored("a/data.pkl", pickle), stored("a/data/0", &[7; 16])])
}

fn opened(bytes: &[u8]) -> (Result<DiskMap, SourceError>, usize) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.pt");
    std::fs::write(&path, bytes).unwrap();
    peak(|| DiskMap::open(&path))
}

#[test]
fn a_pickle_that_asks_for_more_than_tensors_is_refused_by_name() {
    let names: [(&[u8], &str); 12] = [
        (b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.", "os.system"),
        (b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.", "posix.system"),
        (b"\x80\x02cnt\nsystem\nX\x02\0\0\0ls\x85R.", "nt.system"),
        (b"\x80\x02c__builtin__\neval\nX\x01\0\0\x001\x85R.", "__builtin__.eval"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x01x\x85R.", "builtins.exec"),
        (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", "builtins.getattr"),
        (b"\x80\x02csubprocess\nPopen\n.", "subprocess.Popen"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "torch.storage._load_from_bytes"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.", "numpy.core.multiarray._reconstruct"),
        (b"\x80\x02c__torch__.Model\nModel\n)\x81.", "__torch__.Model.Model"),
        // The name that is asked for is behind one that is allowed.
        (b"\x80\x02ccollections\nOrderedDict\n)Rcwebbrowser\nopen\n.", "webbrowser.open"),
    ];
    for (pickle, asked) in names {
        for file in [
            archive(pickle),
            [
                &b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}."[..],
                pickle,
            ]
            .concat(),
        ] {
            let (result, held) = opened(&file);
            let error = result.unwrap_err();
            assert_eq!(error.kind(), SourceErrorKind::Unsupported, "{error}");
            assert!(error.message().contains(&format!("{asked:?}")), "{error}");
            assert!(error.offset().is_some() && held <= allowed(file.len()), "{error}, holding {held}");
        }
    }
}

#[test]
fn pickles_that_are_none_are_refused_where_they_go_wrong() {
    use SourceErrorKind::{Invalid, Truncated, Unsupported};
    let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";
    let rebuilt = |rest: &[u8]| {
        [b"\x80\x02}X\x01\0\0\0tctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], rest, b"\x89NtRs."]
            .concat()
    };
    let cases: Vec<(Vec<u8>, SourceErrorKind, &str)> = vec![
        (b"\x80\x02".to_vec(), Truncated, "ends inside"),
        (b"\x80\x00.".to_vec(), Unsupported, "protocol 0"),
        (b"\x80\x02.".to_vec(), Invalid, "the stack is empty"),
        (b"\x80\x020.".to_vec(), Invalid, "the stack is empty"),
        (b"\x80\x02NR.".to_vec(), Invalid, "the stack is empty"),
        (b"\x80\x02NNR.".to_vec(), Invalid, "no function"),
        (b"\x80\x02)(0R.".to_vec(), Invalid, "the stack is empty"),
        (b"\x80\x02t.".to_vec(), Invalid, "no mark"),
        (b"\x80\x02\x87.".to_vec(), Invalid, "the stack is empty"),
        (b"\x80\x02h\x07.".to_vec(), Invalid, "under the number 7"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.".to_vec(), Invalid, "far more than its own length"),
        (b"\x80\x02X\xff\xff\xff\xffab.".to_vec(), Truncated, "ends inside"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.".to_vec(), Truncated, "ends inside"),
        (b"\x80\x02X\x02\0\0\0\xff\xfe.".to_vec(), Invalid, "UTF-8"),
        (b"\x80\x02\x82\x01.".to_vec(), Invalid, "operation 0x82"),
        (b"\x80\x02(ios\nsystem\n.".to_vec(), Invalid, "operation 0x69"),
        (b"\x80\x02I1\n.".to_vec(), Invalid, "operation 0x49"),
        (b"\x80\x02}NNa.".to_vec(), Invalid, "no list"),
        (b"\x80\x02}Ns.".to_vec(), Invalid, "pairs are missing"),
        (b"\x80\x02NNNs.".to_vec(), Invalid, "no dictionary"),
        (b"\x80\x02}(Nu.".to_vec(), Invalid, "pairs are missing"),
        (b"\x80\x02cargparse\nNamespace\n)\x81.".to_vec(), Unsupported, "no checkpoint"),
        (b"\x80\x02}Ncargparse\nNamespace\n)\x81s.".to_vec(), Unsupported, "no tensors that are read"),
        (b"\x80\x02cargparse\nNamespace\nNR.".to_vec(), Invalid, "no function"),
        (b"\x80\x02cnumpy\ndtype\n)R.".to_vec(), Invalid, "makes none"),
        (b"\x80\x02c_codecs\nencode\nX\x01\0\0\0xX\x03\0\0\0hex\x86R.".to_vec(), Unsupported, "another encoding"),
        (b"\x80\x02(o.".to_vec(), Invalid, "the stack is empty"),
        (b"\x80\x02NNb.".to_vec(), Invalid, "attributes"),
        (b"\x80\x02X\x01\0\0\0xQ.".to_vec(), Invalid, "no storage"),
        // A dictionary that contains itself, and a list that does.
        (b"\x80\x02}q\0X\x01\0\0\0ah\0s.".to_vec(), Unsupported, "nested deeper"),
        (b"\x80\x02]q\0h\0a.".to_vec(), Unsupported, "nested deeper"),
        (rebuilt(b"K\0(K\x02K\x02t(K\x02K\x01t"), SourceErrorKind::NotFound, ""),
        (rebuilt(b"K\x01(K\x02K\x02t(K\x02K\x01t"), SourceErrorKind::OutOfRange, "which has 16"),
        (rebuilt(b"K\0(K\x02K\x02t(K\x03K\x01t"), SourceErrorKind::OutOfRange, "which has 16"),
        (rebuilt(b"K\0(K\x02t(K\x02K\x01t"), Invalid, "different lengths"),
        (rebuilt(b"K\0(J\xff\xff\xff\xfft(K\x01t"), Invalid, "negative"),
        (rebuilt(b"K\0(K\x02t(\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7ft"), Invalid, "overflows"),
        (rebuilt(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f(K\x02t(K\x01t"), Invalid, "overflows"),
        (rebuilt(b"K\0(\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0t(K\0t"), Invalid, "64 bits"),
        (rebuilt(b"K\0(\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7ft(K\0K\0t"), Invalid, "overflows"),
        (rebuilt(b"NNN"), Invalid, "no list"),
    ];
    for (pickle, kind, says) in cases {
        let file = archive(&pickle);
        let (result, held) = opened(&file);
        let what = pickle.escape_ascii();
        assert!(held <= allowed(file.len()), "{what}: {held} bytes");
        match result {
            // The one that is as it should be shows that the others fail for their own reason.
            Ok(map) => assert!(
                kind == SourceErrorKind::NotFound && map.get("t").unwrap().bytes() == [7; 16],
                "{what}"
            ),
            Err(e) => assert!(e.kind() == kind && e.to_string().contains(says), "{what}: {e}"),
        }
    }
}

#[test]
fn archives_that_are_none_are_refused() {
    use SourceErrorKind::{Invalid, Truncated, Unsupported};
    let pickle = &b"\x80\x02}."[..];
    let data = stored("a/data.pkl", pickle);
    let whole = archive(pickle);
    let spoilt = |from: &[u8], to: &[u8]| {
        let mut file = whole.clone();
        let at = file.windows(from.len()).rposition(|w| w == from).unwrap();
        file[at..at + to.len()].copy_from_slice(to);
        file
    };
    let cases: Vec<(Vec<u8>, SourceErrorKind, &str)> = vec![
        (zip(&[stored("a/other", b"")]), Invalid, "without a data.pkl"),
        (zip(&[stored("a/data.pkl", pickle), stored("b/data.pkl", pickle)]), Invalid, "two pickles"),
        (
            zip(&[stored("a/data.pkl", pickle), stored("a/data.pkl", pickle)]),
            Invalid,
            "two entries are called",
        ),
        (zip(&[Entry { method: 8, ..data }]), Unsupported, "compressed (method 8)"),
        (zip(&[Entry { name: "a/data.pkl", bytes: pickle, method: 0, flags: 1 }]), Unsupported, "encrypted"),
        (zip(&[stored("a/data.pkl", pickle), stored("a/byteorder", b"middle")]), Invalid, "byte order"),
        (whole[..whole.len() - 1].to_vec(), Truncated, "without its end"),
        (spoilt(b"PK\x01\x02", b"PK\x01\x03"), Invalid, "an entry of the directory that is none"),
        (
            spoilt(b"PK\x05\x06\0\0\0\0\x02\0\x02\0", b"PK\x05\x06\0\0\0\0\x02\0\x03\0"),
            Invalid,
            "not as many entries",
        ),
        (spoilt(b"a/data.pkl", b"a/data.pkk"), Invalid, "without a data.pkl"),
    ];
    for (file, kind, says) in cases {
        let (result, held) = opened(&file);
        let e = result.unwrap_err();
        assert!(e.kind() == kind && e.to_string().contains(says), "{says}: {e}");
        assert!(held <= allowed(file.len()), "{says}: {held} bytes");
    }
    // Its own header disagrees with the directory.
    let mut file = whole.clone();
    file[30..40].copy_from_slice(b"a/data.xyz");
    let e = opened(&file).0.unwrap_err();
    assert!(e.to_string().contains("not what the directory says"), "{e}");
    // Sizes of all ones without the field that would hold the real ones; a directory beyond the file.
    let end = whole.len() - 22;
    for (at, says) in [(end + 12, "must be inside"), (end + 16, "must be inside")] {
        let mut file = whole.clone();
        file[at..at + 4].copy_from_slice(&[0xFF; 4]);
        let e = opened(&file).0.unwrap_err();
        assert!(e.kind() == Invalid && e.to_string().contains(says), "{e}");
    }
    let header = whole.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let mut file = whole.clone();
    file[header + 24..header + 28].copy_from_slice(&[0xFF; 4]);
    let e = opened(&file).0.unwrap_err();
    assert!(e.to_string().contains("without its zip64 field"), "{e}");
}

#[test]
fn memory_stays_in_proportion_to_the_pickle() {
    let n = 200_000;
    let laughs = |shared: &[u8]| {
        // Twenty dictionaries, each of which holds the one before it twice.
        let mut pickle = [b"\x80\x02", shared, b"q\0"].concat();
        for level in 1..=20u8 {
            pickle.extend(
                [&b"}(X\x01\0\0\0ah"[..], &[level - 1], b"X\x01\0\0\0bh", &[level - 1], b"uq", &[level]]
                    .concat(),
            );
        }
        pickle.push(b'.');
        pickle
    };
    // A text of 100 kB that is kept, and asked for again and again.
    let long = [&b"\x80\x02X\xa0\x86\x01\0"[..], &vec![b'x'; 100_000], b"q\0"].concat();
    let many = |part: &[u8], n: usize, end: &[u8]| [&long[..], b"](", &part.repeat(n), b"e", end].concat();
    let namespace = b"cargparse\nNamespace\nq\x01)\x81q\x02";
    let cases: [(&str, Vec<u8>); 13] = [
        ("objects", [&b"\x80\x02]("[..], &namespace[..], &b"h\x01)\x81".repeat(n / 4), b"e."].concat()),
        (
            "objects in objects",
            [&b"\x80\x02"[..], namespace, &b"h\x01h\x02\x85\x81q\x02".repeat(n / 8), b"."].concat(),
        ),
        ("keys of long texts", [&long[..], b"}((h\0h\0h\0h\0tNu."].concat()),
        ("long names", many(b"h\0h\0\x93", n / 4, b".")),
        (
            "long numbers",
            many(b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8\x85Rh\0\x86R", n / 100, b"."),
        ),
        ("nothings", [&b"\x80\x02"[..], &vec![b'N'; n], b"."].concat()),
        ("marks", [&b"\x80\x02"[..], &vec![b'('; n], b"."].concat()),
        ("tuples", [&b"\x80\x02"[..], &vec![b')'; n], b"."].concat()),
        ("dictionaries", [&b"\x80\x02"[..], &vec![b'}'; n], b"."].concat()),
        ("kept things", [&b"\x80\x04N"[..], &vec![0x94; n], b"."].concat()),
        ("nested tuples", [&b"\x80\x02N"[..], &vec![0x85; n], b"."].concat()),
        ("laughs of nothing", laughs(b"}")),
        ("laughs of numbers", laughs(b"K\x01")),
    ];
    for (what, pickle) in cases {
        let file = archive(&pickle);
        let (result, held) = opened(&file);
        assert!(result.is_err(), "{what}: {result:?}");
        assert!(held <= allowed(file.len()), "{what}: {held} bytes for {}", file.len());
    }
}

#[test]
fn an_expanded_tensor_takes_no_memory_that_is_not_there() {
    // The story: four bytes that are said to be expanded to 2^60 elements must not abort the process.
    let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";
    let size = b"K\0(\x8a\x08\0\0\0\0\0\0\0\x10t(K\0t\x89NtRs.";
    let file =
        archive(&[b"\x80\x02}X\x01\0\0\0tctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], size].concat());
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.pt");
    std::fs::write(&path, file).unwrap();
    let map = DiskMap::open(&path).unwrap();
    assert_eq!(map.tensor("t").unwrap().meta().bytes(), 1 << 62);
    assert_eq!(map.get("t").unwrap_err().kind(), SourceErrorKind::Unsupported);
    let mut some = [0; 10];
    vram_types::WeightSourceExt::read_range(&map, "t", (1 << 60) + 1..(1 << 60) + 11, &mut some).unwrap();
    assert_eq!(some, [7; 10]);
}

fn fixtures() -> Vec<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    [
        "torch/layouts.pt",
        "torch/nested.ckpt",
        "torch/protocol4.pt",
        "torch/foreign.pt",
        "torch/foreign5.pt",
        "torch/legacy_nested.pth",
        "gguf/numbers.gguf",
        "gguf/blocks.gguf",
    ]
    .map(|name| tests.join(name))
    .to_vec()
}

#[test]
fn mutated_files_are_refused_or_readable_within_their_memory() {
    let seed = std::env::var("VRAM_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1u64);
    eprintln!("VRAM_TEST_SEED={seed}");
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below
    };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m");
    for fixture in fixtures() {
        let whole = std::fs::read(&fixture).unwrap();
        for round in 0..400 {
            let mut file = whole.clone();
            for _ in 0..=random(4) {
                let at = random(file.len());
                file[at] = match random(4) {
                    0 => 0,
                    1 => 0xFF,
                    2 => file[at] ^ 1 << random(8),
                    _ => random(256) as u8,
                };
            }
            std::fs::write(&path, &file).unwrap();
            let (result, held) = peak(|| DiskMap::open(&path));
            let what = format!("{} round {round}", fixture.display());
            assert!(held <= allowed(file.len()), "{what}: {held} bytes for {}", file.len());
            let Ok(map) = result else { continue };
            for (name, info) in map.iter().filter(|(_, info)| info.meta().bytes() < 1 << 20) {
                assert_eq!(map.get(name).unwrap().bytes().len() as u64, info.meta().bytes(), "{what}");
            }
        }
    }
}
