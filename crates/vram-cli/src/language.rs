//! A language model's files: weights, sizes, tokenizer and chat template, from GGUF or a folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use vram_diskmap::{Conversion, DiskMap};
use vram_stream::models::llama::{Config, Llama, from_gguf_name};
use vram_stream::{Kernels, Managed, ModuleMap, VramConfig, WeightSource, enable_vram_management, skip_init};
use vram_text::{ChatTemplate, Settings, Tokenizer};
use vram_types::FileId;

use crate::args::{Budget, Engine};
use crate::checkpoint::Checkpoint;
use crate::engine::{explain, leave_free};
use crate::outputs::Outputs;

/// What a folder has beside its weights; only the first two must be there.
const FILES: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// A language model that was opened, and nothing of its weights read.
pub(crate) struct Language {
    pub(crate) source: Arc<dyn WeightSource>,
    pub(crate) config: Config,
    pub(crate) tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl Language {
    pub(crate) fn open(path: &Path, engine: &Engine, outputs: &mut Outputs) -> Result<Language> {
        let checkpoint = Checkpoint::open(DiskMap::options(), path, engine.read, engine.convert.as_deref())?;
        outputs.reads_checkpoint(path, checkpoint.map());
        if let Some(rules) = &engine.convert {
            outputs.reads(rules);
        }
        let pairs = checkpoint.map().metadata(FileId(0));
        let at = || path.display().to_string();
        if pairs.iter().any(|(key, _)| key == "general.architecture") {
            Language::gguf(checkpoint, &pairs).with_context(at)
        } else {
            Language::folder(checkpoint, path, outputs).with_context(at)
        }
    }

    fn gguf(checkpoint: Checkpoint, pairs: &[(String, String)]) -> Result<Language> {
        let pair = |key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        // What has no such name keeps its own, and is refused by it.
        let names = |name: &str| Some(from_gguf_name(name).unwrap_or_else(|| name.to_owned()));
        let source: Arc<dyn WeightSource> = match checkpoint {
            Checkpoint::Plain(map) => Arc::new(map.convert(&Conversion::new().rename_with(names))?),
            Checkpoint::Converted(_) => {
                bail!("--convert is for checkpoints with a config.json, and this is GGUF")
            }
        };
        let config = Config::from_gguf(&*source, pair)?;
        let tokenizer = Tokenizer::from_gguf(pair)?;
        let template = ChatTemplate::from_gguf(pair, &tokenizer)?;
        Language { source, config, tokenizer, template }.checked()
    }

    fn folder(checkpoint: Checkpoint, path: &Path, outputs: &mut Outputs) -> Result<Language> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let read = |name: &str| -> Result<Option<String>> {
            let path: PathBuf = folder.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
            }
        };
        let [config, tokenizer, settings, generation, template] = FILES.map(read);
        let need = |name: &str, text: Option<String>| {
            text.with_context(|| format!("{} is needed beside the weights", folder.join(name).display()))
        };
        let (config, tokenizer) = (need(FILES[0], config?)?, need(FILES[1], tokenizer?)?);
        let (settings, generation, template) = (settings?, generation?, template?);
        for name in FILES {
            outputs.reads(folder.join(name));
        }
        let settings = Settings {
            tokenizer: settings.as_deref(),
            generation: generation.as_deref(),
            template: template.as_deref(),
        };
        let source = checkpoint.into_source();
        let config = Config::read(&*source, &config)?;
        let tokenizer = Tokenizer::from_json(&tokenizer, &settings)?;
        let template = ChatTemplate::from_settings(&settings, &tokenizer)?;
        Language { source, config, tokenizer, template }.checked()
    }

    fn checked(self) -> Result<Language> {
        let (ids, rows) = (self.tokenizer.vocabulary(), self.config.vocabulary);
        if ids > rows {
            bail!("the tokenizer has {ids} ids, and the model has {rows} rows for them");
        }
        Ok(self)
    }

    /// The model, under management.
    pub(crate) fn manage(
        &self,
        device: Arc<dyn Kernels>,
        config: VramConfig,
        budget: Budget,
    ) -> Result<Managed<Llama>> {
        let model = skip_init(|| Llama::new(&self.config))?;
        let source = Arc::clone(&self.source);
        let map = ModuleMap::standard();
        let model = enable_vram_management(model, source, device, &map, config).map_err(explain)?;
        leave_free(budget, model.engine())?;
        Ok(model)
    }

    /// The chat template.
    pub(crate) fn template(&self) -> Result<&ChatTemplate> {
        self.template
            .as_ref()
            .context("this model comes without a chat template; use --prompt without --chat")
    }
}
