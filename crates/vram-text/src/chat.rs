//! Chat templates: from messages to the one text that a model was trained on.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};

use crate::error::TextError;
use crate::tokenizer::Tokenizer;

/// Steps of a template, so that none runs forever.
const FUEL: u64 = 5_000_000;
const NAME: &str = "chat";

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or what the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    /// What the model is asked.
    pub fn user(content: impl Into<String>) -> Message {
        Message::new("user", content)
    }

    /// What the model is told beforehand.
    pub fn system(content: impl Into<String>) -> Message {
        Message::new("system", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new("assistant", content)
    }

    fn value(&self) -> Value {
        Value::from_pairs([("role", self.role.as_str()), ("content", self.content.as_str())])
    }
}

/// A template of Hugging Face's kind: Jinja with the methods of Python's strings.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// A template, and the tokens that it calls `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`TextError::Template`] if it cannot be read, with the line.
    pub fn new(source: &str, bos: Option<String>, eos: Option<String>) -> Result<ChatTemplate, TextError> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(wrong)?,
        );
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(NAME, source.to_owned()).map_err(wrong)?;
        Ok(ChatTemplate { environment, bos, eos })
    }

    /// The template of a GGUF file, if it has one. `pair` gives the text of a key's value.
    ///
    /// # Errors
    /// As [`new`](ChatTemplate::new).
    pub fn from_gguf(
        pair: impl Fn(&str) -> Option<String>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<ChatTemplate>, TextError> {
        let Some(source) = pair("tokenizer.chat_template") else { return Ok(None) };
        let (bos, eos) = (tokenizer.token(tokenizer.bos), tokenizer.token(tokenizer.eos));
        ChatTemplate::new(&source, bos, eos).map(Some)
    }

    /// The text of these messages, up to where the assistant begins to speak.
    ///
    /// # Errors
    /// [`TextError::Template`] if the template refuses them, or fails.
    pub fn render(&self, messages: &[Message]) -> Result<String, TextError> {
        let template = self.environment.get_template(NAME).map_err(wrong)?;
        let with = context! {
            messages => messages.iter().map(Message::value).collect::<Vec<_>>(),
            add_generation_prompt => true,
            bos_token => self.bos.as_deref().unwrap_or_default(),
            eos_token => self.eos.as_deref().unwrap_or_default(),
        };
        template.render(with).map_err(wrong)
    }
}

/// What is wrong, and its line, in one.
fn wrong(error: minijinja::Error) -> TextError {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => TextError::Template(format!("line {line}: {what}")),
        None => TextError::Template(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String, TextError> {
        ChatTemplate::new(source, Some("<s>".into()), Some("</s>".into()))?.render(messages)
    }

    #[test]
    fn blocks_leave_no_blank_lines() {
        let source = "{{ bos_token }}\n{%- for m in messages %}\n  {%- if m['role'] == 'user' %}\n[{{ m.content | trim }}]\n  {%- endif %}\n{%- endfor %}";
        let text = render(source, &[Message::system("x"), Message::user(" a ")]);
        assert_eq!(text.as_deref(), Ok("<s>[a]"));
    }

    #[test]
    fn pythons_methods_are_there() {
        let text = render("{{ messages[0].content.split(',')[-1].upper() }}", &[Message::user("a,b")]);
        assert_eq!(text.as_deref(), Ok("B"));
    }

    #[test]
    fn a_template_that_fails_says_where_and_why() {
        let fails = |source: &str| render(source, &[Message::user("a")]).unwrap_err().to_string();
        let told = fails("\n{{ raise_exception('roles must alternate') }}");
        assert_eq!(told, "the chat template: line 2: roles must alternate");
        assert!(fails("{% for %}").contains("line 1"));
        assert!(
            fails("{{ nothing() }}").contains("unknown function")
                || fails("{{ nothing() }}").contains("nothing")
        );
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(fails(endless).contains("fuel"), "{}", fails(endless));
    }
}
