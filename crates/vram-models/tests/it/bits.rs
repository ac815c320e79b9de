//! Hashes of what the golden models compute, to the bit, as `golden/bits.txt` has them.
//!
//! A refactoring once changed the order of a sum and stayed within every tolerance. Here a changed bit is a failure.
//! Bits depend on the instruction set, and on GPUs on the driver, so each line names what computed it; a line that
//! this machine cannot compute is skipped and said so. `VRAM_RECORD=1` adds lines that are missing and never
//! replaces one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use vram_device::Kernels;
use vram_device::cpu::{Cpu, CpuOptions, Isa, IsaKind};
use vram_diskmap::DiskMap;
use vram_layers::ModuleMap;
use vram_types::{DType, WeightSource};

use crate::common::{config, golden};
use crate::controlnet::{managed, output};
use crate::minilm::MiniLm;

/// One file for all tests of this process.
static FILE: Mutex<()> = Mutex::new(());

fn path() -> PathBuf {
    golden("bits.txt")
}

fn read() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    lines.map(|l| l.rsplit_once(": ").map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap()).collect()
}

/// FNV-1a, 64 bits: enough to see a change.
fn hash(bytes: &[u8]) -> String {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Compares the outputs of the golden models on a device with the hashes that are known for `name`.
pub(crate) fn check(name: &str, device: &Arc<dyn Kernels>) {
    let mut found = BTreeMap::new();
    let source: Arc<dyn WeightSource> =
        Arc::new(DiskMap::open(golden("controlnet_small.safetensors")).unwrap());
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let map = ModuleMap::standard();
        let model = managed(Arc::clone(&source), Arc::clone(device), &map, config(dtype, 1 << 30));
        found.insert(format!("{name}, controlnet {dtype}"), hash(&output(&model)));
    }
    if let Some(minilm) = MiniLm::open() {
        let ids: Vec<&[u32]> = minilm.ids.iter().take(3).map(Vec::as_slice).collect();
        for dtype in [DType::F32, DType::BF16] {
            let model = minilm.on(Arc::clone(device), config(dtype, 1 << 30));
            let embeddings = model.run(|m, fwd| m.embed(fwd, &ids)).unwrap().concat();
            let bytes: Vec<u8> = embeddings.iter().flat_map(|v| v.to_le_bytes()).collect();
            found.insert(format!("{name}, minilm {dtype}"), hash(&bytes));
        }
    }
    let _one = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut known = read();
    let record = std::env::var_os("VRAM_RECORD").is_some();
    for (what, hash) in found {
        match known.get(&what) {
            Some(known) => assert_eq!(*known, hash, "{what}: the bits changed"),
            None if record => drop(known.insert(what, hash)),
            None => println!("skipped: no bits are known for {what}"),
        }
    }
    if record {
        let mut text = String::from("# Hashes of golden outputs; see tests/it/bits.rs.\n");
        known.iter().for_each(|(what, hash)| text += &format!("{what}: {hash}\n"));
        std::fs::write(path(), text).unwrap();
    }
}

#[test]
fn the_cpu_gives_the_bits_that_are_known() {
    for kind in IsaKind::ALL {
        match Isa::new(kind) {
            Ok(isa) => {
                let options = CpuOptions { isa: Some(isa), ..Default::default() };
                let cpu: Arc<dyn Kernels> = Arc::new(Cpu::new(options).unwrap());
                check(&format!("cpu {kind} {}", std::env::consts::ARCH), &cpu);
            }
            Err(why) => println!("skipped: {why}"),
        }
    }
}
