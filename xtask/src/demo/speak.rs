//! A language model answers a question twice.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::size;
use crate::shell;

const QUESTION: &str = "Tell me a short story about a cat.";

/// The output of `vram generate --json`.
#[derive(Debug, Deserialize)]
struct Spoken {
    ids: Vec<u32>,
    text: String,
    decode_seconds: f64,
    budget_bytes: u64,
    peak_bytes: u64,
    weights_bytes: u64,
    total: Total,
}

#[derive(Debug, Deserialize)]
struct Total {
    passes: u64,
    disk_bytes: u64,
}

/// Lets the model answer with all free memory, and in a quarter of its weights' bytes.
pub(super) fn run(vram: &Path, model: &Path) -> Result<String> {
    let resident = generate(vram, model, "auto")?;
    let streamed = generate(vram, model, &(resident.weights_bytes / 4).to_string())?;
    ensure!(resident.ids == streamed.ids, "the two runs gave different texts, which is a bug");
    ensure!(
        streamed.peak_bytes <= streamed.budget_bytes,
        "the run used {} of a budget of {}",
        size(streamed.peak_bytes),
        size(streamed.budget_bytes)
    );
    Ok(told(&resident, &streamed))
}

fn generate(vram: &Path, model: &Path, budget: &str) -> Result<Spoken> {
    let mut command = Command::new(vram);
    command.args([
        "generate",
        "--json",
        "--chat",
        QUESTION,
        "--max-tokens",
        "48",
        "--budget",
        budget,
        "--model",
    ]);
    let text = shell::stdout(command.arg(model))?;
    let spoken: Spoken = serde_json::from_str(&text).context("output of vram generate")?;
    ensure!(spoken.ids.len() > 1 && spoken.total.passes > 0, "vram generate said nothing");
    Ok(spoken)
}

fn told(resident: &Spoken, streamed: &Spoken) -> String {
    let speed = |s: &Spoken| (s.ids.len() - 1) as f64 / s.decode_seconds;
    let line = |name: &str, s: &Spoken| {
        format!(
            "  {name}  at most {} held, {:.1} tokens a second, {} read for each\n",
            size(s.peak_bytes),
            speed(s),
            size(s.total.disk_bytes / s.total.passes)
        )
    };
    format!(
        "{QUESTION}\n> {}\n\nThe same text from {} of weights\n{}{}",
        resident.text.trim().replace('\n', "\n> "),
        size(resident.weights_bytes),
        line("in all free memory:        ", resident),
        line("in a quarter of their size:", streamed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_and_what_it_took_are_told() {
        let text = r#"{"ids": [1, 2, 3], "text": " Blue.\nIndeed. ", "decode_seconds": 0.5, "budget_bytes": 9,
            "peak_bytes": 2097152, "weights_bytes": 8388608, "total": {"passes": 4, "disk_bytes": 4194304}}"#;
        let spoken: Spoken = serde_json::from_str(text).unwrap();
        let told = told(&spoken, &spoken);
        assert!(told.contains("> Blue.\n> Indeed.\n"), "{told}");
        assert!(told.contains("from 8.0 MiB of weights"), "{told}");
        assert!(told.contains("at most 2.0 MiB held, 4.0 tokens a second, 1.0 MiB read for each"), "{told}");
    }
}
