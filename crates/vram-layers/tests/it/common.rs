use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{Budget, Kernels, Queue, Tier};
use vram_layers::{Engine, EngineOptions, Error, LayerId, LayerSpec, Pass, PassRequest, Split};
use vram_types::{DType, SourceError, TensorMeta, WeightSource};

use crate::source::{Layout, MemorySource};

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.next() >> 56) as u8).collect()
    }

    /// In -1..1.
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

static CPUS: LazyLock<Vec<Arc<Cpu>>> = LazyLock::new(|| {
    let cpu = |discrete, threads| {
        let options = CpuOptions { threads: Some(threads), discrete, isa: None };
        Arc::new(Cpu::new(options).unwrap())
    };
    vec![cpu(false, 1), cpu(false, 2), cpu(false, 3), cpu(true, 1), cpu(true, 2), cpu(true, 3)]
});

/// One of six processors that all tests share: 1 to 3 threads, host-visible or as if discrete.
pub fn cpu(threads: usize, discrete: bool) -> Arc<dyn Kernels> {
    let cpu: Arc<Cpu> = Arc::clone(&CPUS[threads.clamp(1, 3) - 1 + if discrete { 3 } else { 0 }]);
    cpu
}

/// Fails instead of hanging.
pub fn in_time<R: Send + 'static>(what: &str, f: impl FnOnce() -> R + Send + 'static) -> R {
    let (send, receive) = channel();
    let thread = std::thread::spawn(move || {
        let result = f();
        // Nobody listens any more where the time is over.
        let _ = send.send(());
        result
    });
    match receive.recv_timeout(Duration::from_secs(30)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("{what}: it hangs"),
        _ => thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)),
    }
}

/// An engine over layers of bytes, and these bytes.
pub struct Raw {
    pub source: Arc<MemorySource>,
    pub layers: Vec<Vec<u8>>,
    pub split: Vec<Split>,
}

impl Raw {
    /// Layers of one tensor each: `rows` rows of `width` bytes, split by rows where asked.
    pub fn new(layers: &[(usize, usize, Split)], layout: &Layout, seed: u64) -> Raw {
        let mut random = Random::new(seed);
        let mut source = MemorySource::new(layout.clone());
        let mut all = Vec::new();
        for (i, (rows, width, _)) in layers.iter().enumerate() {
            let bytes = random.bytes(rows * width);
            let meta = TensorMeta::new(DType::U8, [*rows, *width]).unwrap();
            source.add(&mut random, &format!("layer.{i}"), meta, bytes.clone());
            all.push(bytes);
        }
        let source = Arc::new(source.finish());
        Raw { source, layers: all, split: layers.iter().map(|l| l.2).collect() }
    }

    /// Eight layers of 1000 bytes, one after the other in one file.
    pub fn plain(seed: u64) -> Raw {
        Raw::new(&[(10, 100, Split::Whole); 8], &Layout::plain(), seed)
    }

    pub fn specs(&self) -> Vec<LayerSpec> {
        let spec = |(i, split): (usize, &Split)| {
            LayerSpec::new(format!("layer {i}"), [format!("layer.{i}")], *split)
        };
        self.split.iter().enumerate().map(spec).collect()
    }

    pub fn engine(&self, options: EngineOptions, discrete: bool) -> Engine {
        let source: Arc<dyn WeightSource> = Arc::<MemorySource>::clone(&self.source);
        self.engine_over(source, options, discrete)
    }

    pub fn engine_over(
        &self,
        source: Arc<dyn WeightSource>,
        options: EngineOptions,
        discrete: bool,
    ) -> Engine {
        Engine::new(source, cpu(2, discrete), self.specs(), options).unwrap()
    }

    /// Leases all tiles of a layer and compares their bytes.
    pub fn check(&self, pass: &mut Pass<'_>, layer: usize) -> Result<(), Error> {
        let mut seen = Vec::new();
        for tile in 0..pass.tiles(LayerId(layer)) {
            let lease = pass.lease(LayerId(layer), tile)?;
            seen.extend_from_slice(&bytes(&lease));
            lease.finish(pass.device().ticket(Queue::Compute)?);
        }
        assert!(seen == self.layers[layer], "layer {layer} has the wrong bytes");
        Ok(())
    }

    /// A pass over the layers in that order.
    pub fn pass(&self, engine: &Engine, order: &[usize]) -> Result<(), Error> {
        let mut pass = engine.begin(PassRequest::default())?;
        for &layer in order {
            self.check(&mut pass, layer)?;
        }
        pass.finish().map(drop)
    }
}

/// What a lease's first tensor holds, downloaded as a kernel would see it.
pub fn bytes(lease: &vram_layers::Lease) -> Vec<u8> {
    lease.tensor(0).unwrap().bytes().unwrap().to_vec()
}

/// Under so many bytes, with a ring and a number of readers.
pub fn options(budget: u64, ring: Option<u64>, readers: usize) -> EngineOptions {
    let mut options = EngineOptions::new(Budget::new(Tier::Device, budget));
    options.ring = ring;
    options.readers = readers;
    options.host_budget = Budget::new(Tier::Host, 1 << 20);
    options
}

/// What the source said.
pub fn source_error(error: &Error) -> &SourceError {
    match error {
        Error::Source(e) => e,
        other => panic!("not an error of the source: {other:?}"),
    }
}
