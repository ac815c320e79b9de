//! `config.json` of Hugging Face checkpoints.

use serde::Deserialize;

use super::rotary::{Llama3, Rotary};
use crate::ModelError;
use vram_device::ops::RotaryForm;

/// The supported `model_type`s; all of them pair the halves of a head.
const MODEL_TYPES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

#[derive(Deserialize)]
struct Kind {
    model_type: String,
}

/// The settings that shapes do not show.
#[derive(Deserialize)]
pub(super) struct Json {
    pub(super) model_type: String,
    pub(super) num_attention_heads: usize,
    pub(super) head_dim: Option<usize>,
    pub(super) rms_norm_eps: f32,
    pub(super) hidden_act: String,
    pub(super) max_position_embeddings: usize,
    pub(super) sliding_window: Option<usize>,
    pub(super) use_sliding_window: Option<bool>,
    #[serde(default)]
    pub(super) tie_word_embeddings: bool,
    #[serde(default = "one")]
    partial_rotary_factor: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Scaling>,
    /// Later versions keep both here.
    rope_parameters: Option<Scaling>,
}

#[derive(Deserialize)]
struct Scaling {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
}

fn one() -> f64 {
    1.0
}

impl Json {
    /// An unknown kind of model is reported by its name, not by the first field that it lacks.
    pub(super) fn read(text: &str) -> Result<Json, ModelError> {
        let wrong = |e: serde_json::Error| ModelError::Config(format!("config.json: {e}"));
        let Kind { model_type } = serde_json::from_str(text).map_err(wrong)?;
        if !MODEL_TYPES.contains(&model_type.as_str()) {
            return Err(ModelError::Config(format!(
                "config.json: model_type {model_type:?} is not supported; {MODEL_TYPES:?} are"
            )));
        }
        serde_json::from_str(text).map_err(wrong)
    }

    pub(super) fn rotary(&self, head_dim: usize) -> Result<Rotary, ModelError> {
        let wrong = |what: String| Err(ModelError::Config(format!("config.json: {what}")));
        if self.partial_rotary_factor != 1.0 {
            return wrong("rotary embedding of only part of each head is not supported".into());
        }
        let scaling = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let base = scaling.and_then(|s| s.rope_theta).or(self.rope_theta).unwrap_or(10_000.0);
        let rotary = Rotary::new(RotaryForm::Halves, base, head_dim, None);
        let Some(scaling) = scaling else { return Ok(rotary) };
        match (scaling.rope_type.as_deref().unwrap_or("default"), scaling.factor) {
            ("default", _) => Ok(rotary),
            ("linear", Some(factor)) => Ok(rotary.map(|frequency| frequency / factor)),
            ("llama3", Some(factor)) => {
                let (low, high, original) = (
                    scaling.low_freq_factor,
                    scaling.high_freq_factor,
                    scaling.original_max_position_embeddings,
                );
                let (Some(low), Some(high), Some(original)) = (low, high, original) else {
                    return wrong("rope_scaling of type llama3 lacks a field".into());
                };
                let scale = Llama3 { factor, low, high, original };
                Ok(rotary.map(|frequency| scale.scaled(frequency)))
            }
            ("linear" | "llama3", None) => wrong("rope_scaling has no factor".into()),
            (other, _) => wrong(format!(
                "rope_scaling of type {other:?} is not supported; \"default\", \"linear\" and \"llama3\" are"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kind_of_model_is_told_by_its_name() {
        let told = |text| Json::read(text).map(|_| ()).unwrap_err().to_string();
        assert!(told(r#"{"model_type": "bert", "hidden_size": 384}"#).contains("\"bert\""));
        assert!(told(r#"{"model_type": "llama"}"#).contains("num_attention_heads"));
        assert!(told("{}").contains("model_type"));
    }
}
