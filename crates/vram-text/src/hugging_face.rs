//! Tokenizers of Hugging Face's folders.

use serde::Deserialize;

use crate::chat::ChatTemplate;
use crate::error::TextError;
use crate::tokenizer::Tokenizer;

/// What stands beside `tokenizer.json`: the texts of `tokenizer_config.json` and `generation_config.json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings<'a> {
    /// `tokenizer_config.json`: special tokens and the chat template.
    pub tokenizer: Option<&'a str>,
    /// `generation_config.json`: the ids that end a text.
    pub generation: Option<&'a str>,
    /// `chat_template.jinja`, where the template is a file of its own.
    pub template: Option<&'a str>,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Added { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Default, Deserialize)]
struct Generation {
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Several(Vec<u32>),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Text(text) | Token::Added { content: text } => text,
        }
    }
}

fn parse<'a, T: Deserialize<'a> + Default>(name: &str, text: Option<&'a str>) -> Result<T, TextError> {
    let Some(text) = text else { return Ok(T::default()) };
    serde_json::from_str(text).map_err(|e| TextError::Damaged(format!("{name}: {e}")))
}

impl Tokenizer {
    /// The tokenizer that the text of a `tokenizer.json` describes.
    ///
    /// # Errors
    /// [`TextError::Damaged`] if a text cannot be read, or names a token that there is not.
    pub fn from_json(tokenizer_json: &str, settings: &Settings<'_>) -> Result<Tokenizer, TextError> {
        let mut inner: tokenizers::Tokenizer = tokenizer_json
            .parse()
            .map_err(|e: tokenizers::Error| TextError::Damaged(format!("tokenizer.json: {e}")))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| TextError::Damaged(format!("tokenizer.json: {e}")))?;
        let config: TokenizerConfig = parse("tokenizer_config.json", settings.tokenizer)?;
        let id = |token: &Option<Token>| {
            let Some(token) = token else { return Ok(None) };
            let id = inner.token_to_id(token.text());
            let missing = || TextError::Damaged(format!("tokenizer.json has no token {:?}", token.text()));
            id.map(Some).ok_or_else(missing)
        };
        let (bos, eos) = (id(&config.bos_token)?, id(&config.eos_token)?);
        let generation: Generation = parse("generation_config.json", settings.generation)?;
        let mut ends: Vec<u32> = match generation.eos_token_id {
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Several(ids)) => ids,
            None => Vec::new(),
        };
        ends.extend(eos.filter(|id| !ends.contains(id)));
        Ok(Tokenizer { inner, begin: None, bos, eos, ends })
    }
}

impl ChatTemplate {
    /// The chat template of such a folder, if it has one: `default` where there are several.
    ///
    /// # Errors
    /// As [`new`](ChatTemplate::new).
    pub fn from_settings(
        settings: &Settings<'_>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<ChatTemplate>, TextError> {
        let config: TokenizerConfig = parse("tokenizer_config.json", settings.tokenizer)?;
        let source = match (settings.template, config.chat_template) {
            (Some(file), _) => file.to_owned(),
            (None, Some(Templates::One(template))) => template,
            (None, Some(Templates::Named(all))) => {
                let names: Vec<String> = all.iter().map(|named| named.name.clone()).collect();
                match all.into_iter().find(|named| named.name == "default") {
                    Some(named) => named.template,
                    None => return Err(TextError::Template(format!("none of {names:?} is the default"))),
                }
            }
            (None, None) => return Ok(None),
        };
        let (bos, eos) = (tokenizer.token(tokenizer.bos), tokenizer.token(tokenizer.eos));
        ChatTemplate::new(&source, bos, eos).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"version":"1.0","added_tokens":[{"id":3,"content":"<e>","special":true,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false}],
        "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
        "model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}}"#;

    #[test]
    fn ends_and_templates_come_from_the_files_beside() {
        let settings = Settings {
            tokenizer: Some(
                r#"{"eos_token":{"content":"<e>"},"chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"{{ messages[0].content }}{{ eos_token }}"}]}"#,
            ),
            generation: Some(r#"{"eos_token_id":[1,3]}"#),
            template: None,
        };
        let tokenizer = Tokenizer::from_json(JSON, &settings).unwrap();
        assert_eq!(tokenizer.ends(), [1, 3]);
        let template = ChatTemplate::from_settings(&settings, &tokenizer).unwrap().unwrap();
        let text = template.render(&[crate::Message::user("ab")]).unwrap();
        assert_eq!(tokenizer.encode(&text).unwrap(), [2, 3]);
        let own = Settings { template: Some("file"), ..settings };
        assert_eq!(
            ChatTemplate::from_settings(&own, &tokenizer).unwrap().unwrap().render(&[]).unwrap(),
            "file"
        );
    }

    #[test]
    fn damage_names_the_file() {
        let told = |json, settings| Tokenizer::from_json(json, &settings).unwrap_err().to_string();
        assert!(told("{", Settings::default()).contains("tokenizer.json"));
        let settings = Settings { generation: Some("[]"), ..Settings::default() };
        assert!(told(JSON, settings).contains("generation_config.json"));
        let settings = Settings { tokenizer: Some(r#"{"eos_token":"<x>"}"#), ..Settings::default() };
        assert!(told(JSON, settings).contains("<x>"));
    }
}
