//! `vram forward`: runs passes of a known architecture on given inputs.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use vram_diskmap::DiskMap;
use vram_stream::alloc::Module;
use vram_stream::models::{bert, controlnet};
use vram_stream::{
    Forward, Managed, ModuleMap, RunOptions, WeightSource, enable_vram_management, layers, skip_init,
};
use vram_types::{Shape, TensorMeta};

use crate::arch::{Arch, beside, path_beside};
use crate::args::Engine;
use crate::checkpoint::Checkpoint;
use crate::engine::{explain, leave_free};
use crate::inputs::{Ids, Inputs};
use crate::output;
use crate::outputs::{Kind, Outputs, Target};
use crate::report::RunReport;
use crate::watch::Watch;

/// Run a known architecture on the tensors of a file
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vram forward --arch qwen-image-controlnet --weights model.safetensors --input in.safetensors \\
      -o out.safetensors --budget 256MiB
  vram forward --arch bert --weights minilm --input ids.safetensors -o hidden.safetensors \\
      --budget 50% --passes 3 --trace trace.json

`vram synth --inputs` and `vram tokenize` make inputs.")]
pub(crate) struct Args {
    /// Architecture of the weights
    #[arg(long, value_enum)]
    pub(crate) arch: Arch,
    /// Checkpoint: a file, an index or a folder
    #[arg(long, value_name = "PATH")]
    pub(crate) weights: PathBuf,
    /// Input tensors, a safetensors file; each tensor is used, or refused by name
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// File for the output, in the compute dtype; - writes it to stdout
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let convert = args.engine.convert.as_deref();
    let checkpoint = Checkpoint::open(DiskMap::options(), &args.weights, args.engine.read, convert)?;
    let mut outputs = Outputs::new(args.engine.force, json);
    outputs.reads_checkpoint(&args.weights, checkpoint.map());
    outputs.reads(&args.input);
    if args.arch == Arch::Bert {
        outputs.reads(path_beside(&args.weights, "config.json"));
    }
    let files = Files::check(args, &mut outputs)?;
    let source = checkpoint.into_source();
    let at_weights = || args.weights.display().to_string();
    let job = Job { args, source: Arc::clone(&source), files, outputs: &mut outputs };
    let report = match args.arch {
        Arch::QwenImageControlnet => {
            let config = controlnet::Config::read(&*source).with_context(at_weights)?;
            let inputs = Inputs::open(&args.input, &["img", "conditioning"], &[])?;
            let (img, conditioning) = (inputs.float("img")?, inputs.float("conditioning")?);
            let inputs = controlnet::Inputs {
                img: (img.bytes(), img.meta().clone()),
                conditioning: (conditioning.bytes(), conditioning.meta().clone()),
            };
            let model = skip_init(|| controlnet::ControlNet::new(&config)).with_context(at_weights)?;
            let to = ("output", img.meta().shape().clone());
            job.run(model, "", to, |m, fwd| m.forward(fwd, &inputs))?
        }
        Arch::Bert => {
            let json = beside(&args.weights, "config.json")?;
            let config = bert::Config::read(&*source, &json).with_context(at_weights)?;
            let inputs = Inputs::open(&args.input, &Ids::NEEDED, &Ids::OPTIONAL)?;
            let ids = Ids::read(&inputs, &config)?;
            let (sequences, types) = (ids.sequences(), ids.types());
            let model = skip_init(|| bert::Bert::new(&config)).with_context(at_weights)?;
            let to = ("last_hidden_state", Shape::new(&[ids.batch, ids.tokens, config.width]));
            job.run(model, &config.prefix, to, |m, fwd| {
                let hidden = m.forward_with_types(fwd, &sequences, &types)?;
                fwd.download(&hidden)
            })?
        }
    };
    if json {
        return output::json(&report);
    }
    let mut out = outputs.people();
    report.print(&mut out)?;
    if !outputs.has_stdout() {
        writeln!(out, "{}", args.output.display())?;
    }
    Ok(out.flush()?)
}

/// The files that are written.
struct Files {
    output: Target,
    trace: Option<Target>,
    report: Option<Target>,
}

impl Files {
    fn check(args: &Args, outputs: &mut Outputs) -> Result<Files> {
        let engine = &args.engine;
        if let Some(rules) = &engine.convert {
            outputs.reads(rules);
        }
        Ok(Files {
            output: outputs.add("--output", &args.output, Kind::Tensors)?,
            trace: outputs.add_some("--trace", engine.trace.as_deref(), Kind::Text)?,
            report: outputs.add_some("--report", engine.report.as_deref(), Kind::Text)?,
        })
    }
}

/// A run of some passes.
struct Job<'a> {
    args: &'a Args,
    source: Arc<dyn WeightSource>,
    files: Files,
    outputs: &'a mut Outputs,
}

impl Job<'_> {
    /// Runs the passes, and writes the output of the last one, then the trace and the report.
    fn run<M: Module>(
        self,
        model: M,
        prefix: &str,
        (name, shape): (&str, Shape),
        forward: impl Fn(&M, &mut Forward<'_>) -> Result<Vec<u8>, layers::Error> + Sync,
    ) -> Result<RunReport> {
        let Job { args, source, files, outputs } = self;
        let device = args.engine.open_device()?;
        let watch = Watch::new(files.trace.is_some());
        let mut config = args.engine.config(&*device, &watch)?;
        config.prefix = prefix.to_owned();
        let host = config.host_limit.clone();
        let managed: Managed<M> =
            enable_vram_management(model, source, device, &ModuleMap::standard(), config)
                .map_err(explain)
                .with_context(|| args.weights.display().to_string())?;
        leave_free(args.engine.budget, managed.engine())?;
        let meta = TensorMeta::new(managed.dtype(), shape)?;
        outputs.needs(&files.output, meta.bytes())?;
        // Shapes that do not fit, and a budget that is too small, are found before a weight is read.
        let minimum = managed.minimum_budget(&forward).map_err(|e| match e {
            layers::Error::Shape(_) => explain(e).context(args.input.display().to_string()),
            e => explain(e),
        })?;
        let count = args.engine.passes;
        watch.begin(count);
        let mut bytes = Vec::new();
        for pass in 1..=count {
            let options = RunOptions { last: pass == count, ..RunOptions::default() };
            bytes = managed.run_with(options, &forward).map_err(explain)?;
        }
        watch.finish();
        files.output.write_tensors(&[(name, meta, &bytes)])?;
        watch.save(files.trace.as_ref())?;
        let report = RunReport::new(managed.report(), minimum, &host, &args.engine);
        report.save(files.report.as_ref())?;
        Ok(report)
    }
}
