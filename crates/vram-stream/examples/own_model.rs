//! A model of your own under a budget: a gated block between a table and a head that is tied to it.
//!
//! `cargo run --release -p vram-stream --example own_model`

use std::sync::Arc;

use vram_stream::device::ops::UnaryKind;
use vram_stream::layers::Error as RunError;
use vram_stream::types::GeneratedSource;
use vram_stream::{
    Budget, Cpu, DType, Embedding, Error, Forward, Init, Linear, ModuleMap, Parameter, Tensor, TensorMeta,
    Tier, Uncovered, VramConfig, WeightSource, enable_vram_management, module, skip_init,
};

struct Gated {
    table: Embedding,
    up: Linear,
    gate: Linear,
    scale: Parameter,
    head: Linear,
}

module! { Gated { table as "embed", up as "up_proj", gate as "gate_proj", scale, head as "lm_head" } }

impl Gated {
    fn new(rows: usize, width: usize) -> Result<Gated, Error> {
        let table = Embedding::new(rows, width, DType::BF16)?;
        Ok(Gated {
            up: Linear::new(width, width, true, DType::BF16)?,
            gate: Linear::new(width, width, true, DType::BF16)?,
            scale: Parameter::persistent_buffer(TensorMeta::new(DType::F32, [width])?, Init::Ones)?,
            head: Linear::from_parameters(table.weight().tie(), None)?,
            table,
        })
    }

    /// `ids -> [ids, rows]`.
    fn forward(&self, fwd: &mut Forward<'_>, ids: &[u32]) -> Result<Tensor, RunError> {
        let x = self.table.forward(fwd, ids)?;
        let gate = self.gate.forward(fwd, &x)?;
        let mut y = self.up.forward(fwd, &x)?;
        fwd.gated(UnaryKind::Silu, &gate, &mut y)?;
        let scale = fwd.parameter(&self.scale)?;
        fwd.mul(&mut y, &scale)?;
        self.head.forward(fwd, &y)
    }
}

fn main() -> Result<(), Error> {
    let source: Arc<dyn WeightSource> = Arc::new(checkpoint(4096, 256)?);
    let mut outputs = Vec::new();
    for budget in [8 << 20, 1 << 20, 512 << 10] {
        let model = skip_init(|| Gated::new(4096, 256))?;
        let config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, budget));
        let map = ModuleMap::standard().uncovered(Uncovered::Layer);
        let cpu = Arc::new(Cpu::new(Default::default())?);
        let model = enable_vram_management(model, Arc::clone(&source), cpu, &map, config)?;
        let logits = model.run(|model, fwd| {
            let logits = model.forward(fwd, &[3, 1, 4])?;
            fwd.download(&logits)
        })?;
        println!("budget {budget:>8}: peak {:>8} bytes", model.report().peak_bytes);
        outputs.push(logits);
    }
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]), "the budget changed the answer");
    Ok(())
}

/// What a file would hold: the head is stored once, as the table.
fn checkpoint(rows: usize, width: usize) -> Result<impl WeightSource + 'static, Error> {
    let matrix = |rows| TensorMeta::new(DType::BF16, [rows, width]);
    let tensors = [
        ("embed.weight", matrix(rows)?),
        ("up_proj.weight", matrix(width)?),
        ("up_proj.bias", TensorMeta::new(DType::BF16, [width])?),
        ("gate_proj.weight", matrix(width)?),
        ("gate_proj.bias", TensorMeta::new(DType::BF16, [width])?),
        ("scale", TensorMeta::new(DType::F32, [width])?),
    ];
    let fill = |tensor: usize, offset: u64, bytes: &mut [u8]| {
        for (at, byte) in (offset..).zip(bytes) {
            let mixed = (at * 6 + tensor as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
            // Values near one eighth, of either sign, whether they are read as bf16 or as f32.
            *byte = if at % 2 == 1 { 0x3e ^ (mixed as u8 & 0x80) } else { mixed as u8 };
        }
    };
    Ok(GeneratedSource::new(tensors, fill)?)
}
