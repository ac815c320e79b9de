//! From text to token ids, with the tokenizer that lies beside a model.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;
use tokenizers::{Encoding, Tokenizer, TruncationParams};

/// Settings that sentence encoders store beside their weights.
#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

/// The word that stands for the lines of stdin.
const STDIN: &str = "-";

/// Encodes every text, truncated to what the model accepts.
pub(crate) fn encode(model: &Path, positions: usize, texts: &[String]) -> Result<Vec<Encoding>> {
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
    texts.iter().map(|text| tokenizer.encode(text.as_str(), true).map_err(at)).collect()
}

/// The texts of a command line, with the lines of stdin in the place of `-`.
pub(crate) fn gather(texts: &[String]) -> Result<Vec<String>> {
    let from_stdin = texts.iter().filter(|text| *text == STDIN).count();
    ensure!(from_stdin <= 1, "{STDIN} stands for stdin, which can be read once");
    if from_stdin == 0 {
        return Ok(texts.to_vec());
    }
    let mut read = String::new();
    std::io::stdin().lock().read_to_string(&mut read).context("stdin")?;
    let lines: Vec<String> = read.lines().map(str::to_owned).collect();
    ensure!(!lines.is_empty(), "stdin is empty; each of its lines is a text");
    let replaced = texts.iter().flat_map(|text| match text == STDIN {
        true => lines.clone(),
        false => vec![text.clone()],
    });
    Ok(replaced.collect())
}

pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
