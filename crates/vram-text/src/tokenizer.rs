//! From text to ids and back.

use std::fmt;

use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use crate::error::TextError;

/// Turns text into the ids of a vocabulary, and back.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    pub(crate) inner: tokenizers::Tokenizer,
    /// What every text begins with, where [`encode_whole`](Tokenizer::encode_whole) has to add it.
    pub(crate) begin: Option<u32>,
    /// What `bos_token` means.
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) ends: Vec<u32>,
}

impl Tokenizer {
    /// The ids of a text. Tokens such as `<|im_start|>` that stand in it as text become their ids; none are added.
    ///
    /// # Errors
    /// [`TextError::Text`] if it has something that the vocabulary cannot say.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encoded(text, false)
    }

    /// The ids of a text, with those that its model wants before and after every text.
    ///
    /// # Errors
    /// As [`encode`](Tokenizer::encode).
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids: Vec<u32> = self.begin.into_iter().collect();
        ids.extend(self.encoded(text, true)?);
        Ok(ids)
    }

    fn encoded(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, special).map_err(|e| TextError::Text(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids, with or without tokens that are not text, such as `<|im_end|>`.
    ///
    /// # Errors
    /// [`TextError::Text`] if the decoder fails.
    pub fn decode(&self, ids: &[u32], special: bool) -> Result<String, TextError> {
        self.inner.decode(ids, !special).map_err(|e| TextError::Text(e.to_string()))
    }

    /// Text as ids come one by one, without tokens that are not text.
    pub fn stream(&self) -> Stream<'_> {
        Stream { inner: self.inner.decode_stream(true) }
    }

    /// The id of a token, if there is one with this text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids that end a text.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Number of ids.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub(crate) fn token(&self, id: Option<u32>) -> Option<String> {
        id.and_then(|id| self.inner.id_to_token(id))
    }
}

/// Text that is put together as ids come; see [`Tokenizer::stream`].
pub struct Stream<'t> {
    inner: DecodeStream<
        't,
        ModelWrapper,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >,
}

impl Stream<'_> {
    /// The text that one more id adds; `None` while it is in the middle of a character.
    ///
    /// # Errors
    /// [`TextError::Text`] if the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        self.inner.step(id).map_err(|e| TextError::Text(e.to_string()))
    }
}

impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}
