//! Weights whose numbers need tensors beside them: decoded with these, or refused by name, and
//! never cast alone.

use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use vram_diskmap::{DiskMap, Extract, Extracted};
use vram_types::cast::cast;
use vram_types::encoding::{SchemeKind, companions};
use vram_types::{CancelToken, DType, SourceError, SourceErrorKind, WeightSource};

use crate::helpers::{Written, noise, write};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scaled").join(name)
}

fn extracted(path: &Path, dtype: DType, names: Option<&[&str]>) -> Result<(DiskMap, Extracted), SourceError> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = dir.path().join("out.safetensors");
    let map = DiskMap::open(path).unwrap();
    let extract = Extract::new(&map).dtype(dtype);
    let extract = names.into_iter().fold(extract, |extract, names| extract.names(names.iter().copied()));
    let bytes = extract.bytes()?;
    let done = extract.run(&out, &CancelToken::new(), &mut |_| {})?;
    assert_eq!(bytes, done.bytes);
    Ok((DiskMap::open(&out).unwrap(), done))
}

fn floats(map: &DiskMap, name: &str) -> Vec<f32> {
    let tensor = map.get(name).unwrap();
    let mut wide = vec![0; tensor.meta().elements() as usize * 4];
    cast(tensor.bytes(), tensor.meta().dtype(), &mut wide, DType::F32).unwrap();
    wide.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn tensor(name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Written {
    (name.to_owned(), dtype, shape.to_vec(), bytes)
}

/// Numbers near one, of which no two are the same for long.
fn scales(seed: u64, count: usize) -> Vec<f32> {
    noise(seed, count).iter().map(|&byte| 0.5 + f32::from(byte) / 128.0).collect()
}

/// Bytes of fp8 without its not-a-numbers.
fn fp8(seed: u64, count: usize) -> Vec<u8> {
    noise(seed, count).into_iter().map(|byte| byte & 0xBF).collect()
}

#[test]
fn the_files_of_others_are_understood_or_refused_by_name() {
    let map = DiskMap::open(file("comfy.safetensors")).unwrap();
    let found = companions(map.names(), |name| Some(map.locate(name)?.meta));
    let scheme = found.of("l.weight").unwrap().unwrap();
    assert!(matches!(&scheme.kind, SchemeKind::Scaled(blocks) if blocks.extents() == [2, 2]), "{scheme:?}");
    assert_eq!(
        (&scheme.ignored[..], found.markers()),
        (&["l.scale_input".to_owned()][..], &["scaled_fp8".to_owned()][..])
    );
    let (copy, done) = extracted(&file("comfy.safetensors"), DType::F32, None).unwrap();
    assert!(copy.names().eq(["l.weight"]));
    let mut applied = done.applied;
    applied.sort();
    assert_eq!(applied, ["l.scale_input", "l.scale_weight", "scaled_fp8"]);
    let (weight, scale) = (floats(&map, "l.weight"), floats(&map, "l.scale_weight")[0]);
    assert_eq!(floats(&copy, "l.weight"), weight.iter().map(|w| w * scale).collect::<Vec<_>>());
    assert_ne!(scale, 1.0);

    let path = file("nf4.safetensors");
    let map = DiskMap::open(&path).unwrap();
    let found = companions(map.names(), |name| Some(map.locate(name)?.meta));
    assert_eq!(found.of("l.weight").unwrap().unwrap().kind, SchemeKind::CodeBook { nested: false });
    assert!(matches!(found.of("q.qweight").unwrap().unwrap().kind, SchemeKind::Unsupported(_)));
    let error = extracted(&path, DType::BF16, Some(&["q.qweight"])).unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Unsupported, Some("q.qweight")));
    assert!(error.message().contains("GPTQ"), "{error}");
    let error = extracted(&path, DType::BF16, Some(&["l.weight"])).unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Invalid, "{error}");
    assert!(error.tensor().unwrap().starts_with("l.weight."), "{error}");
    // Without a cast everything is as it was.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = dir.path().join("out.safetensors");
    let done = Extract::new(&map).run(&out, &CancelToken::new(), &mut |_| {}).unwrap();
    assert!(done.applied.is_empty());
    let copy = DiskMap::open(&out).unwrap();
    assert!(map.names().all(|name| copy.get(name).unwrap() == map.get(name).unwrap()));
}

#[test]
fn scales_of_tensors_rows_and_blocks_are_applied() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    // Several pieces of the copy, and blocks that are cut off.
    let (rows, columns) = (700, 900);
    let weight = fp8(1, rows * columns);
    let mut wide = vec![0; weight.len() * 4];
    cast(&weight, DType::F8_E4M3, &mut wide, DType::F32).unwrap();
    let stored: Vec<f32> = wide.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    for (name, shape, block) in [
        ("l.weight_scale", vec![], [rows, columns]),
        ("l.scale_weight", vec![rows], [1, columns]),
        ("l.weight_scale_inv", vec![6, 8], [128, 128]),
        ("l.weight_scale", vec![rows, 9], [1, 100]),
    ] {
        let counts = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
        let scales = scales(2, counts[0] * counts[1]);
        let tensors = [
            tensor("l.bias", Dtype::F32, &[3], le(&[1.0, 2.0, 3.0])),
            tensor("l.weight", Dtype::F8_E4M3, &[rows, columns], weight.clone()),
            tensor(name, Dtype::F32, &shape, le(&scales)),
        ];
        write(&path, &tensors);
        let right: Vec<f32> = stored
            .iter()
            .enumerate()
            .map(|(i, value)| {
                let (row, column) = (i / columns / block[0], i % columns / block[1]);
                value * scales[row * counts[1] + column]
            })
            .collect();
        let (copy, done) = extracted(&path, DType::F32, None).unwrap();
        assert!(floats(&copy, "l.weight") == right, "{name} {shape:?}");
        assert_eq!((done.applied.as_slice(), copy.len()), (&[name.to_owned()][..], 2));
        let (copy, _) = extracted(&path, DType::BF16, None).unwrap();
        let mut rounded = vec![0; right.len() * 2];
        cast(&le(&right), DType::F32, &mut rounded, DType::BF16).unwrap();
        assert!(copy.get("l.weight").unwrap().bytes() == rounded, "{name} {shape:?}");
        // What has the dtype already stays, and its scale stays what it is.
        let (copy, done) = extracted(&path, DType::F8_E4M3, None).unwrap();
        assert!(copy.get("l.weight").unwrap().bytes() == weight && done.applied.is_empty());
        assert_eq!(copy.get(name).unwrap().bytes(), le(&scales));
        assert_eq!(copy.tensor("l.bias").unwrap().dtype(), DType::F8_E4M3);
        // A scale that is asked for by itself is a tensor like any other.
        let (copy, _) = extracted(&path, DType::BF16, Some(&[name])).unwrap();
        assert_eq!(copy.tensor(name).unwrap().dtype(), DType::BF16);
        // Opened with another dtype each tensor is cast by itself.
        let error = DiskMap::options().dtype(DType::BF16).open(&path).unwrap_err();
        assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Unsupported, Some("l.weight")));
        assert!(error.message().contains(name), "{error}");
    }
    let unknown = [
        tensor("l.weight", Dtype::F8_E4M3, &[2, 2], fp8(1, 4)),
        tensor("l.weight_scalar", Dtype::F32, &[], le(&[2.0])),
    ];
    write(&path, &unknown);
    for error in [
        extracted(&path, DType::BF16, None).unwrap_err(),
        DiskMap::options().dtype(DType::BF16).open(&path).unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Unsupported, Some("l.weight")));
        assert!(error.message().contains("l.weight_scalar"), "{error}");
    }
}

#[test]
fn int8_has_its_rows_scales() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    let (rows, columns) = (5, 7);
    let (weight, scales) = (noise(1, rows * columns), scales(2, rows));
    let tensors = |scale: &str, format: u8| {
        vec![
            tensor("l.weight", Dtype::I8, &[rows, columns], weight.clone()),
            tensor(scale, Dtype::F32, &[rows], le(&scales)),
            tensor("l.weight_format", Dtype::U8, &[], vec![format]),
        ]
    };
    let right = |over: f32| -> Vec<f32> {
        let value = |(i, byte): (usize, &u8)| f32::from(*byte as i8) * scales[i / columns] * over;
        weight.iter().enumerate().map(value).collect()
    };
    write(&path, &tensors("l.SCB", 0));
    let (copy, done) = extracted(&path, DType::F32, None).unwrap();
    assert_eq!((floats(&copy, "l.weight"), done.applied.len()), (right(1.0 / 127.0), 2));
    write(&path, &tensors("l.SCB", 1));
    let error = extracted(&path, DType::F32, None).unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Unsupported, Some("l.weight")));
    assert!(error.message().contains("l.weight_format"), "{error}");
    write(&path, &tensors("l.weight_scale", 0));
    let (copy, _) = extracted(&path, DType::F32, None).unwrap();
    assert_eq!(floats(&copy, "l.weight"), right(1.0));
}

#[test]
fn four_bits_choose_from_a_book() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    let (rows, columns, run, nested_run) = (301, 1024, 64, 256);
    let elements = rows * columns;
    let (packed, book) = (noise(1, elements / 2), scales(2, 16));
    let runs = elements / run;
    let choose = |i: usize| {
        book[usize::from(if i.is_multiple_of(2) { packed[i / 2] >> 4 } else { packed[i / 2] & 15 })]
    };
    let common = |state: &str| {
        vec![
            tensor("l.weight", Dtype::U8, &[elements / 2, 1], packed.clone()),
            tensor("l.weight.quant_map", Dtype::F32, &[16], le(&book)),
            tensor("l.weight.quant_state.bitsandbytes__nf4", Dtype::U8, &[state.len()], state.into()),
        ]
    };
    let plain = scales(3, runs);
    let state = format!(r#"{{"quant_type": "nf4", "blocksize": {run}, "shape": [{rows}, {columns}]}}"#);
    let mut tensors = common(&state);
    tensors.push(tensor("l.weight.absmax", Dtype::F32, &[runs], le(&plain)));
    write(&path, &tensors);
    let (copy, done) = extracted(&path, DType::F32, None).unwrap();
    let right: Vec<f32> = (0..elements).map(|i| choose(i) * plain[i / run]).collect();
    assert_eq!(copy.tensor("l.weight").unwrap().shape().dims(), [rows, columns]);
    assert!(floats(&copy, "l.weight") == right && copy.len() == 1 && done.applied.len() == 3);

    let (chosen, nested_book, outer) = (noise(4, runs), scales(5, 256), scales(6, runs.div_ceil(nested_run)));
    let offset = 0.03125;
    let state = format!(
        r#"{{"blocksize": {run}, "shape": [{rows}, {columns}], "nested_blocksize": {nested_run}, "nested_offset": {offset}}}"#
    );
    let mut tensors = common(&state);
    tensors.push(tensor("l.weight.absmax", Dtype::U8, &[runs], chosen.clone()));
    tensors.push(tensor("l.weight.nested_quant_map", Dtype::F32, &[256], le(&nested_book)));
    tensors.push(tensor("l.weight.nested_absmax", Dtype::F32, &[outer.len()], le(&outer)));
    write(&path, &tensors);
    let absmax = |n: usize| nested_book[usize::from(chosen[n])] * outer[n / nested_run] + offset as f32;
    let right: Vec<f32> = (0..elements).map(|i| choose(i) * absmax(i / run)).collect();
    let (copy, _) = extracted(&path, DType::F32, None).unwrap();
    assert!(floats(&copy, "l.weight") == right);

    // Descriptions that do not fit what is there.
    for (from, to) in [
        (format!("[{rows}, "), "[300, ".to_owned()),
        (format!(r#""blocksize": {run}"#), r#""blocksize": 0"#.to_owned()),
        (r#""nested_offset": 0.03125"#.to_owned(), r#""nested_offset": "a lot""#.to_owned()),
        (format!(r#", "nested_blocksize": {nested_run}, "nested_offset": {offset}"#), String::new()),
    ] {
        let wrong = state.replace(&from, &to);
        assert_ne!(wrong, state, "{from}");
        let mut tensors = tensors.clone();
        tensors[2] = tensor(&tensors[2].0.clone(), Dtype::U8, &[wrong.len()], wrong.into_bytes());
        write(&path, &tensors);
        let error = extracted(&path, DType::F32, None).unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Invalid, "{error}");
        assert!(error.tensor().unwrap().starts_with("l.weight"), "{error}");
    }
}
