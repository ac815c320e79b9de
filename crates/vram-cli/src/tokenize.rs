//! `vram tokenize`: makes the inputs of a BERT encoder from text.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use vram_diskmap::DiskMap;
use vram_stream::models::bert::Config;
use vram_types::{DType, TensorMeta};

use crate::args::Read;
use crate::outputs::{Kind, Outputs};
use crate::{checkpoint, output, terminal, tokens};

/// Turn texts into the token ids that a BERT encoder takes, as a file for `vram forward --input`
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vram tokenize --model minilm -o ids.safetensors 'a cat on a mat'
  vram forward --arch bert --weights minilm --input ids.safetensors -o hidden.safetensors

The file has input_ids and token_type_ids, both [texts, tokens]. All texts of a file must have the
same number of tokens, because attention with a mask is not built.")]
pub(crate) struct Args {
    /// Folder with model.safetensors, config.json and tokenizer.json
    #[arg(long, value_name = "DIR", env = "VRAM_MINILM")]
    model: PathBuf,
    /// File to write; - writes it to stdout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace existing files; a file that is also an input is never replaced
    #[arg(long)]
    force: bool,
    /// Texts; - stands for the lines of stdin
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Document {
    output: String,
    texts: usize,
    tokens: usize,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    checkpoint::is_model_folder(&args.model)?;
    let config_json = tokens::read(&args.model.join("config.json"))?;
    let map = checkpoint::open(DiskMap::options(), &args.model, Read::Auto)?;
    let mut outputs = Outputs::new(args.force, json);
    outputs.reads_checkpoint(&args.model, &map);
    for name in ["config.json", "tokenizer.json", "sentence_bert_config.json"] {
        outputs.reads(args.model.join(name));
    }
    let target = outputs.add("--output", &args.output, Kind::Tensors)?;
    let config = Config::read(&map, &config_json).with_context(|| args.model.display().to_string())?;
    let texts = tokens::gather(&args.texts)?;
    let encoded = tokens::encode(&args.model, config.positions, &texts)?;
    let tokens = encoded.first().map_or(0, |first| first.len());
    if let Some((text, other)) = texts.iter().zip(&encoded).find(|(_, other)| other.len() != tokens) {
        bail!(
            "{text:?} has {} tokens and {:?} has {tokens}: a file holds texts of one length; make a file of \
             each, or use `vram embed`, which takes any",
            other.len(),
            texts[0]
        );
    }
    let meta = TensorMeta::new(DType::I64, [texts.len(), tokens])?;
    let bytes = |numbers: fn(&tokenizers::Encoding) -> &[u32]| -> Vec<u8> {
        encoded.iter().flat_map(numbers).flat_map(|n| i64::from(*n).to_le_bytes()).collect()
    };
    let (ids, types) = (bytes(|e| e.get_ids()), bytes(|e| e.get_type_ids()));
    target.write_tensors(&[("input_ids", meta.clone(), &ids), ("token_type_ids", meta, &types)])?;
    if json {
        return output::json(&Document {
            output: args.output.display().to_string(),
            texts: texts.len(),
            tokens,
        });
    }
    let (texts, tokens) = (output::count(texts.len(), "text"), output::count(tokens, "token"));
    terminal::note(format_args!("{}: {texts} of {tokens}", args.output.display()));
    Ok(())
}
