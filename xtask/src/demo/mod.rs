//! `cargo xtask demo`: runs real models twice, once with all weights in memory and once with a budget
//! of a quarter of them, and compares the answers: the text of a language model, and the embeddings of
//! a sentence encoder bit for bit.

mod speak;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{models, shell};

const SENTENCES: [&str; 4] = [
    "The weights wait on disk until their layer is due.",
    "Parameters stay in storage and are loaded just in time.",
    "A cat sleeps on the warm windowsill.",
    "The kitten naps in the sun by the window.",
];
/// The first pass loads weights and learns the order of layers; later passes show the steady
/// state.
const PASSES: usize = 5;

/// The output of `vram embed --json`.
#[derive(Debug, Deserialize)]
struct Embedded {
    embeddings: Vec<Vec<f32>>,
    similarity: Vec<Vec<f32>>,
    report: Report,
}

#[derive(Debug, Deserialize)]
struct Report {
    device: String,
    dtype: String,
    budget_bytes: u64,
    peak_bytes: u64,
    resident_bytes: u64,
    ring_bytes: u64,
    weights_bytes: u64,
    passes: Vec<Pass>,
}

#[derive(Debug, Deserialize)]
struct Pass {
    seconds: f64,
    disk_bytes: u64,
}

/// Downloads the models (unless the encoder is given, which then runs alone), builds `vram`, runs each model
/// twice and compares the results.
pub(crate) fn run(given: Option<&Path>) -> Result<()> {
    let model = match given {
        Some(dir) => {
            models::MINILM.check_names(dir)?;
            std::path::absolute(dir).with_context(|| dir.display().to_string())?
        }
        None => models::MINILM.ensure()?,
    };
    let language = match given {
        Some(_) => None,
        None => Some(models::SMOLLM2.ensure()?.join(models::SMOLLM2.files[0].0)),
    };
    let weights = model.join("model.safetensors");
    let bytes = fs::metadata(&weights).with_context(|| weights.display().to_string())?.len();
    let vram = build()?;
    if let Some(language) = language {
        print!("\n{}", speak::run(&vram, &language)?);
    }
    let resident = embed(&vram, &model, "auto")?;
    let streamed = embed(&vram, &model, &(bytes / 4).to_string())?;
    print!("\n{}", similarities(&resident));
    print!("\n{}", comparison(&resident, &streamed)?);
    ensure!(identical(&resident, &streamed), "the two runs gave different embeddings, which is a bug");
    print!("\n{}", verdict(&resident.report, &streamed.report));
    Ok(())
}

/// Builds the command, with cargo's own progress, and returns its path.
fn build() -> Result<PathBuf> {
    eprintln!("building the vram command, which takes a few minutes the first time");
    shell::run(shell::cargo().args(["build", "--release", "--package", "vram-cli"]))?;
    let metadata = shell::metadata(&shell::root().join("Cargo.toml"), false)?;
    let path =
        metadata.target_directory.join("release").join(format!("vram{}", std::env::consts::EXE_SUFFIX));
    Ok(path.into_std_path_buf())
}

fn embed(vram: &Path, model: &Path, budget: &str) -> Result<Embedded> {
    let mut command = std::process::Command::new(vram);
    command.args(["embed", "--json", "--budget", budget, "--passes", &PASSES.to_string(), "--model"]);
    let text = shell::stdout(command.arg(model).args(SENTENCES))?;
    let embedded: Embedded = serde_json::from_str(&text).context("output of vram embed")?;
    let shape = (embedded.embeddings.len(), embedded.similarity.len());
    ensure!(shape == (SENTENCES.len(), SENTENCES.len()), "vram embed returned {shape:?} sentences");
    ensure!(!embedded.report.passes.is_empty(), "vram embed reports no pass");
    Ok(embedded)
}

/// Bitwise comparison: a NaN equals itself, and 0.0 differs from -0.0.
fn identical(a: &Embedded, b: &Embedded) -> bool {
    let bits = |e: &Embedded| -> Vec<Vec<u32>> {
        e.embeddings.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
    };
    bits(a) == bits(b)
}

fn similarities(embedded: &Embedded) -> String {
    let mut text = String::from("Cosine similarity of\n");
    for (i, (sentence, row)) in SENTENCES.iter().zip(&embedded.similarity).enumerate() {
        let row: Vec<String> = row.iter().map(|x| format!("{x:6.3}")).collect();
        text.push_str(&format!("  {}  {}   {sentence}\n", i + 1, row.join(" ")));
    }
    text
}

fn comparison(resident: &Embedded, streamed: &Embedded) -> Result<String> {
    let (a, b) = (&resident.report, &streamed.report);
    let last = |r: &Report| r.passes.last().map_or(0, |p| p.disk_bytes);
    let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    let answer = if identical(resident, streamed) { "yes" } else { "NO" };
    let rows = [
        ["", "all free memory", "a quarter of the weights"].map(str::to_owned),
        row("budget", a, b, |r| size(r.budget_bytes)),
        row("peak", a, b, |r| size(r.peak_bytes)),
        row("  resident weights", a, b, |r| size(r.resident_bytes)),
        row("  streaming ring", a, b, |r| size(r.ring_bytes)),
        row("first pass", a, b, |r| ms(r.passes.first().map_or(f64::NAN, |p| p.seconds))),
        row("best later pass", a, b, |r| ms(best(r))),
        row("read from disk, first pass", a, b, |r| size(r.passes.first().map_or(0, |p| p.disk_bytes))),
        row("read from disk, last pass", a, b, |r| size(last(r))),
        ["identical to the bit".to_owned(), String::new(), answer.to_owned()],
    ];
    ensure!(
        b.peak_bytes <= b.budget_bytes,
        "the run used {} of a budget of {}",
        size(b.peak_bytes),
        size(b.budget_bytes)
    );
    let widths: [usize; 3] = std::array::from_fn(|c| rows.iter().map(|r| r[c].len()).max().unwrap_or(0));
    let mut text =
        format!("{} of weights, computing in {} on {}\n", size(a.weights_bytes), a.dtype, a.device);
    for [name, left, right] in &rows {
        text.push_str(&format!(
            "  {name:w0$}  {left:>w1$}  {right:>w2$}\n",
            w0 = widths[0],
            w1 = widths[1],
            w2 = widths[2]
        ));
    }
    Ok(text)
}

/// The best pass in the steady state. The first pass is left out, because it also reads the
/// resident weights.
fn best(report: &Report) -> f64 {
    let later = if report.passes.len() > 1 { &report.passes[1..] } else { &report.passes[..] };
    later.iter().map(|p| p.seconds).fold(f64::INFINITY, f64::min)
}

fn verdict(resident: &Report, streamed: &Report) -> String {
    format!(
        "Identical embeddings with {:.0} % of the memory; a pass takes {:.2} times as long.\n",
        100.0 * streamed.peak_bytes as f64 / resident.peak_bytes as f64,
        best(streamed) / best(resident)
    )
}

fn row(name: &str, a: &Report, b: &Report, cell: impl Fn(&Report) -> String) -> [String; 3] {
    [name.to_owned(), cell(a), cell(b)]
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded(x: &str, peak: u64) -> Embedded {
        let text = format!(
            r#"{{"embeddings": [[{x}, 0.1]], "similarity": [[1.0]], "report": {{"device": "cpu", "dtype": "F32",
            "budget_bytes": 4096, "peak_bytes": {peak}, "resident_bytes": 1024, "ring_bytes": 512,
            "weights_bytes": 8192, "host_peak_bytes": 1,
            "passes": [{{"seconds": 0.25, "compute_seconds": 0.1, "stall_seconds": 0, "disk_bytes": 8192,
            "device_bytes": 8192}}, {{"seconds": 0.125, "disk_bytes": 0}}]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn one_bit_is_a_difference() {
        let one = embedded("0.3333333432674407958984375", 1);
        assert!(identical(&one, &embedded("0.33333334", 1)));
        assert!(!identical(&one, &embedded("0.33333337", 1)));
        assert!(!identical(&embedded("0.0", 1), &embedded("-0.0", 1)));
    }

    #[test]
    fn the_table_says_what_matters() {
        let (resident, streamed) = (embedded("1.5", 4096).report, embedded("1.5", 1024).report);
        assert!(verdict(&resident, &streamed).contains("with 25 % of the memory; a pass takes 1.00 times"));
        let text = comparison(&embedded("1.5", 4096), &embedded("1.5", 4000)).unwrap();
        assert!(text.contains("125.0 ms") && text.contains("250.0 ms") && text.ends_with(" yes\n"), "{text}");
        let text = comparison(&embedded("1.5", 4096), &embedded("2.5", 4000)).unwrap();
        assert!(text.ends_with(" NO\n"), "{text}");
        let error = comparison(&embedded("1.5", 4096), &embedded("1.5", 4097)).unwrap_err().to_string();
        assert!(error.contains("budget"), "{error}");
    }
}
