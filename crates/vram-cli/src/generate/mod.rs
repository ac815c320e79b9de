//! `vram generate`: text from a language model.

mod text;

use std::io::{self, Read as _, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use vram_stream::layers::Error;
use vram_stream::models::llama::{Batch, BatchSize, Cache, Llama};
use vram_stream::models::sampling::{Sampler, Sampling};
use vram_stream::{Managed, RunOptions};
use vram_text::Message;
use vram_types::ByteSize;

use crate::args::{Engine, at_least_one};
use crate::engine::explain;
use crate::language::Language;
use crate::outputs::{Kind, Outputs};
use crate::report::RunReport;
use crate::watch::Watch;
use crate::{output, terminal};

use text::Text;

/// A heading in the help.
const SAMPLING: &str = "Choosing tokens";

/// Generate text with a language model of the Llama family
///
/// The text goes to stdout as it comes, and what it took to stderr.
#[derive(Clone, Debug, clap::Args)]
#[command(
    mut_arg("passes", |arg| arg.hide(true)),
    after_help = "\
Examples:
  vram generate --model model.gguf --chat 'What is the capital of France?' --budget 50%
  vram generate --model llama/ --prompt 'Once upon a time' --temperature 0.8 --max-tokens 64
  vram generate --model model.gguf --prompt - < prompt.txt"
)]
pub(crate) struct Args {
    /// A GGUF file, or a folder with safetensors, config.json and tokenizer.json
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) model: PathBuf,
    /// Text to go on from; - reads it from stdin
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["ids", "chat"])]
    pub(crate) prompt: Option<String>,
    /// Put the text, or that of --prompt, to the model as a message, with its chat template
    #[arg(long, value_name = "TEXT", num_args = 0..=1, conflicts_with = "ids")]
    pub(crate) chat: Option<Option<String>>,
    /// What the model is told before the message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    /// Token ids to go on from, in the place of text
    #[arg(long, value_name = "ID,ID,..", value_delimiter = ',', conflicts_with = "prompt")]
    pub(crate) ids: Vec<u32>,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value = "128", value_parser = at_least_one)]
    pub(crate) max_tokens: usize,
    /// Tokens to keep room for, prompt and answer together; by default, what the prompt and
    /// --max-tokens need
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) context: Option<usize>,
    /// Tokens of the prompt in one pass: more are quicker and take more memory
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    pub(crate) chunk: usize,
    /// End at this text, which is left out; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// 0 takes the most likely token; more gives others a chance
    #[arg(long, value_name = "X", default_value = "0", help_heading = SAMPLING)]
    pub(crate) temperature: f32,
    /// Choose among the N most likely tokens; 0 for all
    #[arg(long, value_name = "N", default_value = "0", help_heading = SAMPLING)]
    pub(crate) top_k: usize,
    /// Choose among the most likely tokens that have this probability together
    #[arg(long, value_name = "P", default_value = "1", help_heading = SAMPLING)]
    pub(crate) top_p: f32,
    /// Choose among tokens at least this share as likely as the most likely
    #[arg(long, value_name = "P", default_value = "0", help_heading = SAMPLING)]
    pub(crate) min_p: f32,
    /// Make the last 64 tokens less likely by this factor
    #[arg(long, value_name = "X", default_value = "1", help_heading = SAMPLING)]
    pub(crate) repetition_penalty: f32,
    /// For each token, list the N most likely ones with their log-probabilities; needs --json
    #[arg(long, value_name = "N", default_value = "0", help_heading = SAMPLING)]
    pub(crate) logprobs: usize,
    /// What chances depend on: the same seed gives the same text
    #[arg(long, value_name = "N", default_value = "0", help_heading = SAMPLING)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) engine: Engine,
}

/// Why a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Finish {
    /// The model ended it, or a stop string.
    Stop,
    /// It has as many tokens as were allowed or as there is room for.
    Length,
}

#[derive(Debug, Serialize)]
struct Document {
    prompt_ids: Vec<u32>,
    /// With the one that ended the text, if one did.
    ids: Vec<u32>,
    text: String,
    finish: Finish,
    /// For each id what was most likely in its place, if it was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Vec<Likely>>,
    prompt_seconds: f64,
    /// Of all tokens but the first, which the prompt's pass gives.
    decode_seconds: f64,
    /// Bytes of keys and values.
    cache_bytes: u64,
    #[serde(flatten)]
    report: RunReport,
}

/// A token that could come next.
#[derive(Clone, Copy, Debug, Serialize)]
struct Likely {
    id: u32,
    logprob: f32,
}

/// The most likely tokens, the most likely first.
fn most_likely(logits: &[f32], count: usize) -> Vec<Likely> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - most).exp()).sum();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let count = count.min(order.len());
    if count < order.len() {
        order.select_nth_unstable_by(count, better);
        order.truncate(count);
    }
    order.sort_by(better);
    let of = |id: u32| Likely { id, logprob: (f64::from(logits[id as usize] - most) - sum.ln()) as f32 };
    order.into_iter().map(of).collect()
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    ensure!(json || args.logprobs == 0, "--logprobs needs --json");
    ensure!(
        args.engine.passes == 1,
        "--passes is not for generate: it runs as many passes as there are tokens"
    );
    ensure!(args.stop.iter().all(|stop| !stop.is_empty()), "--stop needs a text");
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(sampling).map_err(|e| anyhow!("--{}", e.to_string().replace('_', "-")))?;
    let mut outputs = Outputs::new(args.engine.force, json);
    let language = Language::open(&args.model, &args.engine, &mut outputs)?;
    let trace = outputs.add_some("--trace", args.engine.trace.as_deref(), Kind::Text)?;
    let save = outputs.add_some("--report", args.engine.report.as_deref(), Kind::Text)?;
    let prompt = prompt(args, &language)?;
    let size = size(args, &prompt)?;

    let device = args.engine.open_device()?;
    let watch = Watch::new(trace.is_some());
    let config = args.engine.config(&*device, &watch)?;
    let host = config.host_limit.clone();
    let at_model = |error| explain(error).context(args.model.display().to_string());
    let model = language
        .manage(device, config, args.engine.budget)
        .with_context(|| args.model.display().to_string())?;
    let minimum = Batch::minimum_budget(&model, size).map_err(at_model)?;
    let mut batch = Batch::new(&model, size).map_err(|error| too_small(error, &model, size))?;

    let mut out = outputs.people();
    let mut show = |text: &str| -> Result<()> {
        if !json {
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    };
    let answer = answer(args, &language, &mut batch, &mut sampler, &prompt, &mut show)?;
    let report = RunReport::new(model.report(), minimum, &host, &args.engine);
    let cache_bytes = Cache::bytes(&language.config, size.context, model.dtype()).map_err(explain)?;
    let Answer { ids, text, finish, logprobs, prompt_seconds, decode_seconds } = answer;
    let document = Document {
        prompt_ids: prompt,
        ids,
        text,
        finish,
        logprobs,
        prompt_seconds,
        decode_seconds,
        cache_bytes,
        report,
    };
    match json {
        true => output::json(&document)?,
        false => {
            writeln!(out)?;
            out.flush()?;
            tell(&document, model.report().total.disk_bytes)?;
        }
    }
    watch.save(trace.as_ref())?;
    document.report.save(save.as_ref())
}

/// The ids to go on from.
fn prompt(args: &Args, language: &Language) -> Result<Vec<u32>> {
    let text = match args.prompt.as_deref() {
        Some("-") => {
            let mut text = String::new();
            io::stdin().lock().read_to_string(&mut text)?;
            Some(text)
        }
        text => text.map(str::to_owned),
    };
    let ids = match (&args.chat, text) {
        (Some(Some(_)), Some(_)) => bail!("--chat TEXT and --prompt both say what to ask; use one"),
        (Some(Some(text)), None) => chat(args, language, text)?,
        (Some(None), Some(text)) => chat(args, language, &text)?,
        (Some(None), None) => bail!("--chat needs a text, its own or that of --prompt"),
        (None, Some(text)) => language.tokenizer.encode_whole(&text)?,
        (None, None) => args.ids.clone(),
    };
    ensure!(!ids.is_empty(), "the prompt is empty, and there is nothing to go on from");
    if let Some(bad) = ids.iter().find(|id| **id as usize >= language.config.vocabulary) {
        bail!("{bad} is no token: the model has {}", language.config.vocabulary);
    }
    Ok(ids)
}

fn chat(args: &Args, language: &Language, text: &str) -> Result<Vec<u32>> {
    let system = args.system.as_ref().map(Message::system);
    let messages: Vec<Message> = system.into_iter().chain([Message::user(text)]).collect();
    // The template has what begins every text.
    Ok(language.tokenizer.encode(&language.template()?.render(&messages)?)?)
}

fn size(args: &Args, prompt: &[u32]) -> Result<BatchSize> {
    // The last token is not shown to the model.
    let whole = prompt.len().saturating_add(args.max_tokens - 1);
    let context = args.context.unwrap_or(whole);
    ensure!(prompt.len() <= context, "the prompt has {} tokens, more than --context {context}", prompt.len());
    Ok(BatchSize { sequences: 1, context, chunk: args.chunk })
}

/// Says which context would fit, where one does.
pub(crate) fn too_small(error: Error, model: &Managed<Llama>, size: BatchSize) -> anyhow::Error {
    let fits = match error {
        Error::BudgetTooSmall { .. } => Batch::largest_context(model, size).ok().flatten(),
        _ => None,
    };
    let error = explain(error);
    match fits {
        Some(context) => {
            anyhow!("{error}, or with a context of {context} tokens in place of {}", size.context)
        }
        None => error,
    }
}

struct Answer {
    ids: Vec<u32>,
    text: String,
    finish: Finish,
    logprobs: Vec<Vec<Likely>>,
    prompt_seconds: f64,
    decode_seconds: f64,
}

fn answer(
    args: &Args,
    language: &Language,
    batch: &mut Batch<'_>,
    sampler: &mut Sampler,
    prompt: &[u32],
    show: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Answer> {
    let options = RunOptions::default();
    let mut step = |ids: &[u32]| -> Result<Vec<f32>> {
        let mut rows = batch.show(&[(0, ids)], &options).map_err(explain)?;
        rows.pop().ok_or_else(|| anyhow!("the model gave no logits"))
    };
    let started = Instant::now();
    let mut logits = step(prompt)?;
    let prompt_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let room =
        args.context.map_or(args.max_tokens, |context| args.max_tokens.min(context - prompt.len() + 1));
    let mut tokens = prompt.to_vec();
    let (mut stream, mut text) = (language.tokenizer.stream(), Text::default());
    let (mut finish, mut logprobs) = (Finish::Length, Vec::new());
    while tokens.len() - prompt.len() < room {
        if args.logprobs > 0 {
            logprobs.push(most_likely(&logits, args.logprobs));
        }
        let id = sampler.choose(&logits, &tokens)?;
        tokens.push(id);
        if language.tokenizer.ends().contains(&id) {
            finish = Finish::Stop;
            break;
        }
        let stopped = match stream.push(id)? {
            Some(more) => text.push(&more, &args.stop),
            None => false,
        };
        show(text.show(&args.stop, stopped))?;
        if stopped {
            finish = Finish::Stop;
            break;
        }
        if tokens.len() - prompt.len() < room {
            logits = step(&[id])?;
        }
    }
    show(text.show(&args.stop, true))?;
    let decode_seconds = started.elapsed().as_secs_f64();
    let ids = tokens.split_off(prompt.len());
    Ok(Answer { ids, text: text.into_string(), finish, logprobs, prompt_seconds, decode_seconds })
}

/// Says on stderr what the text took.
fn tell(document: &Document, disk_bytes: u64) -> Result<()> {
    let rate = |tokens: usize, seconds: f64| format!("{:.1} a second", tokens as f64 / seconds.max(1e-9));
    let (prompt, more) = (document.prompt_ids.len(), document.ids.len().saturating_sub(1));
    terminal::note(format_args!(
        "\nprompt: {} in {}, {}",
        output::count(prompt, "token"),
        output::seconds(document.prompt_seconds),
        rate(prompt, document.prompt_seconds)
    ));
    terminal::note(format_args!(
        "answer: {} in {}, {}",
        output::count(document.ids.len(), "token"),
        output::seconds(document.decode_seconds),
        rate(more, document.decode_seconds)
    ));
    let shown = (prompt + more) as u64;
    terminal::note(format_args!(
        "read from disk: {} in all, {} for each token",
        ByteSize(disk_bytes),
        ByteSize(disk_bytes / shown.max(1))
    ));
    let mut memory = Vec::new();
    document.report.print_memory(&mut memory)?;
    terminal::note(String::from_utf8_lossy(&memory).trim_end());
    terminal::note(format_args!("  keys and values  {}", ByteSize(document.cache_bytes)));
    Ok(())
}
