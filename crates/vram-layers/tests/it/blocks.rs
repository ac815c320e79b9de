//! Weights in quantised blocks stay so on disk, on the host and on the device, and give what the decoded ones give.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use vram_alloc::{module, skip_init};
use vram_device::ops::{Checked, Op};
use vram_device::{
    Budget, Buffer, Device, DeviceError, DeviceInfo, Kernels, MemoryInfo, Part, Queue, Region, Reservation,
    Staging, Ticket, Tier, ViewMut,
};
use vram_diskmap::{Conversion, Converted, DiskMap, ReadMode};
use vram_layers::layers::{Embedding, Linear};
use vram_layers::{
    Engine, Error, Forward, LayerSpec, ModuleMap, Report, Split, StorageDtypes, VramConfig,
    enable_vram_management,
};
use vram_types::{BlockType, DType, Joined, Overlay, TensorMeta, WeightSource};

use crate::common::{Random, cpu, options};
use crate::source::{Layout, MemorySource};

const WIDTH: usize = 256;
const SHAPES: [(&str, usize); 3] = [("table.weight", 64), ("up.weight", WIDTH), ("down.weight", 96)];
const IDS: [u32; 4] = [63, 0, 7, 7];

struct Net {
    table: Embedding,
    up: Linear,
    down: Linear,
}

module! { Net { table, up, down } }

impl Net {
    fn new() -> Net {
        let net = || -> Result<Net, vram_alloc::AllocError> {
            Ok(Net {
                table: Embedding::new(SHAPES[0].1, WIDTH, DType::F32)?,
                up: Linear::new(WIDTH, SHAPES[1].1, true, DType::F32)?,
                down: Linear::new(WIDTH, SHAPES[2].1, false, DType::F32)?,
            })
        };
        skip_init(net).unwrap()
    }

    fn forward(&self, fwd: &mut Forward<'_>) -> Result<Vec<u8>, Error> {
        let x = self.table.forward(fwd, &IDS)?;
        let mut x = self.up.forward(fwd, &x)?;
        fwd.gelu(&mut x)?;
        let y = self.down.forward(fwd, &x)?;
        fwd.download(&y)
    }
}

/// Weights of the network in blocks, and the bias.
struct Weights {
    block: BlockType,
    stored: Vec<Vec<u8>>,
    bias: Vec<u8>,
}

impl Weights {
    fn new(block: BlockType, random: &mut Random) -> Weights {
        let per_row = WIDTH / block.block_elements() as usize;
        let mut blocks = |count| (0..count).flat_map(|_| a_block(block, random)).collect();
        let stored = SHAPES.map(|(_, rows)| blocks(rows * per_row)).to_vec();
        let bias = (0..SHAPES[1].1).flat_map(|_| random.value().to_le_bytes()).collect();
        Weights { block, stored, bias }
    }

    fn bytes(&self) -> u64 {
        (self.stored.iter().chain([&self.bias])).map(|bytes| bytes.len() as u64).sum()
    }

    fn bias_meta() -> TensorMeta {
        TensorMeta::new(DType::F32, [SHAPES[1].1]).unwrap()
    }

    /// As they are.
    fn source(&self, layout: &Layout) -> Arc<MemorySource> {
        let mut source = MemorySource::new(layout.clone());
        for ((name, rows), stored) in SHAPES.into_iter().zip(&self.stored) {
            source.add_blocks(name, self.block, [rows, WIDTH], stored);
        }
        source.add(&mut Random::new(0), "up.bias", Weights::bias_meta(), self.bias.clone());
        Arc::new(source.finish())
    }

    /// Decoded beforehand.
    fn decoded(&self) -> Arc<MemorySource> {
        let (mut source, mut random) = (MemorySource::new(Layout::plain()), Random::new(0));
        for ((name, rows), stored) in SHAPES.into_iter().zip(&self.stored) {
            let meta = TensorMeta::new(DType::F32, [rows, WIDTH]).unwrap();
            let mut bytes = vec![0; meta.bytes() as usize];
            self.block.decode(stored, &mut bytes).unwrap();
            source.add(&mut random, name, meta, bytes);
        }
        source.add(&mut random, "up.bias", Weights::bias_meta(), self.bias.clone());
        Arc::new(source.finish())
    }

    /// A GGUF file of them.
    fn write(&self, path: &Path) {
        let number = |block| match block {
            BlockType::Q4_0 => 2u32,
            BlockType::Q4_1 => 3,
            BlockType::Q5_0 => 6,
            BlockType::Q5_1 => 7,
            BlockType::Q8_0 => 8,
            BlockType::Q2_K => 10,
            BlockType::Q3_K => 11,
            BlockType::Q4_K => 12,
            BlockType::Q5_K => 13,
            BlockType::Q6_K => 14,
            BlockType::IQ4_NL => 20,
            BlockType::IQ4_XS => 23,
            BlockType::MXFP4 => 39,
            BlockType::IQ2_XXS => 16,
            BlockType::IQ2_XS => 17,
            BlockType::IQ3_XXS => 18,
            BlockType::IQ1_S => 19,
            BlockType::IQ3_S => 21,
            BlockType::IQ2_S => 22,
            BlockType::IQ1_M => 29,
            BlockType::TQ1_0 => 34,
            BlockType::TQ2_0 => 35,
            BlockType::NVFP4 => 40,
            other => panic!("no number for {other}"),
        };
        let (mut header, mut data) = (b"GGUF".to_vec(), Vec::new());
        header.extend(3u32.to_le_bytes());
        header.extend([4u64, 0].map(u64::to_le_bytes).concat());
        let matrices = SHAPES.into_iter().zip(&self.stored);
        let matrices =
            matrices.map(|((name, rows), bytes)| (name, vec![WIDTH, rows], number(self.block), bytes));
        for (name, innermost_first, number, bytes) in
            matrices.chain([("up.bias", vec![SHAPES[1].1], 0, &self.bias)])
        {
            header.extend((name.len() as u64).to_le_bytes());
            header.extend(name.as_bytes());
            header.extend((innermost_first.len() as u32).to_le_bytes());
            innermost_first.iter().for_each(|&extent| header.extend((extent as u64).to_le_bytes()));
            header.extend(number.to_le_bytes());
            header.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        header.resize(header.len().next_multiple_of(32), 0);
        std::fs::write(path, [header, data].concat()).unwrap();
    }
}

/// Random bytes whose values are neither infinite nor huge.
fn a_block(block: BlockType, random: &mut Random) -> Vec<u8> {
    let mut values = vec![0.0; block.block_elements() as usize];
    loop {
        let stored = random.bytes(block.block_bytes() as usize);
        block.decode_f32(&stored, &mut values).unwrap();
        let largest = values.iter().fold(0f32, |most, v| most.max(v.abs()));
        if values.iter().all(|v| v.is_finite()) && (1e-2..2.0).contains(&largest) {
            return stored;
        }
    }
}

/// Two passes under a budget, and their report.
fn run(
    source: Arc<dyn WeightSource>,
    device: Arc<dyn Kernels>,
    config: VramConfig,
) -> Result<(Vec<u8>, Report), Error> {
    let model = enable_vram_management(Net::new(), source, device, &ModuleMap::standard(), config)?;
    let first = model.run(|net, fwd| net.forward(fwd))?;
    assert!(model.run(|net, fwd| net.forward(fwd))? == first, "the second pass gives other bits");
    Ok((first, model.report()))
}

fn disk(act: DType, budget: u64) -> VramConfig {
    VramConfig::disk(act, Budget::new(Tier::Device, budget))
}

#[test]
fn a_gguf_file_of_every_type_streams_under_any_budget() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut random = Random::new(1);
    for block in BlockType::ALL {
        let weights = Weights::new(block, &mut random);
        let path = dir.path().join(format!("{block}.gguf"));
        weights.write(&path);
        let open = || Arc::new(DiskMap::options().read(ReadMode::Buffered).open(&path).unwrap());
        for (act, discrete) in [(DType::F32, false), (DType::BF16, true), (DType::F16, false)] {
            let what = format!("{block} in {act}, discrete {discrete}");
            let device = || cpu(2, discrete);
            let (expected, plain) = run(weights.decoded(), device(), disk(act, 8 << 20)).unwrap();
            assert!(plain.weights_bytes > weights.bytes(), "{what}");

            let source = open();
            let before = source.bytes_read();
            let from: Arc<dyn WeightSource> = Arc::<DiskMap>::clone(&source);
            let (resident, report) = run(from, device(), disk(act, 8 << 20)).unwrap();
            assert!(resident == expected, "{what}");
            assert_eq!(report.weights_bytes, weights.bytes(), "{what}");
            assert_eq!(source.bytes_read() - before, weights.bytes(), "{what}: once for both passes");
            assert_eq!(report.passes[0].device_bytes, weights.bytes(), "{what}");
            // Each of three slots begins and ends within a sector of the file.
            assert!(
                report.resident_bytes < weights.bytes() + 3 * 2 * 4096,
                "{what}: {}",
                report.resident_bytes
            );
            assert!(report.decoded_on_host.is_empty());

            let Err(Error::BudgetTooSmall { needed, .. }) = run(open(), device(), disk(act, 1)) else {
                panic!("{what} in one byte")
            };
            let rows = IDS.len() as u64 * weights.stored[0].len() as u64 / SHAPES[0].1 as u64;
            let linear = weights.bytes() - weights.stored[0].len() as u64;
            for budget in [needed, needed + 10_000, needed + linear / 2, needed + weights.bytes()] {
                let (streamed, report) = run(open(), device(), disk(act, budget)).unwrap();
                assert!(streamed == expected, "{what} in {budget}");
                assert!(report.peak_bytes <= budget, "{what}: {} in {budget}", report.peak_bytes);
                if budget == needed {
                    assert_eq!(report.passes[1].disk_bytes, rows + linear, "{what}");
                }
            }
        }
    }
}

#[test]
fn blocks_wait_on_the_host_and_lie_in_maps() {
    let mut random = Random::new(2);
    let weights = Weights::new(BlockType::Q6_K, &mut random);
    let (expected, _) = run(weights.decoded(), cpu(2, false), disk(DType::F32, 8 << 20)).unwrap();
    for layout in [Layout::plain(), Layout { mapped: true, ..Layout::plain() }] {
        for discrete in [false, true] {
            let run = |config| run(weights.source(&layout), cpu(2, discrete), config);
            let Err(Error::BudgetTooSmall { needed, .. }) = run(disk(DType::F32, 1)) else { panic!() };
            for budget in [needed, needed + 20_000, 8 << 20] {
                let (y, report) = run(disk(DType::F32, budget)).unwrap();
                assert!(y == expected, "{layout:?} in {budget}, discrete {discrete}");
                assert!(report.peak_bytes <= budget);
                if discrete {
                    let host = Budget::new(Tier::Host, 1 << 20);
                    let config = VramConfig::host(DType::F32, Budget::new(Tier::Device, budget), host);
                    let (y, report) = run(config).unwrap();
                    assert!(y == expected, "on the host, {layout:?} in {budget}");
                    // Of the second pass, the rows alone where the table does not stay.
                    let row = weights.stored[0].len() as u64 / SHAPES[0].1 as u64;
                    assert!(report.passes[1].disk_bytes <= IDS.len() as u64 * row);
                }
            }
        }
    }
}

#[test]
fn sources_of_sources_keep_blocks_where_they_are_whole_tensors() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.gguf");
    let weights = Weights::new(BlockType::Q8_0, &mut Random::new(6));
    weights.write(&path);
    let open = || DiskMap::open(&path).unwrap();
    let config = || disk(DType::F32, 8 << 20);
    let (expected, _) = run(weights.decoded(), cpu(2, false), config()).unwrap();
    let check = |source: Arc<dyn WeightSource>, config: VramConfig, decoded: &[usize]| {
        let (y, report) = run(source, cpu(2, false), config).unwrap();
        assert!(y == expected);
        let more = |&i: &usize| (SHAPES[i].1 * WIDTH * 4 - weights.stored[i].len()) as u64;
        assert_eq!(report.weights_bytes, weights.bytes() + decoded.iter().map(more).sum::<u64>());
    };

    let joined = Joined::new([("net.", Arc::new(open()) as Arc<dyn WeightSource>)]).unwrap();
    check(Arc::new(joined), VramConfig { prefix: "net.".into(), ..config() }, &[]);

    let mut upper = MemorySource::new(Layout::plain());
    let meta = TensorMeta::new(DType::F32, [SHAPES[2].1, WIDTH]).unwrap();
    let mut bytes = vec![0; meta.bytes() as usize];
    weights.block.decode(&weights.stored[2], &mut bytes).unwrap();
    upper.add(&mut Random::new(0), "down.weight", meta, bytes);
    check(Arc::new(Overlay::new(Arc::new(open()), Arc::new(upper.finish())).unwrap()), config(), &[2]);

    let halves = ["first", "second"];
    let same = Conversion::new()
        .rename("up.weight", "there.weight")
        .rename("there.weight", "up.weight")
        .split("down.weight", 0, halves)
        .concat("first", 0, halves, "down.weight");
    check(Arc::new(open().convert(&same).unwrap()), config(), &[]);

    // A slice has no blocks of its own.
    let cut = Conversion::new().drop("down.weight").copy("up.weight", "down.weight");
    let cut = cut.slice("down.weight", 0, 0..SHAPES[2].1);
    let (sliced, report) = run(Arc::new(open().convert(&cut).unwrap()), cpu(2, false), config()).unwrap();
    let decoded = Converted::new(weights.decoded(), &cut).unwrap();
    assert!(sliced == run(Arc::new(decoded), cpu(2, false), config()).unwrap().0);
    let down = (SHAPES[2].1 * WIDTH * 4) as u64;
    assert_eq!(report.weights_bytes, weights.bytes() - weights.stored[2].len() as u64 + down);
}

#[test]
fn a_dtype_that_is_asked_for_decodes_on_the_host() {
    let weights = Weights::new(BlockType::Q4_0, &mut Random::new(3));
    let (expected, plain) = run(weights.decoded(), cpu(2, false), disk(DType::F32, 8 << 20)).unwrap();
    let config = || disk(DType::F32, 8 << 20);
    let dtypes = StorageDtypes::all(DType::F32);
    let config_f32 = VramConfig { dtypes, ..config() };
    let (y, report) = run(weights.source(&Layout::plain()), cpu(2, false), config_f32).unwrap();
    assert!(y == expected);
    assert_eq!(report.weights_bytes, plain.weights_bytes);
    // One of them alone.
    let dtypes = StorageDtypes::checkpoint().with("up.*", Some(DType::F32)).unwrap();
    let (y, report) =
        run(weights.source(&Layout::plain()), cpu(2, false), VramConfig { dtypes, ..config() }).unwrap();
    assert!(y == expected);
    let up = (WIDTH * SHAPES[1].1 * 4) as u64;
    assert_eq!(report.weights_bytes, weights.bytes() - weights.stored[1].len() as u64 + up);
}

#[test]
fn what_a_device_does_not_decode_is_decoded_on_the_host_and_said() {
    let weights = Weights::new(BlockType::Q5_K, &mut Random::new(4));
    let (expected, plain) = run(weights.decoded(), cpu(2, false), disk(DType::BF16, 8 << 20)).unwrap();
    let device = Arc::new(Undecoding(cpu(2, false)));
    let (y, report) = run(weights.source(&Layout::plain()), device, disk(DType::BF16, 8 << 20)).unwrap();
    assert!(y == expected);
    assert_eq!(report.weights_bytes, plain.weights_bytes);
    let said: Vec<_> = report.decoded_on_host.iter().map(|d| (&*d.encoding, d.tensors)).collect();
    assert_eq!(said.iter().map(|(_, tensors)| tensors).sum::<usize>(), 3, "{said:?}");
    assert!(report.decoded_on_host.iter().all(|d| d.encoding == "Q5_K" && d.why.contains("does not decode")));
    let decoded: u64 = report.decoded_on_host.iter().map(|d| d.bytes).sum();
    assert_eq!(decoded, plain.weights_bytes - weights.bias.len() as u64);
}

#[test]
fn an_engine_keeps_encoded_what_it_is_told_to() {
    let weights = Weights::new(BlockType::Q8_0, &mut Random::new(5));
    let engine = |spec: LayerSpec| {
        let source = weights.source(&Layout::plain());
        Engine::new(source, cpu(2, false), vec![spec], options(1 << 20, None, 2))
    };
    let up = || LayerSpec::new("up", ["up.weight", "up.bias"], Split::Rows);
    assert!(engine(up()).unwrap().weights_bytes() > 4 * weights.stored[1].len() as u64 / 2);
    let kept = engine(up().keep_encoded("up.weight")).unwrap();
    assert_eq!(kept.weights_bytes(), (weights.stored[1].len() + weights.bias.len()) as u64);
    let mut pass = kept.begin(Default::default()).unwrap();
    let lease = pass.lease(vram_layers::LayerId(0), 0).unwrap();
    assert!(lease.bytes(0).unwrap() == weights.stored[1]);
    assert_eq!(lease.encoding(0).unwrap(), BlockType::Q8_0.into());
    assert!(matches!(lease.dtype(0), Err(Error::Unsupported(_))));
    assert_eq!(lease.dtype(1).unwrap(), DType::F32);
    let refused = engine(up().keep_encoded("up.bias")).map(drop);
    assert!(matches!(&refused, Err(Error::Model(why)) if why.contains("up.bias")), "{refused:?}");
}

/// A device that decodes nothing, as every device that does not say that it does.
#[derive(Debug)]
pub(crate) struct Undecoding(pub(crate) Arc<dyn Kernels>);

impl Device for Undecoding {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }
    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        self.0.memory()
    }
    fn allocate(&self, reservation: Reservation) -> Result<Buffer, DeviceError> {
        self.0.allocate(reservation)
    }
    fn stage(&self, reservation: Reservation) -> Result<Staging, DeviceError> {
        self.0.stage(reservation)
    }
    fn upload(
        &self,
        src: &Staging,
        range: Range<u64>,
        dst: &mut Part,
        at: u64,
    ) -> Result<Ticket, DeviceError> {
        self.0.upload(src, range, dst, at)
    }
    fn download(&self, src: &Region, at: u64, dst: &mut [u8]) -> Result<(), DeviceError> {
        self.0.download(src, at, dst)
    }
    fn ticket(&self, queue: Queue) -> Result<Ticket, DeviceError> {
        self.0.ticket(queue)
    }
    fn order(&self, queue: Queue, after: Ticket) -> Result<(), DeviceError> {
        self.0.order(queue, after)
    }
    fn is_done(&self, ticket: Ticket) -> Result<bool, DeviceError> {
        self.0.is_done(ticket)
    }
    fn wait(&self, ticket: Ticket) -> Result<(), DeviceError> {
        self.0.wait(ticket)
    }
}

impl Kernels for Undecoding {
    fn scratch(&self, op: &Op<'_>) -> u64 {
        self.0.scratch(op)
    }
    fn run(&self, op: Checked<'_>, scratch: Option<&mut ViewMut<'_>>) -> Result<(), DeviceError> {
        self.0.run(op, scratch)
    }
}
