//! Text for language models: tokenizers from GGUF files and `tokenizer.json`, and the chat templates that come with
//! them.
//!
//! ```
//! use vram_text::{ChatTemplate, Message};
//!
//! let template = ChatTemplate::new(
//!     "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}",
//!     None,
//!     None,
//! )?;
//! assert_eq!(template.render(&[Message::user("Hello")])?, "<|user|>Hello");
//! # Ok::<(), vram_text::TextError>(())
//! ```
//!
//! A GGUF file has all of it in its key-value pairs:
//!
//! ```
//! use vram_text::{ChatTemplate, Message, Tokenizer};
//!
//! # let pairs = |key: &str| Some(match key {
//! #     "tokenizer.ggml.model" => "gpt2".to_owned(),
//! #     "tokenizer.ggml.pre" => "gpt-2".to_owned(),
//! #     "tokenizer.ggml.tokens" => r#"["<|end|>", "h", "i", "hi"]"#.to_owned(),
//! #     "tokenizer.ggml.token_type" => "[3,1,1,1]".to_owned(),
//! #     "tokenizer.ggml.merges" => r#"["h i"]"#.to_owned(),
//! #     "tokenizer.ggml.eos_token_id" => "0".to_owned(),
//! #     "tokenizer.chat_template" => "{{ messages[0].content.strip() }}{{ eos_token }}".to_owned(),
//! #     _ => return None,
//! # });
//! // `pairs` gives the text of a key's value.
//! let tokenizer = Tokenizer::from_gguf(pairs)?;
//! let template = ChatTemplate::from_gguf(pairs, &tokenizer)?.expect("this file has one");
//! let text = template.render(&[Message::user(" hi ")])?;
//! assert_eq!(text, "hi<|end|>");
//! assert_eq!(tokenizer.encode(&text)?, [3, 0]);
//! assert!(tokenizer.ends().contains(&0));
//! # Ok::<(), vram_text::TextError>(())
//! ```
#![forbid(unsafe_code)]

mod chat;
mod error;
mod gguf;
mod hugging_face;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use error::TextError;
pub use hugging_face::Settings;
pub use tokenizer::{Stream, Tokenizer};
