//! Sizes of a decoder, read from checkpoints.

use vram_device::ops::{RotaryForm, UnaryKind};
use vram_types::{DType, WeightSource, WeightSourceExt};

use super::json::Json;
use super::rotary::Rotary;
use crate::ModelError;

/// Sizes of a [`Llama`](super::Llama).
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Rows of the embeddings and of the head.
    pub vocabulary: usize,
    /// Width of the stream.
    pub width: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Added to the mean square in normalisation.
    pub eps: f32,
    /// The function of the gate.
    pub activation: UnaryKind,
    /// Position embedding.
    pub rotary: Rotary,
    /// The longest context.
    pub positions: usize,
    /// Whether queries, keys and values have a bias.
    pub bias: bool,
    /// Whether the attention's output has a bias.
    pub output_bias: bool,
    /// Whether each head of queries and keys is normalised.
    pub head_norms: bool,
    /// Whether the head's weight is the table of embeddings.
    pub tied: bool,
    /// Dtype of the weights.
    pub dtype: DType,
}

/// Supported GGUF architectures, and which elements each pairs.
const ARCHITECTURES: [(&str, RotaryForm); 3] =
    [("llama", RotaryForm::Interleaved), ("qwen2", RotaryForm::Halves), ("qwen3", RotaryForm::Halves)];

/// A tensor that llama.cpp's converter adds: factors of the frequencies, in f32.
const FACTORS: &str = "rope_freqs.weight";

impl Config {
    /// Reads sizes from a checkpoint's shapes, and everything else from the text of its `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if tensors are missing, have the wrong shape or belong to another kind of
    /// model, [`ModelError::Config`] if the configuration cannot be read or asks for something that is not
    /// implemented.
    pub fn read(source: &dyn WeightSource, config_json: &str) -> Result<Config, ModelError> {
        let json = Json::read(config_json)?;
        let wrong = |what: String| Err(ModelError::Config(format!("config.json: {what}")));
        let activation = match json.hidden_act.as_str() {
            "silu" | "swish" => UnaryKind::Silu,
            "gelu_pytorch_tanh" => UnaryKind::GeluTanh,
            other => return wrong(format!("hidden_act {other:?} is not supported; \"silu\" is")),
        };
        // Within its window, attention is the same as without one.
        let windowed = json.use_sliding_window.unwrap_or(json.model_type == "mistral");
        let window = json.sliding_window.filter(|_| windowed).unwrap_or(usize::MAX);
        let told = Told {
            heads: json.num_attention_heads,
            head_dim: json.head_dim,
            eps: json.rms_norm_eps,
            positions: json.max_position_embeddings.min(window),
            activation,
        };
        let config = told.with_shapes(source, |head_dim| json.rotary(head_dim))?;
        if !config.tied || json.tie_word_embeddings {
            return Ok(config);
        }
        Err(ModelError::Checkpoint("it has no lm_head.weight, and config.json does not tie it".into()))
    }

    /// Reads sizes from the shapes of a GGUF file whose tensors have been given [their Hugging Face
    /// names](super::from_gguf_name), and everything else from its key-value pairs, as text.
    ///
    /// # Errors
    /// See [`read`](Config::read).
    pub fn from_gguf(
        source: &dyn WeightSource,
        pair: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, ModelError> {
        let wrong = |what: String| ModelError::Config(what);
        let get = |key: &str| pair(key).ok_or_else(|| wrong(format!("there is no {key}")));
        let name = get("general.architecture")?;
        let Some(&(_, form)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) else {
            let known = ARCHITECTURES.map(|(known, _)| known);
            return Err(wrong(format!("the architecture {name:?} is not supported; {known:?} are")));
        };
        let own = |key: &str| pair(&format!("{name}.{key}"));
        let number = |key: &str| -> Result<Option<f64>, ModelError> {
            let parsed = |text: String| {
                text.parse().map_err(|_| wrong(format!("{name}.{key} is {text:?}, which is not a number")))
            };
            own(key).map(parsed).transpose()
        };
        let need = |key: &str| number(key)?.ok_or_else(|| wrong(format!("there is no {name}.{key}")));
        if let Some(kind) = own("rope.scaling.type").filter(|kind| kind != "none" && kind != "linear") {
            return Err(wrong(format!("{name}.rope.scaling.type {kind:?} is not supported; \"linear\" is")));
        }
        let (base, turned) = (number("rope.freq_base")?.unwrap_or(10_000.0), number("rope.dimension_count")?);
        let factor = number("rope.scaling.factor")?.map_or(1.0, |factor| factor as f32);
        let factors = factors(source)?;
        let told = Told {
            heads: need("attention.head_count")? as usize,
            head_dim: number("attention.key_length")?.map(|dim| dim as usize),
            eps: need("attention.layer_norm_rms_epsilon")? as f32,
            positions: need("context_length")? as usize,
            activation: UnaryKind::Silu,
        };
        told.with_shapes(source, |head_dim| {
            let turned = turned.map_or(head_dim, |turned| turned as usize);
            if factors.as_ref().is_some_and(|factors| factors.len() != turned / 2) {
                return Err(wrong(format!(
                    "{FACTORS} does not have one factor for each of {} pairs",
                    turned / 2
                )));
            }
            Ok(Rotary::new(form, base, turned, factors.as_deref()).map(|frequency| frequency / factor))
        })
    }

    /// Elements of a token's keys, and of its values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// The settings that shapes do not show.
struct Told {
    heads: usize,
    head_dim: Option<usize>,
    eps: f32,
    positions: usize,
    activation: UnaryKind,
}

impl Told {
    fn with_shapes(
        self,
        source: &dyn WeightSource,
        rotary: impl FnOnce(usize) -> Result<Rotary, ModelError>,
    ) -> Result<Config, ModelError> {
        let Told { heads, head_dim, eps, positions, activation } = self;
        let has = |name: &str| source.locate(name).is_some();
        let matrix = |name: &str| -> Result<(usize, usize, DType), ModelError> {
            let found = source.locate(name).ok_or_else(|| unlike(format!("it has no {name}")))?;
            match found.meta.shape().dims() {
                &[rows, width] => Ok((rows, width, found.meta.dtype())),
                _ => Err(unlike(format!("{name} has shape {}", found.meta.shape()))),
            }
        };
        let block = |name: &str| format!("model.layers.0.{name}");
        let (vocabulary, width, dtype) = matrix("model.embed_tokens.weight")?;
        let (intermediate, ..) = matrix(&block("mlp.gate_proj.weight"))?;
        let (queries, ..) = matrix(&block("self_attn.q_proj.weight"))?;
        let (keys, ..) = matrix(&block("self_attn.k_proj.weight"))?;
        let head_dim = head_dim.unwrap_or(queries / heads.max(1));
        if heads == 0
            || head_dim == 0
            || !head_dim.is_multiple_of(2)
            || heads.checked_mul(head_dim) != Some(queries)
        {
            return Err(ModelError::Config(format!(
                "{queries} rows of queries are not {heads} heads of an even number of elements"
            )));
        }
        let kv_heads = keys / head_dim;
        if kv_heads * head_dim != keys || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(ModelError::Config(format!(
                "{keys} rows of keys are not heads of {head_dim} that divide {heads}"
            )));
        }
        let layers = (0..).take_while(|i| has(&format!("model.layers.{i}.mlp.gate_proj.weight"))).count();
        let config = Config {
            vocabulary,
            width,
            intermediate,
            layers,
            heads,
            kv_heads,
            head_dim,
            eps,
            activation,
            rotary: rotary(head_dim)?,
            positions,
            bias: has(&block("self_attn.q_proj.bias")),
            output_bias: has(&block("self_attn.o_proj.bias")),
            head_norms: has(&block("self_attn.q_norm.weight")),
            tied: !has("lm_head.weight"),
            dtype,
        };
        match source.names().find(|name| !config.uses(name)) {
            Some(name) => Err(unlike(format!("it has {name}, which this model would not use"))),
            None => Ok(config),
        }
    }
}

impl Config {
    /// Whether a tensor of a checkpoint is used by this model or can be ignored.
    fn uses(&self, name: &str) -> bool {
        const OF_ALL: [&str; 4] =
            ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", FACTORS];
        const OF_BLOCKS: [&str; 2] = ["input_layernorm.weight", "post_attention_layernorm.weight"];
        if OF_ALL.contains(&name) {
            return true;
        }
        let Some((block, part)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'))
        else {
            return false;
        };
        let Some((module, kind)) = part.rsplit_once('.') else { return false };
        let known = match module {
            "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" => kind == "weight" || self.bias,
            "self_attn.o_proj" => kind == "weight" || self.output_bias,
            "self_attn.q_norm" | "self_attn.k_norm" => self.head_norms,
            "mlp.gate_proj" | "mlp.up_proj" | "mlp.down_proj" => kind == "weight",
            // Frequencies that old checkpoints store; we compute them.
            "self_attn.rotary_emb" => return kind == "inv_freq",
            _ => OF_BLOCKS.contains(&part),
        };
        known && block.parse().is_ok_and(|block: usize| block < self.layers)
    }
}

/// Factors that divide the frequencies, if the file has them.
fn factors(source: &dyn WeightSource) -> Result<Option<Vec<f32>>, ModelError> {
    let Some(found) = source.locate(FACTORS) else { return Ok(None) };
    if found.meta.dtype() != DType::F32 {
        return Err(unlike(format!("{FACTORS} is {} instead of F32", found.meta.dtype())));
    }
    let mut bytes = vec![0; found.meta.bytes() as usize];
    let len = bytes.len() as u64;
    source
        .read_range(FACTORS, 0..len, &mut bytes)
        .map_err(|e| ModelError::Checkpoint(format!("{FACTORS} cannot be read: {e}")))?;
    Ok(Some(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
}

fn unlike(what: String) -> ModelError {
    ModelError::Checkpoint(format!("this is not a decoder of the Llama family: {what}"))
}
