//! The architectures that the commands can run and plan, and a pass of each on inputs of a given
//! length.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use vram_stream::alloc::Module;
use vram_stream::layers::{self, Costs, Error, LayerId, LayerWork, Plan, Setting};
use vram_stream::models::{bert, controlnet};
use vram_stream::{Forward, Kernels, Managed, ModuleMap, VramConfig, WeightSource};
use vram_stream::{enable_vram_management, skip_init};
use vram_types::{DType, TensorMeta};

use crate::engine::explain;

/// Architectures that can be run on tensors from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arch {
    /// The blockwise ControlNet of Qwen-Image: from `img` and `conditioning` to `output`
    QwenImageControlnet,
    /// A BERT encoder, with config.json beside the weights: from `input_ids` to `last_hidden_state`
    Bert,
}

impl Arch {
    /// Tokens in a pass, unless another number is asked for.
    pub(crate) fn usual_tokens(self, path: &Path, source: &dyn WeightSource) -> usize {
        const USUAL: usize = 256;
        if self == Arch::QwenImageControlnet {
            return USUAL;
        }
        // A model that cannot be opened is reported when it is.
        let json = beside(path, "config.json").ok();
        let config = json.and_then(|json| bert::Config::read(source, &json).ok());
        config.map_or(USUAL, |config| config.positions.clamp(1, USUAL))
    }
}

/// A checkpoint, and the device to open it for.
pub(crate) struct Opening<'a> {
    pub(crate) arch: Arch,
    pub(crate) path: &'a Path,
    pub(crate) source: Arc<dyn WeightSource>,
    pub(crate) device: Arc<dyn Kernels>,
    /// Tokens in a pass.
    pub(crate) tokens: usize,
}

/// A model, with a pass on placeholder inputs of a given shape.
pub(crate) trait Subject {
    /// The compute dtype.
    fn dtype(&self) -> DType;
    /// Size of all weights, in bytes.
    fn weights_bytes(&self) -> u64;
    /// The name of each layer and its work in a pass, indexed by [`LayerId`].
    fn work(&self) -> Result<Vec<(String, LayerWork)>, Error>;
    /// Plans a pass.
    fn plan(&self, setting: &Setting, costs: &Costs) -> Result<Plan, Error>;
    /// Runs a pass and returns the seconds in which it did not wait for weights.
    fn run(&self) -> Result<f64, Error>;
}

impl Opening<'_> {
    /// Opens the model, or a model with this share of its blocks.
    pub(crate) fn open(&self, share: f64, mut config: VramConfig) -> Result<Box<dyn Subject>> {
        let at_weights = || self.path.display().to_string();
        // At least one block, and no more than there are: `as` saturates.
        let some = |blocks: usize| ((blocks as f64 * share).ceil() as usize).clamp(1, blocks.max(1));
        let tokens = self.tokens;
        match self.arch {
            Arch::QwenImageControlnet => {
                let mut sizes = controlnet::Config::read(&*self.source).with_context(at_weights)?;
                sizes.blocks = some(sizes.blocks);
                let dtype = config.computation.dtype.unwrap_or(sizes.dtype);
                let img = uniform(dtype, &[1, tokens, sizes.width])?;
                let conditioning = uniform(dtype, &[1, tokens, sizes.inputs])?;
                let model = skip_init(|| controlnet::ControlNet::new(&sizes)).with_context(at_weights)?;
                self.manage(model, config, move |m: &controlnet::ControlNet, fwd| {
                    let inputs = controlnet::Inputs {
                        img: (&img.0, img.1.clone()),
                        conditioning: (&conditioning.0, conditioning.1.clone()),
                    };
                    m.forward(fwd, &inputs)
                })
            }
            Arch::Bert => {
                let json = beside(self.path, "config.json")?;
                let mut sizes = bert::Config::read(&*self.source, &json).with_context(at_weights)?;
                ensure!(
                    tokens <= sizes.positions,
                    "--tokens {tokens}: a sequence of {} has {} tokens at most",
                    at_weights(),
                    sizes.positions
                );
                sizes.layers = some(sizes.layers);
                config.prefix.clone_from(&sizes.prefix);
                let ids = vec![0; tokens];
                let model = skip_init(|| bert::Bert::new(&sizes)).with_context(at_weights)?;
                self.manage(model, config, move |m: &bert::Bert, fwd| {
                    let hidden = m.forward(fwd, &[&ids])?;
                    fwd.download(&hidden)
                })
            }
        }
    }

    fn manage<M, F>(&self, model: M, config: VramConfig, forward: F) -> Result<Box<dyn Subject>>
    where
        M: Module,
        F: Fn(&M, &mut Forward<'_>) -> Result<Vec<u8>, Error> + Sync + 'static,
    {
        let (source, device) = (Arc::clone(&self.source), Arc::clone(&self.device));
        let managed = enable_vram_management(model, source, device, &ModuleMap::standard(), config)
            .map_err(explain)
            .with_context(|| self.path.display().to_string())?;
        Ok(Box::new(Model { managed, forward }))
    }
}

/// A tensor filled with 0.5, a value for which no kernel has a shortcut.
fn uniform(dtype: DType, shape: &[usize]) -> Result<(Vec<u8>, TensorMeta)> {
    let meta = TensorMeta::new(dtype, shape)?;
    let element: &[u8] = match dtype {
        DType::BF16 => &[0x00, 0x3f],
        DType::F16 => &[0x00, 0x38],
        _ => &[0x00, 0x00, 0x00, 0x3f],
    };
    let bytes = usize::try_from(meta.bytes()).context("the inputs are larger than memory can be")?;
    Ok((element.iter().copied().cycle().take(bytes).collect(), meta))
}

/// The path of a file in the checkpoint's folder.
pub(crate) fn path_beside(weights: &Path, name: &str) -> PathBuf {
    let folder = if weights.is_dir() { weights } else { weights.parent().unwrap_or(Path::new("")) };
    folder.join(name)
}

/// Reads a text file from the checkpoint's folder.
pub(crate) fn beside(weights: &Path, name: &str) -> Result<String> {
    let path = path_beside(weights, name);
    std::fs::read_to_string(&path)
        .with_context(|| format!("{} is needed in the folder of the weights", path.display()))
}

struct Model<M, F> {
    managed: Managed<M>,
    forward: F,
}

impl<M, F> Subject for Model<M, F>
where
    M: Module,
    F: Fn(&M, &mut Forward<'_>) -> Result<Vec<u8>, Error> + Sync,
{
    fn dtype(&self) -> DType {
        self.managed.dtype()
    }

    fn weights_bytes(&self) -> u64 {
        self.managed.engine().weights_bytes()
    }

    fn work(&self) -> Result<Vec<(String, LayerWork)>, layers::Error> {
        let work = self.managed.work(&self.forward)?;
        let engine = self.managed.engine();
        let name = |layer| engine.layer_name(LayerId(layer)).unwrap_or_default().to_owned();
        Ok(work.into_iter().enumerate().map(|(layer, work)| (name(layer), work)).collect())
    }

    fn plan(&self, setting: &Setting, costs: &Costs) -> Result<Plan, layers::Error> {
        self.managed.plan_for(setting, |_| costs.clone(), &self.forward)
    }

    fn run(&self) -> Result<f64, layers::Error> {
        self.managed.run(&self.forward)?;
        Ok(self.managed.report().passes.last().map_or(0.0, |pass| pass.compute_seconds))
    }
}
