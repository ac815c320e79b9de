//! BERT encoders, and sentence embeddings as the mean of their outputs.

use serde::Deserialize;
use vram_alloc::module;
use vram_device::ops;
use vram_layers::layers::{Embedding, LayerNorm, Linear};
use vram_layers::{Error, Forward, Tensor};
use vram_types::{DType, WeightSource};

use crate::ModelError;

/// Sizes of a [`Bert`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Rows of the word embeddings.
    pub vocabulary: usize,
    /// Rows of the position embeddings: the longest sequence.
    pub positions: usize,
    /// Rows of the token type embeddings.
    pub types: usize,
    /// Width of the stream.
    pub width: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Number of encoder layers.
    pub layers: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Added to the variance in layer normalisation.
    pub eps: f32,
    /// Dtype of the weights.
    pub dtype: DType,
    /// Prefix of all names in the checkpoint: empty or `bert.`.
    pub prefix: String,
}

/// The settings in `config.json` that shapes do not show.
#[derive(Deserialize)]
struct Json {
    num_attention_heads: usize,
    #[serde(default = "default_eps")]
    layer_norm_eps: f32,
    #[serde(default = "default_activation")]
    hidden_act: String,
    #[serde(default = "default_positions")]
    position_embedding_type: String,
}

fn default_eps() -> f32 {
    1e-12
}
fn default_activation() -> String {
    "gelu".into()
}
fn default_positions() -> String {
    "absolute".into()
}

impl Config {
    /// Reads sizes from a checkpoint's shapes, and everything else from the text of its `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if tensors of BERT are missing or have the wrong shape,
    /// [`ModelError::Config`] if the configuration cannot be read or asks for something that is not
    /// implemented.
    pub fn read(source: &dyn WeightSource, config_json: &str) -> Result<Config, ModelError> {
        let json: Json =
            serde_json::from_str(config_json).map_err(|e| ModelError::Config(format!("config.json: {e}")))?;
        if json.hidden_act != "gelu" || json.position_embedding_type != "absolute" {
            return Err(ModelError::Config(format!(
                "config.json asks for activation {:?} and {:?} positions; only \"gelu\" and \"absolute\" are supported",
                json.hidden_act, json.position_embedding_type
            )));
        }
        let prefix = ["", "bert."]
            .into_iter()
            .find(|p| source.locate(&format!("{p}embeddings.word_embeddings.weight")).is_some())
            .ok_or_else(|| wrong("it has no embeddings.word_embeddings.weight".into()))?;
        let matrix = |name: &str| -> Result<(usize, usize, DType), ModelError> {
            let found = source.locate(&format!("{prefix}{name}"));
            let found = found.ok_or_else(|| wrong(format!("it has no {prefix}{name}")))?;
            match found.meta.shape().dims() {
                &[rows, width] => Ok((rows, width, found.meta.dtype())),
                _ => Err(wrong(format!("{prefix}{name} has shape {}", found.meta.shape()))),
            }
        };
        let (vocabulary, width, dtype) = matrix("embeddings.word_embeddings.weight")?;
        let (intermediate, ..) = matrix("encoder.layer.0.intermediate.dense.weight")?;
        let layer = |i: &usize| {
            source.locate(&format!("{prefix}encoder.layer.{i}.intermediate.dense.weight")).is_some()
        };
        let heads = json.num_attention_heads;
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(ModelError::Config(format!("a width of {width} does not divide into {heads} heads")));
        }
        Ok(Config {
            vocabulary,
            positions: matrix("embeddings.position_embeddings.weight")?.0,
            types: matrix("embeddings.token_type_embeddings.weight")?.0,
            width,
            intermediate,
            layers: (0..).take_while(layer).count(),
            heads,
            eps: json.layer_norm_eps,
            dtype,
            prefix: prefix.to_owned(),
        })
    }
}

fn wrong(what: String) -> ModelError {
    ModelError::Checkpoint(format!("this is not a BERT: {what}"))
}

/// The model without its pooler. Build it inside [`skip_init`](vram_alloc::skip_init) to leave its parameters meta.
#[derive(Debug)]
pub struct Bert {
    embeddings: Embeddings,
    encoder: Encoder,
}

module! { Bert { embeddings, encoder } }

#[derive(Debug)]
struct Embeddings {
    word: Embedding,
    position: Embedding,
    token_type: Embedding,
    norm: LayerNorm,
}

module! { Embeddings {
    word as "word_embeddings",
    position as "position_embeddings",
    token_type as "token_type_embeddings",
    norm as "LayerNorm",
} }

#[derive(Debug)]
struct Encoder {
    layer: Vec<EncoderLayer>,
}

module! { Encoder { layer } }

#[derive(Debug)]
struct EncoderLayer {
    attention: Attention,
    intermediate: Intermediate,
    output: Output,
}

module! { EncoderLayer { attention, intermediate, output } }

#[derive(Debug)]
struct Attention {
    own: SelfAttention,
    output: Output,
}

module! { Attention { own as "self", output } }

#[derive(Debug)]
struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    heads: usize,
}

module! { SelfAttention { query, key, value, heads as _ } }

#[derive(Debug)]
struct Intermediate {
    dense: Linear,
}

module! { Intermediate { dense } }

/// A linear layer, the residual and a normalisation.
#[derive(Debug)]
struct Output {
    dense: Linear,
    norm: LayerNorm,
}

module! { Output { dense, norm as "LayerNorm" } }

impl Bert {
    /// A model of these sizes.
    ///
    /// # Errors
    /// [`ModelError::Alloc`] if a size overflows or memory runs out.
    pub fn new(config: &Config) -> Result<Bert, ModelError> {
        let &Config { width, intermediate, heads, eps, dtype, .. } = config;
        let linear = |inputs, outputs| Linear::new(inputs, outputs, true, dtype);
        let output = |inputs| -> Result<Output, ModelError> {
            Ok(Output { dense: linear(inputs, width)?, norm: LayerNorm::new(width, eps, dtype)? })
        };
        let layer = |_| -> Result<EncoderLayer, ModelError> {
            let own = SelfAttention {
                query: linear(width, width)?,
                key: linear(width, width)?,
                value: linear(width, width)?,
                heads,
            };
            Ok(EncoderLayer {
                attention: Attention { own, output: output(width)? },
                intermediate: Intermediate { dense: linear(width, intermediate)? },
                output: output(intermediate)?,
            })
        };
        Ok(Bert {
            embeddings: Embeddings {
                word: Embedding::new(config.vocabulary, width, dtype)?,
                position: Embedding::new(config.positions, width, dtype)?,
                token_type: Embedding::new(config.types, width, dtype)?,
                norm: LayerNorm::new(width, eps, dtype)?,
            },
            encoder: Encoder { layer: (0..config.layers).map(layer).collect::<Result<_, _>>()? },
        })
    }

    /// The last hidden states of all sequences, one below the other: `[tokens of all, width]`.
    ///
    /// Sequences share a pass but see only themselves; each gets the same bits as alone.
    ///
    /// # Errors
    /// [`Error::Shape`] for an empty sequence, one longer than the position embeddings, or an id outside the
    /// vocabulary; see [`Forward::with_weights`].
    pub fn forward(&self, fwd: &mut Forward<'_>, sequences: &[&[u32]]) -> Result<Tensor, Error> {
        let types: Vec<Vec<u32>> = sequences.iter().map(|s| vec![0; s.len()]).collect();
        let types: Vec<&[u32]> = types.iter().map(Vec::as_slice).collect();
        self.forward_with_types(fwd, sequences, &types)
    }

    /// The same for tokens with types: the first sentence of a pair has type 0, the second type 1. `types`
    /// has the types of each sequence.
    ///
    /// # Errors
    /// See [`forward`](Bert::forward); [`Error::Shape`] also if there is not exactly one type for each token.
    pub fn forward_with_types(
        &self,
        fwd: &mut Forward<'_>,
        sequences: &[&[u32]],
        types: &[&[u32]],
    ) -> Result<Tensor, Error> {
        let positions = self.embeddings.position.rows();
        if let Some(bad) = sequences.iter().find(|s| s.is_empty() || s.len() > positions) {
            return Err(Error::Shape(format!(
                "a sequence of {} tokens; 1 to {positions} are possible",
                bad.len()
            )));
        }
        let lengths: Vec<usize> = sequences.iter().map(|s| s.len()).collect();
        if !types.iter().map(|t| t.len()).eq(lengths.iter().copied()) {
            return Err(Error::Shape("each token of each sequence needs one type".to_owned()));
        }
        let mut x = self.embeddings.forward(fwd, sequences, types)?;
        for layer in &self.encoder.layer {
            x = layer.forward(fwd, x, &lengths)?;
        }
        Ok(x)
    }

    /// One embedding for each sequence: the mean of its last hidden states, scaled to length 1.
    ///
    /// # Errors
    /// See [`forward`](Bert::forward).
    pub fn embed(&self, fwd: &mut Forward<'_>, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, Error> {
        let hidden = self.forward(fwd, sequences)?;
        let hidden = match hidden.dtype() {
            DType::F32 => hidden,
            _ => fwd.cast(&hidden, DType::F32)?,
        };
        let width = hidden.shape().last();
        let bytes = fwd.download(&hidden)?;
        let values: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut rows = values.chunks_exact(width.max(1));
        Ok(sequences.iter().map(|s| mean_of_length_one(rows.by_ref().take(s.len()), width)).collect())
    }
}

fn mean_of_length_one<'a>(rows: impl Iterator<Item = &'a [f32]>, width: usize) -> Vec<f32> {
    let mut sum = vec![0f64; width];
    for row in rows {
        for (s, &v) in sum.iter_mut().zip(row) {
            *s += f64::from(v);
        }
    }
    // The mean's divisor cancels in the scaling.
    let norm = sum.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    sum.into_iter().map(|v| (v / norm) as f32).collect()
}

impl Embeddings {
    fn forward(
        &self,
        fwd: &mut Forward<'_>,
        sequences: &[&[u32]],
        types: &[&[u32]],
    ) -> Result<Tensor, Error> {
        let (ids, types) = (sequences.concat(), types.concat());
        // usize to u32 cannot truncate: a sequence is no longer than the table of positions, whose rows are u32.
        let positions: Vec<u32> = sequences.iter().flat_map(|s| 0..s.len() as u32).collect();
        let mut x = self.word.forward(fwd, &ids)?;
        for (table, ids) in [(&self.token_type, &types), (&self.position, &positions)] {
            let rows = table.forward(fwd, ids)?;
            fwd.add(&mut x, &rows)?;
        }
        self.norm.forward(fwd, &x)
    }
}

impl EncoderLayer {
    fn forward(&self, fwd: &mut Forward<'_>, x: Tensor, lengths: &[usize]) -> Result<Tensor, Error> {
        let attended = self.attention.own.forward(fwd, &x, lengths)?;
        let x = self.attention.output.forward(fwd, attended, x)?;
        let mut hidden = self.intermediate.dense.forward(fwd, &x)?;
        fwd.gelu(&mut hidden)?;
        self.output.forward(fwd, hidden, x)
    }
}

impl Output {
    fn forward(&self, fwd: &mut Forward<'_>, x: Tensor, residual: Tensor) -> Result<Tensor, Error> {
        let mut y = self.dense.forward(fwd, &x)?;
        drop(x);
        fwd.add(&mut y, &residual)?;
        drop(residual);
        self.norm.forward(fwd, &y)
    }
}

impl SelfAttention {
    fn forward(&self, fwd: &mut Forward<'_>, x: &Tensor, lengths: &[usize]) -> Result<Tensor, Error> {
        let q = self.query.forward(fwd, x)?;
        let k = self.key.forward(fwd, x)?;
        let v = self.value.forward(fwd, x)?;
        let mut y = fwd.tensor(q.shape().clone())?;
        let mut start = 0;
        for &len in lengths {
            let rows = start..start + len;
            start = rows.end;
            let [q, k, v] = [q.rows(rows.clone())?, k.rows(rows.clone())?, v.rows(rows.clone())?];
            fwd.run(ops::Attention::new(q, k, v, self.heads, y.rows_mut(rows)?))?;
        }
        Ok(y)
    }
}
