//! `forward` on a GGUF file, whose weights stay in blocks.

use std::fs;
use std::path::Path;

use vram_diskmap::DiskMap;
use vram_types::cast::cast;
use vram_types::{DType, WeightSource};

use crate::engine::{FORWARD, tensor, with_golden};
use crate::{json, run};

/// The tensors of a file as GGUF: matrices in Q8_0, the others as they are in bf16.
fn to_gguf(from: &Path, to: &Path) {
    let map = DiskMap::open(from).unwrap();
    let names: Vec<&str> = map.names().collect();
    let (mut header, mut data) = (b"GGUF".to_vec(), Vec::new());
    header.extend(3u32.to_le_bytes());
    header.extend([names.len() as u64, 0].map(u64::to_le_bytes).concat());
    for name in names {
        let tensor = map.get(name).unwrap();
        let shape = tensor.meta().shape();
        let (number, bytes) = match shape.rank() {
            2 => (8u32, q8_0(tensor.bytes())),
            _ => (30, tensor.bytes().to_vec()),
        };
        header.extend((name.len() as u64).to_le_bytes());
        header.extend(name.as_bytes());
        header.extend((shape.rank() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&extent| header.extend((extent as u64).to_le_bytes()));
        header.extend(number.to_le_bytes());
        header.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    header.resize(header.len().next_multiple_of(32), 0);
    fs::write(to, [header, data].concat()).unwrap();
}

/// Of each 32 elements the scale as f16, and their multiples of it.
fn q8_0(bf16: &[u8]) -> Vec<u8> {
    let mut wide = vec![0; bf16.len() * 2];
    cast(bf16, DType::BF16, &mut wide, DType::F32).unwrap();
    let values: Vec<f32> = wide.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let block = |values: &[f32]| {
        let scale = values.iter().fold(0f32, |most, v| most.max(v.abs())) / 127.0;
        let mut block = vec![0; 2];
        cast(&scale.to_le_bytes(), DType::F32, &mut block, DType::F16).unwrap();
        block.extend(values.iter().map(|v| (v / scale.max(1e-9)).round() as i8 as u8));
        block
    };
    values.chunks_exact(32).flat_map(block).collect()
}

#[test]
fn forward_keeps_blocks_and_gives_what_decoded_weights_give() {
    let dir = with_golden();
    let gguf = dir.path().join("m.gguf");
    to_gguf(&dir.path().join("controlnet_small.safetensors"), &gguf);
    run("extract m.gguf --dtype f32 -o decoded.safetensors", dir.path(), 0);
    let out = dir.path().join("out.safetensors");
    let forward = |weights: &str, flags: &str| {
        let line = FORWARD.replace("controlnet_small.safetensors", weights);
        fs::remove_file(&out).unwrap_or_default();
        let report = json(&format!("{line} --dtype f32 {flags}"), dir.path());
        (tensor(&out, "output").1, report)
    };
    let (expected, decoded) = forward("decoded.safetensors", "");
    let (resident, blocks) = forward("m.gguf", "");
    assert!(resident == expected);
    let bytes = |report: &serde_json::Value| report["weights_bytes"].as_u64().unwrap();
    assert!(bytes(&blocks) * 3 < bytes(&decoded), "{blocks}");
    assert_eq!(blocks.get("decoded_on_host"), None);
    let smallest = blocks["smallest_budget_bytes"].as_u64().unwrap();
    for budget in [smallest, smallest + 100_000] {
        let (streamed, report) = forward("m.gguf", &format!("--budget {budget}B"));
        assert!(streamed == expected && report["peak_bytes"].as_u64().unwrap() <= budget, "{report}");
    }
    // Not what the weights were before they were quantised.
    assert!(forward("controlnet_small.safetensors", "").0 != expected);
}
