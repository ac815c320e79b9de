//! The code of the repository's README, run on small checkpoints that it generates.
//! `cargo xtask tidy` compares the two, and `cargo test` runs this example.
//!
//! `cargo run --release -p vram-stream --example readme`

use std::error::Error;

use vram_stream::alloc::{Parameter, Path, Visitor, walk};
use vram_stream::diskmap::SafetensorsWriter;
use vram_stream::models::controlnet::{Config, ControlNet, Inputs};
use vram_stream::{DType, TensorMeta, skip_init};

const CONFIG: Config = Config { blocks: 2, width: 64, inputs: 16, dtype: DType::BF16 };
const TOKENS: usize = 4;

struct Metas(Vec<(String, TensorMeta)>);

impl<'a> Visitor<'a> for Metas {
    fn parameter(&mut self, path: &Path, parameter: &'a Parameter) {
        self.0.push((path.to_string(), parameter.meta().clone()));
    }
}

/// A ControlNet whose weights are all 1/128.
fn write_checkpoint(path: &str) -> Result<(), Box<dyn Error>> {
    let mut metas = Metas(Vec::new());
    walk(&skip_init(|| ControlNet::new(&CONFIG))?, &mut metas);
    let mut writer = SafetensorsWriter::create(path, metas.0, &[])?;
    let weights = writer.remaining() as usize / 2;
    writer.write(&0x3c00u16.to_le_bytes().repeat(weights))?;
    Ok(writer.finish()?)
}

#[allow(clippy::single_range_in_vec_init, reason = "a range for one dimension is what is meant")]
fn one_tensor() -> Result<(), Box<dyn Error>> {
    use vram_diskmap::DiskMap;

    let map = DiskMap::open("model.safetensors")?; // reads the header, nothing else
    for (name, info) in map.iter().take(3) {
        println!("{name}: {} {}", info.dtype(), info.shape());
    }
    let weight = map.get("img_in.weight")?; // reads this tensor
    let rows = map.get_slice("img_in.weight", &[0..16])?; // reads these rows

    assert_eq!(rows.bytes(), &weight.bytes()[..rows.bytes().len()]);
    Ok(())
}

#[rustfmt::skip] // lines break where they do in the README
fn under_a_budget(inputs: Inputs<'_>) -> Result<Vec<u8>, Box<dyn Error>> {
    use std::sync::Arc;
    use vram_stream::models::controlnet::{Config, ControlNet};
    use vram_stream::{Budget, Cpu, DType, DiskMap, ModuleMap, Tier, VramConfig};
    use vram_stream::{enable_vram_management, load_to_device, skip_init};

    let cpu = Arc::new(Cpu::new(Default::default())?);
    let tensors = load_to_device("small.safetensors", &*cpu, Some(DType::BF16), &Budget::new(Tier::Device, 64 << 20))?;
    let weight = tensors.get("img_in.weight"); // a view that kernels read

    let source = Arc::new(DiskMap::open("big.safetensors")?);
    let model = skip_init(|| ControlNet::new(&Config::read(&*source)?))?; // takes no memory
    let config = VramConfig::disk(DType::BF16, Budget::new(Tier::Device, 256 << 20));
    let model = enable_vram_management(model, source, cpu, &ModuleMap::standard(), config)?;
    let output = model.run(|model, forward| model.forward(forward, &inputs))?;

    assert!(weight.is_some());
    Ok(output)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    std::env::set_current_dir(&folder)?;
    for path in ["model.safetensors", "small.safetensors", "big.safetensors"] {
        write_checkpoint(path)?;
    }
    one_tensor()?;
    let zeros = |width: usize| vec![0; TOKENS * width * 4];
    let (img, conditioning) = (zeros(CONFIG.width), zeros(CONFIG.inputs));
    let output = under_a_budget(Inputs {
        img: (&img, TensorMeta::new(DType::F32, [1, TOKENS, CONFIG.width])?),
        conditioning: (&conditioning, TensorMeta::new(DType::F32, [1, TOKENS, CONFIG.inputs])?),
    })?;
    assert_eq!(output.len(), TOKENS * CONFIG.width * 2);
    // Some systems cannot delete the current folder of a process.
    Ok(std::env::set_current_dir(std::env::temp_dir())?)
}
