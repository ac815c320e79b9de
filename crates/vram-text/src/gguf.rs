//! Tokenizers of GGUF files.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::error::TextError;
use crate::tokenizer::Tokenizer;

/// Kinds of tokens.
const UNKNOWN: u32 = 2;
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;

/// Control tokens that end a text or a turn wherever a vocabulary has them, whatever its pairs say.
const ENDS: [&str; 6] =
    ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>"];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The values of a file's keys.
struct Pairs<F>(F);

impl<F: Fn(&str) -> Option<String>> Pairs<F> {
    fn text(&self, key: &str) -> Option<String> {
        (self.0)(&format!("tokenizer.ggml.{key}"))
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, TextError> {
        let parsed = |text: String| {
            serde_json::from_str(&text)
                .map_err(|e| TextError::Damaged(format!("tokenizer.ggml.{key} cannot be read: {e}")))
        };
        self.text(key).map(parsed).transpose()
    }

    fn need<T: DeserializeOwned>(&self, key: &str) -> Result<T, TextError> {
        self.get(key)?.ok_or_else(|| TextError::Damaged(format!("there is no tokenizer.ggml.{key}")))
    }
}

impl Tokenizer {
    /// The tokenizer of a GGUF file. `pair` gives the text of a key's value; arrays are JSON.
    ///
    /// # Errors
    /// [`TextError::Damaged`] for pairs that are missing or do not fit together, [`TextError::Unsupported`] for a kind of
    /// tokenizer that is not built here.
    pub fn from_gguf(pair: impl Fn(&str) -> Option<String>) -> Result<Tokenizer, TextError> {
        let pairs = Pairs(pair);
        let tokens: Vec<String> = pairs.need("tokens")?;
        let kinds: Vec<u32> = pairs.get("token_type")?.unwrap_or_else(|| vec![1; tokens.len()]);
        if kinds.len() != tokens.len() {
            let what = format!("{} tokens have {} types", tokens.len(), kinds.len());
            return Err(TextError::Damaged(what));
        }
        let mut inner = match pairs.text("model").as_deref() {
            Some("gpt2") => byte_level(&pairs, &tokens)?,
            Some("llama") => sentence_piece(&pairs, &tokens, &kinds)?,
            Some(other) => {
                return Err(TextError::Unsupported(format!(
                    "tokenizers of the kind {other:?} are not built; \"gpt2\" and \"llama\" are"
                )));
            }
            None => return Err(TextError::Damaged("there is no tokenizer.ggml.model".into())),
        };
        let added = |kind, special| -> Vec<AddedToken> {
            let of_kind = tokens.iter().zip(&kinds).filter(|(_, k)| **k == kind);
            of_kind.map(|(token, _)| AddedToken::from(token.as_str(), special).normalized(false)).collect()
        };
        inner.add_special_tokens(&added(CONTROL, true));
        inner.add_tokens(&added(USER_DEFINED, false));

        let id = |key: &str| -> Result<Option<u32>, TextError> {
            let id: Option<u32> = pairs.get(key)?;
            match id.filter(|id| *id as usize >= tokens.len()) {
                Some(bad) => Err(TextError::Damaged(format!("tokenizer.ggml.{key} is {bad}, and no token"))),
                None => Ok(id),
            }
        };
        let (bos, eos) = (id("bos_token_id")?, id("eos_token_id")?);
        let mut ends: Vec<u32> = [eos, id("eot_token_id")?].into_iter().flatten().collect();
        // Token ids are u32.
        let control = (0..).zip(&tokens).zip(&kinds).filter(|(_, kind)| **kind == CONTROL);
        ends.extend(control.filter(|((_, token), _)| ENDS.contains(&token.as_str())).map(|((id, _), _)| id));
        ends.sort_unstable();
        ends.dedup();
        // Vocabularies of SentencePiece begin every text with it unless they say otherwise.
        let adds = pairs.get("add_bos_token")?.unwrap_or(pairs.text("model").as_deref() == Some("llama"));
        Ok(Tokenizer { inner, begin: bos.filter(|_| adds), bos, eos, ends })
    }
}

fn vocabulary(tokens: &[String]) -> Result<Vocab, TextError> {
    // Token ids are u32.
    let vocabulary: Vocab = tokens.iter().cloned().zip(0..).collect();
    if vocabulary.len() == tokens.len() {
        return Ok(vocabulary);
    }
    Err(TextError::Damaged(format!("{} tokens have only {} texts", tokens.len(), vocabulary.len())))
}

/// Byte-pair encoding over bytes, each of which is written as a character.
fn byte_level(
    pairs: &Pairs<impl Fn(&str) -> Option<String>>,
    tokens: &[String],
) -> Result<tokenizers::Tokenizer, TextError> {
    let name =
        pairs.text("pre").ok_or_else(|| TextError::Damaged("there is no tokenizer.ggml.pre".into()))?;
    let with_regex = || ByteLevel::new(false, true, true);
    let split = |pattern: &str| -> Result<PreTokenizerWrapper, TextError> {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        let split = split.map_err(|e| TextError::Unsupported(e.to_string()))?;
        Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
    };
    let pre: PreTokenizerWrapper = match name.as_str() {
        "gpt-2" | "gpt2" => with_regex().into(),
        "smollm" => Sequence::new(vec![Digits::new(true).into(), with_regex().into()]).into(),
        "llama-bpe" | "llama3" | "llama-v3" => split(LLAMA3)?,
        "qwen2" => split(QWEN2)?,
        other => {
            return Err(TextError::Unsupported(format!(
                "the pre-tokenizer {other:?} is not built; \"gpt-2\", \"smollm\", \"llama-bpe\" and \"qwen2\" are"
            )));
        }
    };
    let merges: Vec<String> = pairs.need("merges")?;
    let merges = merges.iter().map(|merge| {
        let (left, right) = merge.split_once(' ').ok_or_else(|| {
            TextError::Damaged(format!("the merge {merge:?} is not of two tokens with a space between"))
        })?;
        Ok((left.to_owned(), right.to_owned()))
    });
    let merges: Merges = merges.collect::<Result<_, TextError>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary(tokens)?, merges)
        // Llama 3 takes a word that is a token as it is.
        .ignore_merges(matches!(name.as_str(), "llama-bpe" | "llama3" | "llama-v3"))
        .build()
        .map_err(|e| TextError::Damaged(e.to_string()))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(pre)).with_decoder(Some(ByteLevel::default()));
    Ok(inner)
}

/// SentencePiece's byte-pair encoding: the merge of the highest score comes first, and bytes stand in for characters
/// that are no token.
fn sentence_piece(
    pairs: &Pairs<impl Fn(&str) -> Option<String>>,
    tokens: &[String],
    kinds: &[u32],
) -> Result<tokenizers::Tokenizer, TextError> {
    use tokenizers::decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence, strip::Strip};
    let scores: Vec<f32> = pairs.need("scores")?;
    if scores.len() != tokens.len() {
        let what = format!("{} tokens have {} scores", tokens.len(), scores.len());
        return Err(TextError::Damaged(what));
    }
    let wrong = |e: tokenizers::Error| TextError::Damaged(e.to_string());
    let replace = |from: &str, to: &str| Replace::new(from.to_owned(), to).map_err(wrong);
    let vocabulary = vocabulary(tokens)?;
    let merges = merges_by_score(tokens, &scores);
    let mut model = BPE::builder().vocab_and_merges(vocabulary, merges).byte_fallback(true).fuse_unk(true);
    if let Some((unknown, _)) = tokens.iter().zip(kinds).find(|(_, kind)| **kind == UNKNOWN) {
        model = model.unk_token(unknown.clone());
    }
    let mut inner = tokenizers::Tokenizer::new(model.build().map_err(wrong)?);
    let prefix = pairs.get("add_space_prefix")?.unwrap_or(true);
    let mut normal: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        normal.push(Prepend::new("▁".to_owned()).into());
    }
    normal.push(replace(" ", "▁")?.into());
    inner.with_normalizer(Some(tokenizers::normalizers::Sequence::new(normal)));
    let mut decoder = vec![replace("▁", " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        decoder.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(Sequence::new(decoder)));
    Ok(inner)
}

/// Every way to make a token of two, in the order in which SentencePiece would: by falling score.
fn merges_by_score(tokens: &[String], scores: &[f32]) -> Merges {
    let ids: HashMap<&str, usize> = tokens.iter().map(String::as_str).zip(0..).collect();
    let mut merges = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
        let from = merges.len();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((score, l, r));
            }
        }
        merges[from..].sort_by_key(|&(_, l, r)| (l, r));
    }
    // Stable, so that equals stay in the order of the vocabulary.
    let length = |id: usize| tokens[id].chars().count();
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0).then(length(b.1).cmp(&length(a.1))).then(length(b.2).cmp(&length(a.2)))
    });
    merges.into_iter().map(|(_, l, r)| (tokens[l].clone(), tokens[r].clone())).collect()
}
