//! Weights with scales beside them: multiplied as they are read, or refused by name, and never used without.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vram_alloc::{Module, module, skip_init};
use vram_device::{Budget, Kernels, Tier};
use vram_diskmap::DiskMap;
use vram_layers::layers::{Embedding, Linear};
use vram_layers::{Error, Forward, ModuleMap, Report, StorageDtypes, VramConfig, enable_vram_management};
use vram_types::cast::cast;
use vram_types::encoding::ScaleBlocks;
use vram_types::{DType, Shape, TensorMeta, WeightSource};

use crate::blocks::Undecoding;
use crate::common::{Random, cpu};
use crate::source::{Layout, MemorySource};

const INPUTS: usize = 256;
const ROWS: usize = 300;

struct Net {
    l: Linear,
    down: Linear,
}

module! { Net { l, down } }

impl Net {
    fn new() -> Net {
        let net = || -> Result<Net, vram_alloc::AllocError> {
            Ok(Net {
                l: Linear::new(INPUTS, ROWS, true, DType::F8_E4M3)?,
                down: Linear::new(ROWS, 40, false, DType::BF16)?,
            })
        };
        skip_init(net).unwrap()
    }

    fn forward(&self, fwd: &mut Forward<'_>, x: &[u8]) -> Result<Vec<u8>, Error> {
        let x = fwd.input(x, &TensorMeta::new(DType::F32, [3, INPUTS]).unwrap())?;
        let mut x = self.l.forward(fwd, &x)?;
        fwd.gelu(&mut x)?;
        let y = self.down.forward(fwd, &x)?;
        fwd.download(&y)
    }
}

/// One tensor: its name, dtype, shape and bytes.
type Tensor = (&'static str, DType, Vec<usize>, Vec<u8>);

fn source(tensors: &[Tensor], layout: &Layout) -> Arc<MemorySource> {
    let mut source = MemorySource::new(layout.clone());
    for (name, dtype, shape, bytes) in tensors {
        let meta = TensorMeta::new(*dtype, &**shape).unwrap();
        source.add(&mut Random::new(0), name, meta, bytes.clone());
    }
    Arc::new(source.finish())
}

fn floats(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let mut wide = vec![0; bytes.len() * 32 / dtype.bits() as usize];
    cast(bytes, dtype, &mut wide, DType::F32).unwrap();
    wide.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn le(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn narrow(values: &[u8], dtype: DType) -> Vec<u8> {
    let mut out = vec![0; values.len() / 4 * dtype.bits() as usize / 8];
    cast(values, DType::F32, &mut out, dtype).unwrap();
    out
}

/// Random numbers of about one.
fn numbers(random: &mut Random, count: usize, dtype: DType) -> Vec<u8> {
    narrow(&le((0..count).map(|_| random.value() + 0.25)), dtype)
}

/// The network's tensors with scales of that shape, and the same with the products in f32.
fn tensors(random: &mut Random, name: &'static str, dtype: DType, shape: &[usize]) -> [Vec<Tensor>; 2] {
    let weight = numbers(random, ROWS * INPUTS, DType::F8_E4M3);
    let scales = numbers(random, shape.iter().product(), dtype);
    let blocks = ScaleBlocks::new(&[ROWS, INPUTS].into(), &Shape::new(shape)).unwrap();
    let mut products = floats(&weight, DType::F8_E4M3);
    blocks.multiply(&mut products, 0, &floats(&scales, dtype), 0);
    let others = [
        ("l.bias", DType::F32, vec![ROWS], numbers(random, ROWS, DType::F32)),
        ("down.weight", DType::BF16, vec![40, ROWS], numbers(random, 40 * ROWS, DType::BF16)),
    ];
    let stored = [
        ("l.weight", DType::F8_E4M3, vec![ROWS, INPUTS], weight),
        (name, dtype, shape.to_vec(), scales),
        ("l.input_scale", DType::F32, vec![], le([3.0])),
    ];
    let decoded = [("l.weight", DType::F32, vec![ROWS, INPUTS], le(products))];
    [stored.into_iter().chain(others.clone()).collect(), decoded.into_iter().chain(others).collect()]
}

fn manage<M: Module>(
    model: M,
    source: Arc<dyn WeightSource>,
    device: Arc<dyn Kernels>,
    config: VramConfig,
) -> Result<vram_layers::Managed<M>, Error> {
    enable_vram_management(model, source, device, &ModuleMap::standard(), config)
}

fn disk(act: DType, budget: u64) -> VramConfig {
    VramConfig::disk(act, Budget::new(Tier::Device, budget))
}

/// Two passes, and their report.
fn run(
    source: Arc<dyn WeightSource>,
    device: Arc<dyn Kernels>,
    config: VramConfig,
) -> Result<(Vec<u8>, Report), Error> {
    let x = numbers(&mut Random::new(7), 3 * INPUTS, DType::F32);
    let model = manage(Net::new(), source, device, config)?;
    let first = model.run(|net, fwd| net.forward(fwd, &x))?;
    assert!(model.run(|net, fwd| net.forward(fwd, &x))? == first, "the second pass gives other bits");
    Ok((first, model.report()))
}

#[test]
fn scales_stream_with_their_weight_under_any_budget() {
    let mut random = Random::new(50);
    for (name, dtype, shape) in [
        ("l.scale_weight", DType::F32, &[][..]),
        ("l.weight_scale", DType::BF16, &[ROWS, 1]),
        ("l.weight_scale_inv", DType::F32, &[3, 2]),
        ("l.weight_scale", DType::F32, &[ROWS, 64]),
    ] {
        let [stored, decoded] = tensors(&mut random, name, dtype, shape);
        let bytes: u64 = stored.iter().filter(|t| t.0 != "l.input_scale").map(|t| t.3.len() as u64).sum();
        for layout in [
            Layout::plain(),
            Layout { alignment: 512, gaps: vec![0, 700, 9000], files: 2, ..Layout::plain() },
            Layout { mapped: true, ..Layout::plain() },
            Layout { indirect: 8, ..Layout::plain() },
        ] {
            for (act, discrete) in [(DType::F32, false), (DType::BF16, true)] {
                let what = format!("{name} {dtype} {shape:?} in {act}, {layout:?}, discrete {discrete}");
                let device = || cpu(2, discrete);
                let plain = source(&decoded, &Layout::plain());
                let (expected, _) = run(plain, device(), disk(act, 8 << 20)).unwrap();
                let run = |budget| run(source(&stored, &layout), device(), disk(act, budget));
                let (resident, report) = run(8 << 20).unwrap();
                assert!(resident == expected, "{what}");
                assert_eq!(report.weights_bytes, bytes, "{what}");
                let Err(Error::BudgetTooSmall { needed, .. }) = run(1) else { panic!("{what} in a byte") };
                for budget in [needed, needed + 10_000, needed + 60_000] {
                    let (streamed, report) = run(budget).unwrap();
                    assert!(streamed == expected, "{what} in {budget}");
                    assert!(report.peak_bytes <= budget, "{what}: {} in {budget}", report.peak_bytes);
                }
            }
        }
    }
}

/// What was refused: the weight, what was found, and why.
fn refused(result: Result<impl Sized, Error>) -> (String, String, String) {
    match result.map(drop) {
        Err(Error::Companions { weight, found, why }) => (weight, found, why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_weight_is_never_used_without_its_scales() {
    let [stored, decoded] = tensors(&mut Random::new(51), "l.weight_scale", DType::F32, &[ROWS, 1]);
    let without = |names: &[&str]| -> Vec<Tensor> {
        stored.iter().filter(|tensor| !names.contains(&tensor.0)).cloned().collect()
    };
    let with = |more: &[(&'static str, &[usize])], out: &[&str]| {
        let one = |&(name, shape): &(&'static str, &[usize])| {
            (name, DType::F32, shape.to_vec(), le(vec![2.0; shape.iter().product()]))
        };
        source(&without(out).into_iter().chain(more.iter().map(one)).collect::<Vec<_>>(), &Layout::plain())
    };
    let check = |source: Arc<MemorySource>, found: &str, says: &str| {
        let (weight, was, why) = refused(run(source, cpu(2, false), disk(DType::F32, 8 << 20)));
        assert_eq!((&*weight, &*was), ("l.weight", found), "{why}");
        assert!(why.contains(says), "{why}");
    };
    check(with(&[("l.weight_scalar", &[])], &["l.weight_scale"]), "l.weight_scalar", "not understood");
    check(with(&[("l.scale_weight", &[])], &[]), "l.scale_weight", "not understood");
    check(with(&[("l.weight_scale", &[7])], &["l.weight_scale"]), "l.weight_scale", "does not fit");
    check(with(&[("scaled_fp8", &[])], &["l.weight_scale"]), "scaled_fp8", "this one has none");
    check(with(&[("old.weight_scale", &[])], &["l.weight_scale"]), "old.weight_scale", "of no weight");

    // Without any sign of a scale fp8 is a dtype like any other; a marker of another model is none.
    let plain = with(&[("other.scaled_fp8", &[])], &["l.weight_scale"]);
    let (y, _) = run(plain, cpu(2, false), disk(DType::F32, 8 << 20)).unwrap();
    let mut cast = decoded;
    cast[0].3 = le(floats(&stored[0].3, DType::F8_E4M3));
    let cast = source(&cast, &Layout::plain());
    assert!(y == run(cast, cpu(2, false), disk(DType::F32, 8 << 20)).unwrap().0);

    // A device that does not multiply, and a dtype that the numbers would have without their scales.
    let all = || source(&stored, &Layout::plain());
    let device = Arc::new(Undecoding(cpu(2, false)));
    let (_, found, why) = refused(run(all(), device, disk(DType::F32, 8 << 20)));
    assert!(found == "l.weight_scale" && why.contains("vram extract --dtype"), "{found}: {why}");
    let config = VramConfig { dtypes: StorageDtypes::all(DType::BF16), ..disk(DType::F32, 8 << 20) };
    let (_, _, why) = refused(run(all(), cpu(2, false), config));
    assert!(why.contains("without their scales"), "{why}");
}

#[test]
fn a_table_with_scales_is_refused() {
    let table = skip_init(|| Embedding::new(4, 8, DType::F8_E4M3)).unwrap();
    let tensors = [
        ("weight", DType::F8_E4M3, vec![4, 8], vec![0x38; 32]),
        ("weight_scale", DType::F32, vec![4], le([1.0, 2.0, 3.0, 4.0])),
    ];
    let managed = manage(table, source(&tensors, &Layout::plain()), cpu(1, false), disk(DType::F32, 1 << 20));
    let (weight, found, why) = refused(managed);
    assert_eq!((&*weight, &*found), ("weight", "weight_scale"));
    assert!(why.contains("F8_E4M3 with scales"), "{why}");
}

struct Small {
    l: Linear,
}

module! { Small { l } }

struct Packed {
    q: Linear,
}

module! { Packed { q } }

fn file(name: &str) -> Arc<DiskMap> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scaled").join(name);
    Arc::new(DiskMap::open(path).unwrap())
}

/// Loaders that did not know ComfyUI's names for scales used its fp8 weights without them, and nobody was told.
#[test]
fn a_file_of_comfyui_is_used_with_its_scale() {
    let map = file("comfy.safetensors");
    let small = skip_init(|| Linear::new(2, 2, false, DType::F8_E4M3)).unwrap();
    let model = manage(Small { l: small }, map.clone(), cpu(1, false), disk(DType::F32, 1 << 20)).unwrap();
    let identity = le([1.0, 0.0, 0.0, 1.0]);
    let y = model.run(|small, fwd| {
        let x = fwd.input(&identity, &TensorMeta::new(DType::F32, [2, 2])?)?;
        let y = small.l.forward(fwd, &x)?;
        fwd.download(&y)
    });
    let weight = floats(map.get("l.weight").unwrap().bytes(), DType::F8_E4M3);
    let scale = floats(map.get("l.scale_weight").unwrap().bytes(), DType::F32)[0];
    assert_ne!(scale, 1.0);
    // The outputs of the unit vectors are the columns.
    let columns = [weight[0], weight[2], weight[1], weight[3]].map(|w| w * scale);
    assert_eq!(floats(&y.unwrap(), DType::F32), columns);
    assert_eq!(model.engine().weights_bytes(), 4 + 4);
}

/// A cast takes the packed integers of bitsandbytes and GPTQ for the weights themselves.
#[test]
fn packed_integers_are_refused_by_name() {
    let linear = || skip_init(|| Linear::new(2, 4, false, DType::BF16)).unwrap();
    let config = || disk(DType::F32, 1 << 20);
    let nf4 = manage(Small { l: linear() }, file("nf4.safetensors"), cpu(1, false), config());
    let (weight, found, why) = refused(nf4);
    assert!(weight == "l.weight" && found.starts_with("l.weight."), "{weight} {found}");
    assert!(why.contains("vram extract --dtype"), "{why}");
    let gptq = manage(Packed { q: linear() }, file("nf4.safetensors"), cpu(1, false), config());
    let (weight, _, why) = refused(gptq);
    assert!(weight == "q.qweight" && why.contains("GPTQ"), "{weight}: {why}");
}
