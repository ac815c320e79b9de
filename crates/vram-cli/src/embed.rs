//! `vram embed`: a sentence encoder with real weights.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use tokenizers::{Tokenizer, TruncationParams};
use vram_diskmap::DiskMap;
use vram_stream::models::bert::{Bert, Config};
use vram_stream::{Managed, ModuleMap, RunOptions, enable_vram_management, skip_init};

use crate::args::Engine;
use crate::checkpoint::Checkpoint;
use crate::engine::{explain, leave_free};
use crate::output;
use crate::report::RunReport;
use crate::watch::Watch;

/// Tokens that share a pass, unless the budget asks for fewer.
const TOKENS: usize = 1024;

/// Embed sentences with a BERT encoder and compare them
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with model.safetensors, config.json and tokenizer.json
    #[arg(long, value_name = "DIR", env = "VRAM_MINILM")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) engine: Engine,
    /// The sentences
    #[arg(required = true, value_name = "TEXT")]
    pub(crate) texts: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Document {
    /// One row for each text, of length 1. The digits are enough to give back every bit of the f32.
    embeddings: Vec<Vec<f32>>,
    /// Cosines of every text with every other.
    similarity: Vec<Vec<f32>>,
    report: RunReport,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let config_json = read(&args.model.join("config.json"))?;
    let convert = args.engine.convert.as_deref();
    let source = Checkpoint::open(DiskMap::options(), &args.model, args.engine.read, convert)?.into_source();
    let at_model = || args.model.display().to_string();
    let config = Config::read(&*source, &config_json).with_context(at_model)?;
    let sequences = tokenize(&args.model, config.positions, &args.texts)?;

    let device = args.engine.open_device()?;
    let watch = Watch::new(args.engine.trace.as_deref());
    let mut vram = args.engine.config(&*device, &watch)?;
    vram.prefix.clone_from(&config.prefix);
    let host = vram.host_limit.clone();
    let model = skip_init(|| Bert::new(&config)).with_context(at_model)?;
    let model = enable_vram_management(model, source, device, &ModuleMap::standard(), vram)
        .map_err(explain)
        .with_context(at_model)?;
    leave_free(args.engine.budget, model.engine())?;

    let (groups, minimum) = groups(&model, &sequences)?;
    let passes = args.engine.passes;
    watch.begin(passes * groups.len());
    let mut embeddings = Vec::new();
    for pass in 1..=passes {
        embeddings.clear();
        for (number, group) in groups.iter().enumerate() {
            let last = pass == passes && number + 1 == groups.len();
            let options = RunOptions { last, ..RunOptions::default() };
            embeddings.extend(model.run_with(options, |m, fwd| m.embed(fwd, group)).map_err(explain)?);
        }
    }
    watch.finish(args.engine.trace.as_deref())?;

    let report = RunReport::new(model.report(), minimum, &host, &args.engine);
    report.save(args.engine.report.as_deref())?;
    let document = Document { similarity: similarity(&embeddings), embeddings, report };
    if json { output::json(&document) } else { Ok(print(&args.texts, &document)?) }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What sentence encoders say beside their weights.
#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

/// Token ids of every text, cut to what the model takes.
fn tokenize(model: &Path, positions: usize, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let path = model.join("tokenizer.json");
    let text = read(&path)?;
    let at = |e: tokenizers::Error| anyhow!("{}: {e}", path.display());
    let mut tokenizer: Tokenizer = text.parse().map_err(at)?;
    let sentence = model.join("sentence_bert_config.json");
    let longest = if sentence.exists() {
        let config: SentenceConfig =
            serde_json::from_str(&read(&sentence)?).with_context(|| sentence.display().to_string())?;
        config.max_seq_length.map_or(positions, |n| n.min(positions))
    } else {
        positions
    };
    let truncation = TruncationParams { max_length: longest, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(at)?;
    tokenizer.with_padding(None);
    texts
        .iter()
        .map(|text| Ok(tokenizer.encode(text.as_str(), true).map_err(at)?.get_ids().to_vec()))
        .collect()
}

/// Sequences that share a pass: some [`TOKENS`] tokens, or as few as the budget needs (down to one sequence). Also the
/// smallest budget under which all of them run. How they are grouped changes no bit of any embedding.
fn groups<'a>(model: &Managed<Bert>, sequences: &'a [Vec<u32>]) -> Result<(Vec<Vec<&'a [u32]>>, u64)> {
    let limit = model.engine().budget().limit();
    let mut most = TOKENS;
    loop {
        let groups = grouped(sequences, most);
        let mut minimum = 0;
        for group in &groups {
            minimum = minimum.max(model.minimum_budget(|m, fwd| m.embed(fwd, group)).map_err(explain)?);
        }
        if minimum <= limit || most <= 1 {
            return Ok((groups, minimum));
        }
        most /= 2;
    }
}

fn grouped(sequences: &[Vec<u32>], most: usize) -> Vec<Vec<&[u32]>> {
    let mut groups: Vec<Vec<&[u32]>> = Vec::new();
    let mut tokens = usize::MAX;
    for sequence in sequences {
        tokens = tokens.saturating_add(sequence.len());
        match groups.last_mut() {
            Some(group) if tokens <= most => group.push(sequence),
            _ => {
                tokens = sequence.len();
                groups.push(vec![sequence]);
            }
        }
    }
    groups
}

fn similarity(embeddings: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let cosine = |a: &Vec<f32>, b: &Vec<f32>| {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>() as f32
    };
    embeddings.iter().map(|a| embeddings.iter().map(|b| cosine(a, b)).collect()).collect()
}

fn print(texts: &[String], document: &Document) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    writeln!(out, "cosine similarity")?;
    for (number, (text, row)) in texts.iter().zip(&document.similarity).enumerate() {
        let row: Vec<String> = row.iter().map(|x| format!("{x:6.3}")).collect();
        writeln!(out, "  {:>2}  {}   {text:?}", number + 1, row.join(" "))?;
    }
    writeln!(out)?;
    document.report.print(&mut out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Budget, Read, Waits};
    use clap::Parser;
    use vram_types::ByteSize;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn defaults_and_limits() {
        let parse = |line: &str| Command::try_parse_from(line.split(' ')).map(|c| c.args);
        let args = parse("embed --model m one two").unwrap();
        assert_eq!(args.texts, ["one", "two"]);
        let engine = args.engine;
        assert_eq!((engine.budget, engine.host_budget), (Budget::Auto, ByteSize::mib(64)));
        assert_eq!((engine.read, engine.passes, engine.threads), (Read::Auto, 1, None));
        assert_eq!(engine.from, Waits::Disk);
        let engine = parse("embed --model m --budget 22MiB --read direct --dtype bf16 x").unwrap().engine;
        assert_eq!(engine.budget, Budget::Bytes(ByteSize::mib(22)));
        for bad in ["--passes 0", "--threads x", "--budget much", "--device toaster", "--dtype i8"] {
            assert_eq!(parse(&format!("embed --model m {bad} x")).unwrap_err().exit_code(), 2, "{bad}");
        }
        assert!(parse("embed --model m").is_err());
    }

    #[test]
    fn groups_keep_the_order_and_the_limit() {
        let check = |lengths: &[usize], most, expected: &[usize]| {
            let sequences: Vec<Vec<u32>> = lengths.iter().map(|n| vec![0; *n]).collect();
            let sizes: Vec<usize> = grouped(&sequences, most).iter().map(Vec::len).collect();
            assert_eq!(sizes, expected, "{lengths:?} in {most}");
        };
        check(&[3, 3, 3], 9, &[3]);
        check(&[3, 3, 3], 8, &[2, 1]);
        check(&[9, 1, 9], 4, &[1, 1, 1]);
        check(&[2, 2, 1, 4], 5, &[3, 1]);
        check(&[], 5, &[]);
    }
}
