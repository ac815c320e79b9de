//! `vram bench-model`: how quick a language model is.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use vram_stream::RunOptions;
use vram_stream::models::llama::{Batch, BatchSize};
use vram_types::ByteSize;

use crate::args::{Engine, at_least_one};
use crate::engine::explain;
use crate::generate::too_small;
use crate::language::Language;
use crate::output;
use crate::outputs::{Kind, Outputs};
use crate::report::RunReport;
use crate::watch::Watch;

/// Measure how many tokens a second a language model reads and makes
///
/// As llama-bench does: a prompt of so many tokens, then tokens one after the other from an empty
/// context. A first run that loads the weights is not counted. The tokens are arbitrary.
#[derive(Clone, Debug, clap::Args)]
#[command(
    mut_arg("passes", |arg| arg.hide(true)),
    after_help = "\
Examples:
  vram bench-model --model model.gguf --budget 25%
  vram bench-model --model model.gguf --sequences 8 --activations q8"
)]
pub(crate) struct Args {
    /// A GGUF file, or a folder with safetensors, config.json and tokenizer.json
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) model: PathBuf,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value = "512", value_parser = at_least_one)]
    pub(crate) prompt_tokens: usize,
    /// Tokens to make in each sequence
    #[arg(long, value_name = "N", default_value = "128", value_parser = at_least_one)]
    pub(crate) tokens: usize,
    /// Sequences that are continued together
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub(crate) sequences: usize,
    /// Most tokens in one pass
    #[arg(long, value_name = "N", default_value = "512", value_parser = at_least_one)]
    pub(crate) chunk: usize,
    /// How many times to measure each
    #[arg(long, value_name = "N", default_value = "3", value_parser = at_least_one)]
    pub(crate) repetitions: usize,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

/// What one test took.
#[derive(Debug, Serialize)]
struct Row {
    /// `prompt` or `decode`.
    test: &'static str,
    /// Of all sequences.
    tokens: usize,
    seconds: Vec<f64>,
    /// The median over all repetitions.
    tokens_per_second: f64,
    /// Bytes read from disk for each token.
    disk_bytes_per_token: u64,
}

impl Row {
    fn new(test: &'static str, tokens: usize, seconds: Vec<f64>, disk_bytes: u64) -> Row {
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        let all = (tokens * seconds.len()) as u64;
        Row {
            test,
            tokens,
            seconds,
            tokens_per_second: tokens as f64 / median.max(1e-9),
            disk_bytes_per_token: disk_bytes / all.max(1),
        }
    }

    fn rate(&self, seconds: f64) -> f64 {
        self.tokens as f64 / seconds.max(1e-9)
    }
}

#[derive(Debug, Serialize)]
struct Document {
    sequences: usize,
    rows: Vec<Row>,
    #[serde(flatten)]
    report: RunReport,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    ensure!(args.engine.passes == 1, "--passes is not for bench-model: see --repetitions");
    let mut outputs = Outputs::new(args.engine.force, json);
    let language = Language::open(&args.model, &args.engine, &mut outputs)?;
    let trace = outputs.add_some("--trace", args.engine.trace.as_deref(), Kind::Text)?;
    let save = outputs.add_some("--report", args.engine.report.as_deref(), Kind::Text)?;
    let device = args.engine.open_device()?;
    let watch = Watch::new(trace.is_some());
    let config = args.engine.config(&*device, &watch)?;
    let host = config.host_limit.clone();
    let at_model = || args.model.display().to_string();
    let model = language.manage(device, config, args.engine.budget).with_context(at_model)?;
    let size = BatchSize {
        sequences: args.sequences,
        context: args.prompt_tokens.max(args.tokens),
        chunk: args.chunk.max(args.sequences),
    };
    let minimum = Batch::minimum_budget(&model, size).map_err(explain).with_context(at_model)?;
    let mut batch = Batch::new(&model, size).map_err(|error| too_small(error, &model, size))?;

    let token = |i: usize| (i * 7919 % language.config.vocabulary) as u32;
    let prompt: Vec<u32> = (0..args.prompt_tokens).map(token).collect();
    let options = RunOptions::default();
    let read = || model.report().total.disk_bytes;
    let mut measure = |test: &'static str| -> Result<Row> {
        let (mut seconds, mut before) = (Vec::new(), 0);
        // The first time loads weights and is not counted.
        for repetition in 0..=args.repetitions {
            (0..args.sequences).for_each(|sequence| batch.truncate(sequence, 0));
            if repetition == 1 {
                before = read();
            }
            let started = Instant::now();
            if test == "prompt" {
                batch.show(&[(0, &prompt)], &options).map_err(explain)?;
            } else {
                for i in 0..args.tokens {
                    let ids: Vec<[u32; 1]> = (0..args.sequences).map(|s| [token(i + s)]).collect();
                    let tokens: Vec<_> = ids.iter().map(<[u32; 1]>::as_slice).enumerate().collect();
                    batch.show(&tokens, &options).map_err(explain)?;
                }
            }
            if repetition > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
        let tokens = if test == "prompt" { prompt.len() } else { args.tokens * args.sequences };
        Ok(Row::new(test, tokens, seconds, read() - before))
    };
    let rows = vec![measure("prompt")?, measure("decode")?];
    let report = RunReport::new(model.report(), minimum, &host, &args.engine);
    let document = Document { sequences: args.sequences, rows, report };
    match json {
        true => output::json(&document)?,
        false => print(&document, &mut outputs.people())?,
    }
    watch.save(trace.as_ref())?;
    document.report.save(save.as_ref())
}

fn print(document: &Document, out: &mut impl Write) -> Result<()> {
    let heads = ["test", "tokens", "tokens/s", "slowest", "fastest", "from disk per token"];
    let mut lines = vec![heads.map(str::to_owned)];
    for row in &document.rows {
        let slowest = row.seconds.iter().copied().fold(0.0, f64::max);
        let fastest = row.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let rate = |seconds| format!("{:.2}", row.rate(seconds));
        lines.push([
            row.test.to_owned(),
            row.tokens.to_string(),
            format!("{:.2}", row.tokens_per_second),
            rate(slowest),
            rate(fastest),
            ByteSize(row.disk_bytes_per_token).to_string(),
        ]);
    }
    output::columns(out, &lines, [false, true, true, true, true, true])?;
    document.report.print_memory(out)?;
    Ok(())
}
