//! Builds a model twice: with initialised weights, and without allocating them.
//!
//! `cargo run --release -p vram-alloc --example construction`

use std::time::Instant;

use vram_alloc::{AllocError, Init, Parameter, counts, module, skip_init};
use vram_types::{ByteSize, DType, TensorMeta};

struct Linear {
    weight: Parameter,
    bias: Parameter,
}

module! { Linear { weight, bias } }

struct Net {
    layers: Vec<Linear>,
}

module! { Net { layers } }

impl Net {
    fn new(layers: usize, width: usize) -> Result<Net, AllocError> {
        let linear = |_| {
            let init = Init::linear(width);
            Ok(Linear {
                weight: Parameter::new(TensorMeta::new(DType::BF16, [width, width])?, init)?,
                bias: Parameter::new(TensorMeta::new(DType::BF16, [width])?, init)?,
            })
        };
        Ok(Net { layers: (0..layers).map(linear).collect::<Result<_, AllocError>>()? })
    }
}

fn main() -> Result<(), AllocError> {
    let (layers, width) = (24, 1024);
    let since = Instant::now();
    let slow = Net::new(layers, width)?;
    let initialising = since.elapsed();
    let since = Instant::now();
    let fast = skip_init(|| Net::new(layers, width))?;
    let skipping = since.elapsed();
    let bytes = ByteSize(counts(&slow).weights.bytes);
    println!("initialising {bytes}: {:.3} ms", initialising.as_secs_f64() * 1e3);
    println!("skip_init, the same model: {:.3} ms", skipping.as_secs_f64() * 1e3);
    assert!(!slow.layers[0].weight.is_meta() && fast.layers[0].weight.is_meta());
    Ok(())
}
