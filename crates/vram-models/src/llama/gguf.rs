//! Maps GGUF tensor names to those of Hugging Face checkpoints.

/// The Hugging Face name of a GGUF tensor: `blk.0.attn_q.weight` is `model.layers.0.self_attn.q_proj.weight`.
/// `None` for tensors that have no such name.
///
/// Pass this function to `Conversion::rename_with` of `vram-diskmap`. llama.cpp's converter reorders the rows
/// of queries and keys of Llama itself; [`Config::from_gguf`](super::Config::from_gguf) accounts for it.
pub fn from_gguf_name(name: &str) -> Option<String> {
    let (of, kind) = name.rsplit_once('.')?;
    let whole = match of {
        "token_embd" => Some("model.embed_tokens"),
        "output_norm" => Some("model.norm"),
        "output" => Some("lm_head"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some(format!("{whole}.{kind}"));
    }
    let (block, part) = of.strip_prefix("blk.")?.split_once('.')?;
    let part = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    block.bytes().all(|b| b.is_ascii_digit()).then(|| format!("model.layers.{block}.{part}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hugging_face() {
        for (gguf, expected) in [
            ("token_embd.weight", Some("model.embed_tokens.weight")),
            ("output.weight", Some("lm_head.weight")),
            ("blk.12.attn_q.bias", Some("model.layers.12.self_attn.q_proj.bias")),
            ("blk.0.ffn_down.weight", Some("model.layers.0.mlp.down_proj.weight")),
            ("blk.0.ffn_gate_exps.weight", None),
            ("blk.x.ffn_down.weight", None),
            ("rope_freqs.weight", None),
            ("weight", None),
        ] {
            assert_eq!(from_gguf_name(gguf).as_deref(), expected, "{gguf}");
        }
    }
}
