//! `vram embed`: sentence embeddings with a real model.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use vram_diskmap::DiskMap;
use vram_stream::models::bert::{Bert, Config};
use vram_stream::{Managed, ModuleMap, RunOptions, enable_vram_management, skip_init};

use crate::args::Engine;
use crate::checkpoint::{self, Checkpoint};
use crate::engine::{explain, leave_free};
use crate::outputs::{Kind, Outputs};
use crate::report::RunReport;
use crate::watch::Watch;
use crate::{output, tokens};

/// Tokens that share a pass, unless the budget requires fewer.
const TOKENS: usize = 1024;

/// Embed sentences with a BERT encoder and compare them
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vram embed --model minilm --budget 22MiB 'a cat' 'a kitten' 'a tax return'
  vram embed --model minilm --json - < sentences.txt")]
pub(crate) struct Args {
    /// Folder with model.safetensors, config.json and tokenizer.json
    #[arg(long, value_name = "DIR", env = "VRAM_MINILM")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) engine: Engine,
    /// Sentences to embed; - stands for the lines of stdin
    #[arg(required = true, value_name = "TEXT")]
    pub(crate) texts: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Document {
    /// One row per text, of length 1. The digits restore every bit of the f32.
    embeddings: Vec<Vec<f32>>,
    /// Cosine similarity of every pair of texts.
    similarity: Vec<Vec<f32>>,
    report: RunReport,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    checkpoint::is_model_folder(&args.model)?;
    let config_json = tokens::read(&args.model.join("config.json"))?;
    let convert = args.engine.convert.as_deref();
    let checkpoint = Checkpoint::open(DiskMap::options(), &args.model, args.engine.read, convert)?;
    let mut outputs = Outputs::new(args.engine.force, json);
    outputs.reads_checkpoint(&args.model, checkpoint.map());
    for name in ["config.json", "tokenizer.json", "sentence_bert_config.json"] {
        outputs.reads(args.model.join(name));
    }
    if let Some(rules) = convert {
        outputs.reads(rules);
    }
    let trace = outputs.add_some("--trace", args.engine.trace.as_deref(), Kind::Text)?;
    let save = outputs.add_some("--report", args.engine.report.as_deref(), Kind::Text)?;
    let source = checkpoint.into_source();
    let at_model = || args.model.display().to_string();
    let config = Config::read(&*source, &config_json).with_context(at_model)?;
    let texts = tokens::gather(&args.texts)?;
    let encoded = tokens::encode(&args.model, config.positions, &texts)?;
    let sequences: Vec<Vec<u32>> = encoded.iter().map(|e| e.get_ids().to_vec()).collect();

    let device = args.engine.open_device()?;
    let watch = Watch::new(trace.is_some());
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
    watch.finish();

    let report = RunReport::new(model.report(), minimum, &host, &args.engine);
    let document = Document { similarity: similarity(&embeddings), embeddings, report };
    // The result first: a trace that cannot be written does not cost it.
    match json {
        true => output::json(&document)?,
        false => print(&mut outputs.people(), &texts, &document)?,
    }
    watch.save(trace.as_ref())?;
    document.report.save(save.as_ref())
}

/// Groups sequences into passes of about [`TOKENS`] tokens, or fewer if the budget requires it
/// (down to one sequence). Also returns the smallest budget under which all groups run. The
/// grouping changes no bit of any embedding.
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

fn print(out: &mut impl Write, texts: &[String], document: &Document) -> io::Result<()> {
    writeln!(out, "cosine similarity")?;
    for (number, (text, row)) in texts.iter().zip(&document.similarity).enumerate() {
        let row: Vec<String> = row.iter().map(|x| format!("{x:6.3}")).collect();
        writeln!(out, "  {:>2}  {}   {text:?}", number + 1, row.join(" "))?;
    }
    writeln!(out)?;
    document.report.print(out)?;
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
