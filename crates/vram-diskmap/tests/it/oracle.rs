//! Against the format's own crate: what we accept it accepts, with equal content; what it refuses we refuse.

use proptest::prelude::*;
use safetensors::SafeTensors;
use vram_diskmap::DiskMap;

use crate::counting::{allowed, peak};
use crate::helpers::{noise, serialized};

/// Opens the bytes as a file of ours; a map that opens must read every tensor.
fn compare(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let (map, held) = peak(|| DiskMap::open(&path));
    prop_assert!(held <= allowed(bytes.len()), "{} bytes held for a file of {}", held, bytes.len());
    let oracle = SafeTensors::deserialize(bytes);
    let Ok(map) = map else { return Ok(false) };
    let oracle = match oracle {
        Ok(oracle) => oracle,
        Err(e) => {
            return Err(TestCaseError::fail(format!("accepted what the oracle refuses: {e}")));
        }
    };
    prop_assert_eq!(map.len(), oracle.len());
    for (name, info) in map.iter() {
        let view = oracle.tensor(name).unwrap();
        prop_assert_eq!(format!("{:?}", view.dtype()), info.dtype().name());
        prop_assert_eq!(view.shape(), info.shape().dims());
        prop_assert!(view.data() == map.get(name).unwrap().bytes());
    }
    Ok(true)
}

fn dtypes() -> impl Strategy<Value = safetensors::Dtype> {
    use safetensors::Dtype::*;
    prop::sample::select(vec![
        BOOL,
        F4,
        F6_E2M3,
        F6_E3M2,
        U8,
        I8,
        F8_E5M2,
        F8_E4M3,
        F8_E8M0,
        F8_E4M3FNUZ,
        F8_E5M2FNUZ,
        I16,
        U16,
        F16,
        BF16,
        I32,
        U32,
        F32,
        C64,
        F64,
        I64,
        U64,
    ])
}

fn files() -> impl Strategy<Value = Vec<u8>> {
    let shape = prop::collection::vec(0..5usize, 0..6);
    let tensor = (".{0,12}", dtypes(), shape, any::<bool>()).prop_map(|(name, dtype, mut shape, even)| {
        // Whole bytes whatever the dtype, most of the time.
        shape.push(if even { 8 } else { 4 });
        let elements: usize = shape.iter().product();
        let bytes = elements * dtype.bitsize() / 8;
        (name, dtype, shape, noise(bytes as u64, bytes))
    });
    prop::collection::vec(tensor, 0..6).prop_map(|mut tensors| {
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors.dedup_by(|a, b| a.0 == b.0);
        tensors.retain(|t| t.0 != "__metadata__");
        serialized(&tensors)
    })
}

/// A header as text, with pieces that are nearly right.
fn headers() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "\\u0061", "\\n", "__metadata__", ""]);
    let dtype =
        prop::sample::select(vec!["\"U8\"", "\"F32\"", "\"F4\"", "\"\\u0055\\u0038\"", "null", "\"u8\""]);
    let shape = prop::sample::select(vec![
        "[4]",
        "[]",
        "[2,2]",
        "[0]",
        "[ 4 ]",
        "[04]",
        "[4.0]",
        "[-0]",
        "[18446744073709551615,2,0]",
        "null",
        "[1,]",
    ]);
    let offsets =
        prop::sample::select(vec!["[0,4]", "[4,8]", "[0,0]", "[4,4]", "[0,2]", "[0,16]", "[8,4]", "[0,4,8]"]);
    let tensor =
        (name, dtype, shape, offsets, any::<bool>()).prop_map(|(name, dtype, shape, offsets, extra)| {
            let extra = if extra { "" } else { ",\"x\":1" };
            format!(r#""{name}":{{"dtype":{dtype}, "shape":{shape},"data_offsets":{offsets}{extra}}}"#)
        });
    let before = prop::sample::select(vec!["", "", "", " ", "\n"]);
    let after = prop::sample::select(vec!["", "", "   ", "\n", ",", "x"]);
    let metadata = prop::sample::select(vec![
        "",
        "",
        r#""__metadata__":{"k":"v"},"#,
        r#""__metadata__":{"k":1},"#,
        r#""__metadata__":null,"#,
    ]);
    (before, metadata, prop::collection::vec(tensor, 0..4), after).prop_map(
        |(before, metadata, tensors, after)| format!("{before}{{{metadata}{}}}{after}", tensors.join(",")),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_oracle_writes_we_read(file in files()) {
        prop_assert!(compare(&file)?);
    }

    #[test]
    fn mutations_are_refused_or_readable(
        file in files(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        in_header in any::<bool>(),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut file = file;
        let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        for (place, byte) in changes {
            let place = if in_header { place.index(header) } else { place.index(file.len()) };
            file[place] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        compare(&file)?;
    }

    #[test]
    fn nearly_right_headers(header in headers(), data in 0..20usize) {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.resize(file.len() + data, 7);
        compare(&file)?;
    }

    #[test]
    fn bytes_of_any_kind(file in prop::collection::vec(any::<u8>(), 0..200)) {
        compare(&file)?;
    }
}

#[test]
fn what_only_we_refuse() {
    let both = |header: &str, data: usize| {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.resize(file.len() + data, 0);
        assert!(SafeTensors::deserialize(&file).is_ok(), "the oracle no longer accepts {header}");
        assert!(!compare(&file).unwrap(), "{header}");
    };
    let t = r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    both(&format!(r#" {{"a":{t}}}"#), 4);
    both(&format!("{{\"a\":{t}}}\n"), 4);
    both(r#"{"__metadata__":null}"#, 0);
    both(r#"{"a":["U8",[4],[0,4]]}"#, 4);
    both(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"more":[1]}}"#, 4);
    both(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0);
}
