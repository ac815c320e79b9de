//! Text from a real language model, where it is here.

use std::path::PathBuf;

use serde_json::Value;

use crate::{folder, vram};

fn smollm2() -> Option<String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let places =
        [std::env::var_os("VRAM_SMOLLM2").map(PathBuf::from), Some(root.join("target/models/smollm2"))];
    let files = places.into_iter().flatten().map(|folder| folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"));
    let found = files.into_iter().find(|file| file.exists());
    if found.is_none() {
        println!(
            "skipped: SmolLM2 is not here; `cargo xtask models` fetches it, or VRAM_SMOLLM2 names its folder"
        );
    }
    found.map(|file| file.to_str().unwrap().to_owned())
}

/// Runs `vram generate` with these arguments; its exit code, stdout and stderr.
fn generate(model: &str, args: &[&str]) -> (i32, String, String) {
    let out = vram(&[&["generate", "--model", model], args].concat(), folder().path());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

fn document(model: &str, args: &[&str]) -> Value {
    let (code, stdout, stderr) = generate(model, &[args, &["--json"]].concat());
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

#[test]
fn a_chat_is_answered_alike_in_a_fraction_of_the_memory() {
    let Some(model) = smollm2() else { return };
    let resident = document(&model, &["--chat", QUESTION]);
    assert_eq!((&resident["text"], &resident["finish"]), (&ANSWER.into(), &"stop".into()));
    assert_eq!(resident["ids"].as_array().unwrap().len(), 8, "the id that ends it is one of them");
    let smallest = resident["smallest_budget_bytes"].as_u64().unwrap();
    let weights = resident["weights_bytes"].as_u64().unwrap();
    assert!(weights < 100 << 20, "weights are kept in their blocks: {weights} bytes");
    for budget in [smallest, weights / 4] {
        let prompt = ["--chat", "--prompt", QUESTION, "--budget", &budget.to_string(), "--chunk", "64"];
        let streamed = document(&model, &prompt);
        assert_eq!(streamed["ids"], resident["ids"], "{budget}");
        assert_eq!(streamed["prompt_ids"], resident["prompt_ids"]);
        assert!(streamed["peak_bytes"].as_u64().unwrap() <= budget);
        assert!(
            streamed["prompt_seconds"].as_f64().unwrap() > 0.0
                && streamed["decode_seconds"].as_f64().unwrap() > 0.0
        );
    }
    let (_, stdout, stderr) = generate(&model, &["--chat", QUESTION]);
    assert_eq!(stdout, format!("{ANSWER}\n"));
    assert!(stderr.contains("keys and values") && stderr.contains("prompt: 37 tokens"), "{stderr}");
}

#[test]
fn texts_end_where_they_are_told_to() {
    let Some(model) = smollm2() else { return };
    let ids: Vec<String> = document(&model, &["--chat", QUESTION, "--max-tokens", "1"])["prompt_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    let from_ids = document(&model, &["--ids", &ids.join(","), "--max-tokens", "3"]);
    assert_eq!((&from_ids["text"], &from_ids["finish"]), (&"The capital of".into(), &"length".into()));
    let stopped = document(&model, &["--chat", QUESTION, "--stop", "Lyon", "--stop", "al of"]);
    assert_eq!((&stopped["text"], &stopped["finish"]), (&"The capit".into(), &"stop".into()));
    let full = document(&model, &["--chat", QUESTION, "--context", &(ids.len() + 1).to_string()]);
    assert_eq!((&full["text"], &full["finish"]), (&"The capital".into(), &"length".into()));
    let warm = |seed: &str| {
        document(&model, &["--prompt", "Once", "--temperature", "1.5", "--max-tokens", "8", "--seed", seed])["ids"].clone()
    };
    assert_eq!(warm("1"), warm("1"));
    assert_ne!(warm("1"), warm("2"));
    let told = document(&model, &["--chat", "Hi", "--system", "You are a pirate.", "--max-tokens", "1"]);
    assert!(told["prompt_ids"].as_array().unwrap().len() < 37, "the system text replaces the usual one");
}

#[test]
fn what_cannot_be_is_said() {
    let Some(model) = smollm2() else { return };
    for (args, code, expected) in [
        (&["--prompt", "x", "--context", "9000"][..], 1, "8192"),
        (&["--prompt", "x", "--context", "8000", "--budget", "24MiB"], 1, "or with a context of"),
        (&["--prompt", "x", "--temperature", "nan"], 1, "--temperature must be"),
        (&["--prompt", "x", "--top-p", "0"], 1, "--top-p must be"),
        (&["--prompt", "one two three", "--context", "2"], 1, "more than --context 2"),
        (&["--prompt", ""], 1, "empty"),
        (&["--ids", "1,70000"], 1, "70000 is no token"),
        (&["--prompt", "x", "--passes", "2"], 1, "--passes is not for generate"),
        (&["--prompt", "x", "--chat", "y"], 1, "use one"),
        (&["--chat"], 1, "needs a text"),
        (&[], 2, "--prompt"),
        (&["--prompt", "x", "--ids", "1"], 2, "cannot be used with"),
        (&["--prompt", "x", "--system", "y"], 2, "--chat"),
    ] {
        let (actual, stdout, stderr) = generate(&model, args);
        assert!(
            actual == code && stdout.is_empty() && stderr.contains(expected),
            "{args:?}: {actual} {stderr}"
        );
    }
}

#[test]
fn activations_of_8_bits_answer_alike_in_any_memory() {
    let Some(model) = smollm2() else { return };
    let ask = ["--prompt", "The capital of France is", "--max-tokens", "12", "--logprobs", "2"];
    let exact = document(&model, &ask);
    let ask = [&ask[..], &["--activations", "q8"]].concat();
    let resident = document(&model, &ask);
    assert!(resident["text"].as_str().unwrap().starts_with(" Paris."), "{resident}");
    let likely = resident["logprobs"].as_array().unwrap();
    assert_eq!(likely.len(), resident["ids"].as_array().unwrap().len());
    for (likely, id) in likely.iter().zip(resident["ids"].as_array().unwrap()) {
        assert_eq!(&likely[0]["id"], id, "the most likely token is taken");
        let of = |at: usize| likely[at]["logprob"].as_f64().unwrap();
        assert!(of(1) <= of(0) && of(0) <= 0.0 && likely.as_array().unwrap().len() == 2, "{likely}");
    }
    let smallest = resident["smallest_budget_bytes"].to_string();
    let streamed = document(&model, &[&ask[..], &["--budget", &smallest, "--threads", "1"]].concat());
    assert_eq!((&streamed["ids"], &streamed["logprobs"]), (&resident["ids"], &resident["logprobs"]));
    // Rounded inputs are near the exact ones.
    let first = |document: &Value| document["logprobs"][0][0]["logprob"].as_f64().unwrap();
    let off = (first(&exact) - first(&resident)).abs();
    assert!(off > 0.0 && off < 0.1, "{off}");
    let (code, _, stderr) = generate(&model, &["--prompt", "a", "--logprobs", "2"]);
    assert!(code == 1 && stderr.contains("--logprobs needs --json"), "{stderr}");
}

#[test]
fn a_model_is_measured() {
    let Some(model) = smollm2() else { return };
    let sizes = ["--prompt-tokens", "8", "--tokens", "2", "--sequences", "2", "--repetitions", "2"];
    let command = [&["bench-model", "--model", &model, "--budget", "40MiB"], &sizes[..]].concat();
    let out = vram(&[&command[..], &["--json"]].concat(), folder().path());
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    let rows = document["rows"].as_array().unwrap();
    assert_eq!([&rows[0]["test"], &rows[1]["test"]], ["prompt", "decode"]);
    assert_eq!([&rows[0]["tokens"], &rows[1]["tokens"]], [8, 4]);
    for row in rows {
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["seconds"].as_array().unwrap().len(), 2);
        assert!(row["disk_bytes_per_token"].as_u64().unwrap() > 1 << 20, "it streams: {row}");
    }
    let text = String::from_utf8(vram(&command, folder().path()).stdout).unwrap();
    assert!(text.starts_with("test    tokens  tokens/s") && text.contains("from disk per token"), "{text}");
    let out = vram(&[&command[..], &["--passes", "2"]].concat(), folder().path());
    assert!(String::from_utf8(out.stderr).unwrap().contains("see --repetitions"));
}
