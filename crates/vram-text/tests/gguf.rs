//! Tokenizers and templates of GGUF files.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;
use vram_diskmap::DiskMap;
use vram_text::{ChatTemplate, Message, TextError, Tokenizer};
use vram_types::FileId;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    user: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    greedy_text: String,
}

fn smollm2() -> Option<HashMap<String, String>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let places =
        [std::env::var_os("VRAM_SMOLLM2").map(PathBuf::from), Some(root.join("target/models/smollm2"))];
    let files = places.into_iter().flatten().map(|folder| folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"));
    let Some(file) = files.into_iter().find(|file| file.exists()) else {
        println!(
            "skipped: SmolLM2 is not here; `cargo xtask models` fetches it, or VRAM_SMOLLM2 names its folder"
        );
        return None;
    };
    Some(DiskMap::open(file).unwrap().metadata(FileId(0)).into_iter().collect())
}

#[test]
fn a_chat_becomes_the_ids_of_the_reference_and_its_answer_the_text() {
    let Some(pairs) = smollm2() else { return };
    let pair = |key: &str| pairs.get(key).cloned();
    let tokenizer = Tokenizer::from_gguf(pair).unwrap();
    let template = ChatTemplate::from_gguf(pair, &tokenizer).unwrap().unwrap();
    let golden = std::fs::read_to_string(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../vram-models/tests/golden/smollm2.json"),
    );
    let Golden { cases } = serde_json::from_str(&golden.unwrap()).unwrap();
    for case in cases {
        let text = template.render(&[Message::user(&case.user)]).unwrap();
        assert_eq!(tokenizer.encode(&text).unwrap(), case.prompt_ids, "{text}");
        assert_eq!(tokenizer.decode(&case.greedy_ids, true).unwrap(), case.greedy_text);
        let mut stream = tokenizer.stream();
        let streamed: String = case.greedy_ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(streamed, case.greedy_text.trim_end_matches("<|im_end|>"));
    }
    assert_eq!(tokenizer.ends(), [0, 2]);
    assert_eq!(tokenizer.vocabulary(), 49152);
}

#[test]
fn any_text_survives_the_way_there_and_back() {
    let Some(pairs) = smollm2() else { return };
    let tokenizer = Tokenizer::from_gguf(|key: &str| pairs.get(key).cloned()).unwrap();
    for text in ["", " ", "a  b\n\n\tc", "naïve 漢字 🦀👩‍👩‍👧", "x\u{0}\u{7f}y", "2024-11-30", "<|im_start|>user"]
    {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text, "{ids:?}");
    }
}

/// `golden/README.md` says how these came about: code, many scripts, emoji, control characters, and tokens as text.
#[test]
fn a_thousand_mixed_texts_become_the_ids_of_llama_cpp() {
    let Some(pairs) = smollm2() else { return };
    let tokenizer = Tokenizer::from_gguf(|key: &str| pairs.get(key).cloned()).unwrap();
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2_tokens.json");
    let golden: Vec<(String, Vec<u32>)> =
        serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    assert_eq!(golden.len(), 1000);
    let wrong: Vec<_> = golden
        .iter()
        .map(|(text, ids)| (text, ids, tokenizer.encode(text).unwrap()))
        .filter(|(_, ids, ours)| *ids != ours)
        .collect();
    assert!(wrong.is_empty(), "{} differ, such as {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}

fn pairs(of: &[(&str, &str)]) -> HashMap<String, String> {
    of.iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), (*value).to_owned())).collect()
}

/// Two words, the marks of SentencePiece, and two bytes.
const PIECES: [(&str, &str); 5] = [
    ("model", "llama"),
    ("tokens", r#"["<unk>","<s>","</s>","<0xC3>","<0xA9>","▁","a","b","ab","▁ab"]"#),
    ("scores", "[0,0,0,0,0,-4,-5,-6,-2,-1]"),
    ("token_type", "[2,3,3,6,6,1,1,1,1,1]"),
    ("bos_token_id", "1"),
];

#[test]
fn sentence_pieces_are_joined_by_score() {
    let pairs = pairs(&PIECES);
    let tokenizer = Tokenizer::from_gguf(|key: &str| pairs.get(key).cloned()).unwrap();
    assert_eq!(tokenizer.encode_whole("ab").unwrap(), [1, 9]);
    assert_eq!(tokenizer.encode("ab ba").unwrap(), [9, 5, 7, 6]);
    assert_eq!(tokenizer.encode("é").unwrap(), [5, 3, 4], "a character without a token is its bytes");
    assert_eq!(tokenizer.decode(&[9, 5, 3, 4], false).unwrap(), "ab é");
}

#[test]
fn damage_is_named() {
    let told = |key: &str, value: Option<&str>| {
        let mut pairs = pairs(&PIECES);
        let key = format!("tokenizer.ggml.{key}");
        match value {
            Some(value) => pairs.insert(key, value.to_owned()),
            None => pairs.remove(&key),
        };
        Tokenizer::from_gguf(|key: &str| pairs.get(key).cloned()).unwrap_err()
    };
    let damaged = |key, value| match told(key, value) {
        TextError::Damaged(what) => what,
        other => panic!("{other}"),
    };
    assert!(damaged("tokens", None).contains("tokenizer.ggml.tokens"));
    assert!(damaged("scores", Some("[1]")).contains("1 scores"));
    assert!(damaged("token_type", Some("[1]")).contains("1 types"));
    assert!(damaged("tokens", Some("[1]")).contains("tokenizer.ggml.tokens"));
    assert!(damaged("bos_token_id", Some("77")).contains("77"));
    let double = r#"["a","a","</s>","<0xC3>","<0xA9>","▁","a","b","ab","▁ab"]"#;
    assert!(damaged("tokens", Some(double)).contains("8 texts"));
    assert!(matches!(told("model", Some("rwkv")), TextError::Unsupported(what) if what.contains("rwkv")));
    let bpe = pairs(&[("model", "gpt2"), ("pre", "tekken"), ("tokens", "[]"), ("merges", "[]")]);
    let error = Tokenizer::from_gguf(|key: &str| bpe.get(key).cloned()).unwrap_err();
    assert!(matches!(error, TextError::Unsupported(what) if what.contains("tekken")));
}
