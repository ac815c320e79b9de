//! The model.

use vram_alloc::{Parameter, module};
use vram_device::ops::{self, RotaryForm, UnaryKind};
use vram_layers::layers::{Embedding, Linear, RmsNorm};
use vram_layers::{Error, Forward, Tensor};
use vram_types::{DType, TensorMeta};

use super::cache::Cache;
use super::config::Config;
use super::rotary::Rotary;
use crate::ModelError;

/// A decoder with its head. Build it inside [`skip_init`](vram_alloc::skip_init) to leave its parameters meta.
#[derive(Debug)]
pub struct Llama {
    model: Decoder,
    lm_head: Linear,
    rotary: Rotary,
    config: Config,
}

module! { Llama { model, lm_head, rotary as _, config as _ } }

#[derive(Debug)]
struct Decoder {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

module! { Decoder { embed_tokens, layers, norm } }

#[derive(Debug)]
struct Block {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

module! { Block { input_layernorm, self_attn, post_attention_layernorm, mlp } }

#[derive(Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
}

module! { Attention { q_proj, k_proj, v_proj, o_proj, q_norm, k_norm } }

#[derive(Debug)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

module! { Mlp { gate_proj, up_proj, down_proj } }

/// The next tokens of a sequence, and its cache.
#[derive(Debug)]
pub struct Piece<'a> {
    /// The tokens.
    pub ids: &'a [u32],
    /// The cache of the tokens before.
    pub cache: &'a mut Cache,
    /// Whether the logits after its last token are wanted.
    pub logits: bool,
}

impl Llama {
    /// A model of these sizes.
    ///
    /// # Errors
    /// [`ModelError::Alloc`] if a size overflows or memory runs out.
    pub fn new(config: &Config) -> Result<Llama, ModelError> {
        let &Config { vocabulary, width, intermediate, eps, dtype, bias, output_bias, .. } = config;
        let (queries, keys) = (config.heads * config.head_dim, config.kv_width());
        let norm = |width| RmsNorm::new(width, eps, dtype);
        let head_norm = || config.head_norms.then(|| norm(config.head_dim)).transpose();
        let layer = |_| -> Result<Block, ModelError> {
            Ok(Block {
                input_layernorm: norm(width)?,
                self_attn: Attention {
                    q_proj: Linear::new(width, queries, bias, dtype)?,
                    k_proj: Linear::new(width, keys, bias, dtype)?,
                    v_proj: Linear::new(width, keys, bias, dtype)?,
                    o_proj: Linear::new(queries, width, output_bias, dtype)?,
                    q_norm: head_norm()?,
                    k_norm: head_norm()?,
                },
                post_attention_layernorm: norm(width)?,
                mlp: Mlp {
                    gate_proj: Linear::new(width, intermediate, false, dtype)?,
                    up_proj: Linear::new(width, intermediate, false, dtype)?,
                    down_proj: Linear::new(intermediate, width, false, dtype)?,
                },
            })
        };
        let embed_tokens = Embedding::new(vocabulary, width, dtype)?;
        let lm_head = match config.tied {
            true => tied(embed_tokens.weight())?,
            false => Linear::new(width, vocabulary, false, dtype)?,
        };
        Ok(Llama {
            model: Decoder {
                embed_tokens,
                layers: (0..config.layers).map(layer).collect::<Result<_, _>>()?,
                norm: norm(width)?,
            },
            lm_head,
            rotary: config.rotary.clone(),
            config: config.clone(),
        })
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The logits after the last token of each piece that asks for them, one row of f32 for each: `[asking,
    /// vocabulary]`, or `None` if none does. The keys and values of the pieces are added to their caches.
    ///
    /// Pieces share a pass but see only themselves; each gets the same bits as alone.
    ///
    /// # Errors
    /// [`Error::Shape`] for an empty piece, one that does not fit its cache, or an id outside the vocabulary;
    /// see [`Forward::with_weights`].
    pub fn forward(&self, fwd: &mut Forward<'_>, pieces: &mut [Piece<'_>]) -> Result<Option<Tensor>, Error> {
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        for piece in &mut *pieces {
            positions.extend(piece.cache.room_for(piece.ids.len())?);
            ids.extend_from_slice(piece.ids);
        }
        let table = self.rotary.table(&positions);
        let table = fwd.upload(&table, &TensorMeta::new(DType::F32, [ids.len(), self.rotary.width()])?)?;
        let mut x = self.model.embed_tokens.forward(fwd, &ids)?;
        for (number, block) in self.model.layers.iter().enumerate() {
            block.forward(fwd, &mut x, &table, (number, pieces), &self.config)?;
        }
        drop(table);
        let last = self.last_rows(fwd, x, pieces)?;
        if !fwd.is_dry() {
            for piece in &mut *pieces {
                piece.cache.advance(piece.ids.len());
            }
        }
        let Some(x) = last else { return Ok(None) };
        let x = self.model.norm.forward(fwd, &x)?;
        let logits = self.lm_head.forward(fwd, &x)?;
        drop(x);
        Ok(Some(if logits.dtype() == DType::F32 { logits } else { fwd.cast(&logits, DType::F32)? }))
    }

    /// The rows of `x` after which a piece wants logits.
    fn last_rows(
        &self,
        fwd: &mut Forward<'_>,
        x: Tensor,
        pieces: &[Piece<'_>],
    ) -> Result<Option<Tensor>, Error> {
        let asking = pieces.iter().filter(|piece| piece.logits).count();
        if asking == 0 {
            return Ok(None);
        }
        let mut rows = fwd.tensor([asking, self.config.width])?;
        let (mut end, mut to) = (0, 0);
        for piece in pieces {
            end += piece.ids.len();
            if piece.logits {
                fwd.run(ops::Cast::new(x.rows(end - 1..end)?, rows.rows_mut(to..to + 1)?))?;
                to += 1;
            }
        }
        Ok(Some(rows))
    }
}

/// A head whose weight is the table.
fn tied(table: &Parameter) -> Result<Linear, ModelError> {
    Linear::from_parameters(table.tie(), None).map_err(|e| ModelError::Config(e.to_string()))
}

impl Block {
    fn forward(
        &self,
        fwd: &mut Forward<'_>,
        x: &mut Tensor,
        table: &Tensor,
        caches: (usize, &mut [Piece<'_>]),
        config: &Config,
    ) -> Result<(), Error> {
        let y = self.input_layernorm.forward(fwd, x)?;
        let y = self.self_attn.forward(fwd, y, table, caches, config)?;
        fwd.add(x, &y)?;
        drop(y);
        let y = self.post_attention_layernorm.forward(fwd, x)?;
        let y = self.mlp.forward(fwd, y, config.activation)?;
        fwd.add(x, &y)
    }
}

impl Attention {
    /// `number` is the index of this block, by which the pieces' caches keep its keys and values.
    fn forward(
        &self,
        fwd: &mut Forward<'_>,
        x: Tensor,
        table: &Tensor,
        (number, pieces): (usize, &mut [Piece<'_>]),
        config: &Config,
    ) -> Result<Tensor, Error> {
        let (q, k, v) =
            (self.q_proj.forward(fwd, &x)?, self.k_proj.forward(fwd, &x)?, self.v_proj.forward(fwd, &x)?);
        drop(x);
        let mut q = normed(fwd, q, self.q_norm.as_ref(), config.head_dim)?;
        let mut k = normed(fwd, k, self.k_norm.as_ref(), config.head_dim)?;
        let form = config.rotary.form();
        turn(fwd, form, table, config.heads, &mut q)?;
        turn(fwd, form, table, config.kv_heads, &mut k)?;
        let mut y = fwd.tensor(q.shape().clone())?;
        let mut end = 0;
        for piece in pieces {
            let rows = end..end + piece.ids.len();
            end = rows.end;
            let before = piece.cache.len();
            let [keys, values] = piece.cache.layer_mut(number)?;
            fwd.run(ops::Cast::new(k.rows(rows.clone())?, keys.rows_mut(before..before + rows.len())?))?;
            fwd.run(ops::Cast::new(v.rows(rows.clone())?, values.rows_mut(before..before + rows.len())?))?;
            // A pass is prepared for a full cache.
            let seen = if fwd.is_dry() { keys.capacity() } else { before + rows.len() };
            let attention = ops::Attention::new(
                q.rows(rows.clone())?,
                keys.rows(0..seen)?,
                values.rows(0..seen)?,
                config.heads,
                y.rows_mut(rows)?,
            );
            fwd.run(attention.with_kv_heads(config.kv_heads).with_causal(before))?;
        }
        drop((q, k, v));
        self.o_proj.forward(fwd, &y)
    }
}

/// Each head normalised separately, if the model does that.
fn normed(
    fwd: &mut Forward<'_>,
    x: Tensor,
    norm: Option<&RmsNorm>,
    head_dim: usize,
) -> Result<Tensor, Error> {
    let Some(norm) = norm else { return Ok(x) };
    let shape = x.shape().clone();
    let heads = x.meta().elements() as usize / head_dim.max(1);
    norm.forward(fwd, &x.reshape([heads, head_dim])?)?.reshape(shape)
}

fn turn(
    fwd: &mut Forward<'_>,
    form: RotaryForm,
    table: &Tensor,
    heads: usize,
    x: &mut Tensor,
) -> Result<(), Error> {
    fwd.run(ops::Rotary::new(form, table.view(), heads, x.view_mut()))
}

impl Mlp {
    fn forward(&self, fwd: &mut Forward<'_>, x: Tensor, activation: UnaryKind) -> Result<Tensor, Error> {
        let gate = self.gate_proj.forward(fwd, &x)?;
        let mut up = self.up_proj.forward(fwd, &x)?;
        drop(x);
        fwd.gated(activation, &gate, &mut up)?;
        drop(gate);
        self.down_proj.forward(fwd, &up)
    }
}
