//! `vram embed`: a sentence encoder with real weights.

use std::path::PathBuf;

use crate::args::Engine;

/// Embed sentences with a BERT encoder and compare them
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with model.safetensors, config.json and tokenizer.json
    #[arg(long, value_name = "DIR", env = "VRAM_MINILM")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) engine: Engine,
    /// The sentences
    #[arg(required = true, value_name = "TEXT")]
    pub(crate) texts: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Budget, Read};
    use clap::Parser;
    use vram_types::ByteSize;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn defaults_and_limits() {
        let parse = |line: &str| Command::try_parse_from(line.split(' ')).map(|c| c.args);
        let args = parse("embed --model m one two").unwrap();
        assert_eq!(args.texts, ["one", "two"]);
        let engine = args.engine;
        assert_eq!((engine.budget, engine.host_budget), (Budget::Auto, ByteSize::mib(64)));
        assert_eq!((engine.read, engine.passes, engine.threads), (Read::Auto, 1, None));
        let engine = parse("embed --model m --budget 22MiB --read direct --dtype bf16 x").unwrap().engine;
        assert_eq!(engine.budget, Budget::Bytes(ByteSize::mib(22)));
        for bad in ["--passes 0", "--threads x", "--budget much", "--device toaster", "--dtype i8"] {
            assert_eq!(parse(&format!("embed --model m {bad} x")).unwrap_err().exit_code(), 2, "{bad}");
        }
        assert!(parse("embed --model m").is_err());
    }
}
