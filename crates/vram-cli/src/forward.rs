//! `vram forward`: passes of a known architecture on given inputs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use vram_diskmap::{DiskMap, HostTensor, SafetensorsWriter};
use vram_stream::alloc::Module;
use vram_stream::models::{bert, controlnet};
use vram_stream::{
    Forward, Managed, ModuleMap, RunOptions, WeightSource, enable_vram_management, layers, skip_init,
};
use vram_types::{DType, Shape, TensorMeta};

use crate::arch::{Arch, beside};
use crate::args::Engine;
use crate::checkpoint::Checkpoint;
use crate::engine::{explain, leave_free};
use crate::output;
use crate::report::RunReport;
use crate::watch::Watch;

/// Run a known architecture on the tensors of a file
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What the weights are of
    #[arg(long, value_enum)]
    pub(crate) arch: Arch,
    /// The checkpoint: a file, an index or a folder
    #[arg(long, value_name = "PATH")]
    pub(crate) weights: PathBuf,
    /// The inputs, a safetensors file
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Where the output goes, in the dtype that was computed in; replaces what is there
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let convert = args.engine.convert.as_deref();
    let checkpoint = Checkpoint::open(DiskMap::options(), &args.weights, args.engine.read, convert)?;
    let source = checkpoint.into_source();
    let at_weights = || args.weights.display().to_string();
    let inputs = DiskMap::open(&args.input)?;
    let report = match args.arch {
        Arch::QwenImageControlnet => {
            let config = controlnet::Config::read(&*source).with_context(at_weights)?;
            let img = float(&inputs, &args.input, "img")?;
            let conditioning = float(&inputs, &args.input, "conditioning")?;
            let inputs = controlnet::Inputs {
                img: (img.bytes(), img.meta().clone()),
                conditioning: (conditioning.bytes(), conditioning.meta().clone()),
            };
            let model = skip_init(|| controlnet::ControlNet::new(&config)).with_context(at_weights)?;
            let to = ("output", img.meta().shape().clone());
            passes(args, model, source, "", to, |m, fwd| m.forward(fwd, &inputs))?
        }
        Arch::Bert => {
            let json = beside(&args.weights, "config.json")?;
            let config = bert::Config::read(&*source, &json).with_context(at_weights)?;
            let ids = Ids::read(&inputs, &args.input)?;
            let sequences = ids.sequences();
            let model = skip_init(|| bert::Bert::new(&config)).with_context(at_weights)?;
            let to = ("last_hidden_state", Shape::new(&[ids.batch, ids.tokens, config.width]));
            passes(args, model, source, &config.prefix, to, |m, fwd| {
                let hidden = m.forward(fwd, &sequences)?;
                fwd.download(&hidden)
            })?
        }
    };
    report.save(args.engine.report.as_deref())?;
    if json {
        return output::json(&report);
    }
    let mut out = io::stdout().lock();
    report.print(&mut out)?;
    Ok(writeln!(out, "{}", args.output.display())?)
}

/// Runs the passes, writes the output of the last, and reports.
fn passes<M: Module>(
    args: &Args,
    model: M,
    source: Arc<dyn WeightSource>,
    prefix: &str,
    (name, shape): (&str, Shape),
    forward: impl Fn(&M, &mut Forward<'_, '_>) -> Result<Vec<u8>, layers::Error> + Sync,
) -> Result<RunReport> {
    let device = args.engine.open_device()?;
    let watch = Watch::new(args.engine.trace.as_deref());
    let mut config = args.engine.config(&*device, &watch)?;
    config.prefix = prefix.to_owned();
    let host = config.host_limit.clone();
    let managed: Managed<M> = enable_vram_management(model, source, device, &ModuleMap::standard(), config)
        .map_err(explain)
        .with_context(|| args.weights.display().to_string())?;
    leave_free(args.engine.budget, managed.engine())?;
    // Shapes are wrong, or the budget is too small, before a file is made or a weight is read.
    let minimum = managed.minimum_budget(&forward).map_err(explain)?;
    let limit = managed.engine().budget().limit();
    let count = args.engine.passes;
    watch.begin(count);
    let mut writer = None;
    let mut bytes = Vec::new();
    if limit >= minimum {
        // Made now: a folder that cannot be written is no news for the end of a long run.
        let meta = TensorMeta::new(managed.dtype(), shape)?;
        writer = Some(SafetensorsWriter::create(&args.output, [(name, meta)], &[])?);
    }
    for pass in 1..=count {
        let options = RunOptions { last: pass == count, ..RunOptions::default() };
        bytes = managed.run_with(options, &forward).map_err(explain)?;
    }
    watch.finish(args.engine.trace.as_deref())?;
    let mut writer = writer.ok_or_else(|| anyhow!("passes ran below the smallest budget"))?;
    writer.write(&bytes)?;
    writer.finish()?;
    Ok(RunReport::new(managed.report(), minimum, &host, &args.engine))
}

/// How many names an error shows.
const SHOWN: usize = 4;

/// A tensor of the inputs, by name.
fn input(map: &DiskMap, path: &Path, name: &str) -> Result<HostTensor> {
    if !map.contains(name) {
        let names: Vec<&str> = map.iter().map(|(name, _)| name).take(SHOWN).collect();
        let more = match map.len().saturating_sub(SHOWN) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        bail!("{}: the input has no tensor {name:?}; it has {names:?}{more}", path.display());
    }
    Ok(map.get(name)?)
}

fn float(map: &DiskMap, path: &Path, name: &str) -> Result<HostTensor> {
    let tensor = input(map, path, name)?;
    let dtype = tensor.meta().dtype();
    ensure!(
        matches!(dtype, DType::F32 | DType::BF16 | DType::F16),
        "{}: {name:?} is {dtype}; F32, BF16 or F16 is needed",
        path.display()
    );
    Ok(tensor)
}

/// Token ids of sequences of one length.
struct Ids {
    batch: usize,
    tokens: usize,
    ids: Vec<u32>,
}

impl Ids {
    fn read(map: &DiskMap, path: &Path) -> Result<Ids> {
        let tensor = input(map, path, "input_ids")?;
        let (bytes, meta) = (tensor.bytes(), tensor.meta());
        let at = path.display();
        let &[batch, tokens] = meta.shape().dims() else {
            bail!("{at}: \"input_ids\" has shape {}; [batch, tokens] is needed", meta.shape());
        };
        ensure!(batch > 0 && tokens > 0, "{at}: \"input_ids\" is empty: its shape is {}", meta.shape());
        let ids: Vec<i64> = match meta.dtype() {
            DType::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            DType::I32 => bytes.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
            DType::U32 => bytes.as_chunks().0.iter().map(|b| i64::from(u32::from_le_bytes(*b))).collect(),
            other => bail!("{at}: \"input_ids\" is {other}; I64, I32 or U32 is needed"),
        };
        let id = |id: i64| u32::try_from(id).map_err(|_| anyhow!("{at}: {id} is no token's id"));
        Ok(Ids { batch, tokens, ids: ids.into_iter().map(id).collect::<Result<_>>()? })
    }

    fn sequences(&self) -> Vec<&[u32]> {
        self.ids.chunks(self.tokens).collect()
    }
}
