//! The tensors that a network is run on, from a file. Each one is used, or refused by name.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use vram_diskmap::{DiskMap, HostTensor};
use vram_stream::models::bert;
use vram_types::DType;

use crate::output::list;

/// How many names an error shows.
const SHOWN: usize = 4;

/// A file of input tensors, and what of it a network takes.
#[derive(Debug)]
pub(crate) struct Inputs {
    map: DiskMap,
    path: PathBuf,
}

impl Inputs {
    /// Opens a file that must have the `needed` tensors, and may have the `optional` ones.
    pub(crate) fn open(path: &Path, needed: &[&str], optional: &[&str]) -> Result<Inputs> {
        let map = DiskMap::open(path)?;
        let at = path.display();
        let names = || map.iter().map(|(name, _)| name).chain(map.unreadable().map(|(name, _)| name));
        for name in needed {
            if names().any(|found| found == *name) {
                continue;
            }
            let found: Vec<&str> = names().take(SHOWN).collect();
            let more = match names().count().saturating_sub(SHOWN) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            bail!("{at}: there is no tensor {name:?}; it has {found:?}{more}");
        }
        let is_taken = |name: &&str| needed.contains(name) || optional.contains(name);
        let unknown: Vec<String> =
            names().filter(|name| !is_taken(name)).map(|name| format!("{name:?}")).collect();
        if !unknown.is_empty() {
            let quoted = |names: &[&str]| -> Vec<String> { names.iter().map(|n| format!("{n:?}")).collect() };
            let mut takes = list(&quoted(needed), "and");
            if !optional.is_empty() {
                takes += &format!(", and optionally {}", list(&quoted(optional), "and"));
            }
            bail!(
                "{at}: {} would not be used: this model takes {takes}. `vram extract {at} --tensors NAME \
                 -o FILE` makes a file of some tensors",
                list(&unknown, "and")
            );
        }
        Ok(Inputs { map, path: path.to_owned() })
    }

    /// A tensor of floats.
    pub(crate) fn float(&self, name: &str) -> Result<HostTensor> {
        let tensor = self.map.get(name)?;
        let dtype = tensor.meta().dtype();
        ensure!(
            matches!(dtype, DType::F32 | DType::BF16 | DType::F16),
            "{}: {name:?} is {dtype}, but must be F32, BF16 or F16",
            self.path.display()
        );
        Ok(tensor)
    }

    /// A tensor of whole numbers: its shape, which has two extents, and its numbers.
    fn whole(&self, name: &str) -> Result<([usize; 2], Vec<i64>)> {
        let tensor = self.map.get(name)?;
        let (bytes, meta, at) = (tensor.bytes(), tensor.meta(), self.path.display());
        let &[batch, tokens] = meta.shape().dims() else {
            bail!("{at}: {name:?} has shape {}, but must be [batch, tokens]", meta.shape());
        };
        let numbers = match meta.dtype() {
            DType::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            DType::I32 => bytes.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
            DType::U32 => bytes.as_chunks().0.iter().map(|b| i64::from(u32::from_le_bytes(*b))).collect(),
            DType::U8 | DType::BOOL => bytes.iter().map(|b| i64::from(*b)).collect(),
            other => bail!("{at}: {name:?} is {other}, but must be I64, I32, U32, U8 or BOOL"),
        };
        Ok(([batch, tokens], numbers))
    }
}

/// Token ids of sequences that have the same length, and the types of the tokens.
#[derive(Debug)]
pub(crate) struct Ids {
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    ids: Vec<u32>,
    types: Vec<u32>,
}

impl Ids {
    pub(crate) const NEEDED: [&str; 1] = ["input_ids"];
    pub(crate) const OPTIONAL: [&str; 2] = ["token_type_ids", "attention_mask"];

    /// Reads the inputs of a BERT encoder, and checks them against its sizes.
    pub(crate) fn read(inputs: &Inputs, config: &bert::Config) -> Result<Ids> {
        let at = inputs.path.display();
        let (shape, ids) = inputs.whole("input_ids")?;
        let [batch, tokens] = shape;
        ensure!(batch > 0 && tokens > 0, "{at}: \"input_ids\" is empty: its shape is {shape:?}");
        ensure!(
            tokens <= config.positions,
            "{at}: \"input_ids\" has sequences of {tokens} tokens, and the model has {} positions",
            config.positions
        );
        let optional = |name: &str| -> Result<Option<Vec<i64>>> {
            if !inputs.map.contains(name) {
                return Ok(None);
            }
            let (other, numbers) = inputs.whole(name)?;
            ensure!(
                other == shape,
                "{at}: {name:?} has shape {other:?}, but must have that of \"input_ids\", {shape:?}"
            );
            Ok(Some(numbers))
        };
        let below = |name: &str, numbers: Vec<i64>, rows: usize, of: &str| -> Result<Vec<u32>> {
            let checked = numbers.iter().enumerate().map(|(i, &number)| {
                let row = u32::try_from(number).ok().filter(|row| (*row as usize) < rows);
                row.ok_or_else(|| {
                    let place = [i / tokens, i % tokens];
                    anyhow!("{at}: {name:?} has {number} at {place:?}, and the model has {rows} {of}")
                })
            });
            checked.collect()
        };
        let ids = below("input_ids", ids, config.vocabulary, "words, counted from 0")?;
        let types = match optional("token_type_ids")? {
            Some(types) => below("token_type_ids", types, config.types, "types of tokens, counted from 0")?,
            None => vec![0; ids.len()],
        };
        if let Some(mask) = optional("attention_mask")?
            && let Some(i) = mask.iter().position(|&one| one != 1)
        {
            bail!(
                "{at}: \"attention_mask\" has {} at {:?}: attention with a mask is not built, so each token \
                 sees all others, as a mask of ones says; cut the padding off, and run sequences of \
                 different lengths one at a time",
                mask[i],
                [i / tokens, i % tokens]
            );
        }
        Ok(Ids { batch, tokens, ids, types })
    }

    pub(crate) fn sequences(&self) -> Vec<&[u32]> {
        self.ids.chunks(self.tokens).collect()
    }

    /// The types of the tokens of each sequence.
    pub(crate) fn types(&self) -> Vec<&[u32]> {
        self.types.chunks(self.tokens).collect()
    }
}
