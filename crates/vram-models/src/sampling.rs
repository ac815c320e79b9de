//! Chooses the next token.

use std::fmt;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How a [`Sampler`] chooses. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; with 0 the token with the largest logit after the penalty is always chosen.
    pub temperature: f32,
    /// Keeps only this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Keeps only the most likely tokens that together have this probability; 1 for all.
    pub top_p: f32,
    /// Keeps only tokens at least this many times as likely as the most likely one; 0 for all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that were among the last
    /// [`recent`](Sampling::recent); 1 for no penalty (arXiv 1909.05858).
    pub repetition_penalty: f32,
    /// How many of the last tokens the penalty considers.
    pub recent: usize,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            recent: 64,
            seed: 0,
        }
    }
}

/// No token can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SamplingError {
    /// A setting is out of range.
    Setting {
        /// Its name.
        name: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// There are no logits.
    Empty,
    /// A logit is not a number, or all are minus infinity.
    NotANumber {
        /// The token whose logit is not a number; `None` if all are minus infinity.
        token: Option<u32>,
    },
}

impl fmt::Display for SamplingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SamplingError::Setting { name, must } => write!(f, "{name} must be {must}"),
            SamplingError::Empty => f.write_str("there are no logits to choose from"),
            SamplingError::NotANumber { token: Some(token) } => {
                write!(f, "the logit of token {token} is not a number: the weights or the inputs are damaged")
            }
            SamplingError::NotANumber { token: None } => f.write_str("no token has a finite logit"),
        }
    }
}

impl std::error::Error for SamplingError {}

impl Sampling {
    /// # Errors
    /// [`SamplingError::Setting`] for a setting that is out of range or not a number.
    pub fn check(&self) -> Result<(), SamplingError> {
        let within = [
            ("temperature", self.temperature >= 0.0 && self.temperature.is_finite(), "0 or more, and finite"),
            ("top_p", self.top_p > 0.0 && self.top_p <= 1.0, "above 0, and 1 at most"),
            ("min_p", (0.0..=1.0).contains(&self.min_p), "between 0 and 1"),
            (
                "repetition_penalty",
                self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
                "above 0, and finite",
            ),
        ];
        match within.into_iter().find(|(_, fine, _)| !fine) {
            Some((name, _, must)) => Err(SamplingError::Setting { name, must }),
            None => Ok(()),
        }
    }
}

/// Chooses the tokens of one sequence, one after the other. The same settings, seed and logits give the same
/// tokens.
///
/// The penalty comes first. Then `top_k`, `top_p` and `min_p` narrow the choice by the probabilities at
/// temperature 1, as in llama.cpp. The temperature decides among the tokens that are left.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// # Errors
    /// See [`Sampling::check`].
    pub fn new(settings: Sampling) -> Result<Sampler, SamplingError> {
        settings.check()?;
        let random = ChaCha8Rng::seed_from_u64(settings.seed);
        Ok(Sampler { settings, random })
    }

    /// The next token of a sequence whose tokens so far are `tokens`.
    ///
    /// # Errors
    /// [`SamplingError::Empty`] or [`SamplingError::NotANumber`].
    pub fn choose(&mut self, logits: &[f32], tokens: &[u32]) -> Result<u32, SamplingError> {
        // Token ids are u32, so a vocabulary is no longer.
        let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        if let Some((token, _)) = all.iter().find(|(_, logit)| logit.is_nan()) {
            return Err(SamplingError::NotANumber { token: Some(*token) });
        }
        self.penalise(&mut all, tokens);
        let Some(&best) = all.iter().reduce(|best, other| if other.1 > best.1 { other } else { best }) else {
            return Err(SamplingError::Empty);
        };
        if best.1 == f32::NEG_INFINITY {
            return Err(SamplingError::NotANumber { token: None });
        }
        if self.settings.temperature == 0.0 || best.1 == f32::INFINITY {
            return Ok(best.0);
        }
        self.narrow(&mut all);
        let temperature = self.settings.temperature;
        let weights: Vec<f32> = all.iter().map(|(_, logit)| ((logit - best.1) / temperature).exp()).collect();
        let total: f32 = weights.iter().sum();
        // 24 bits fill the mantissa: below 1.
        let chance = (self.random.next_u32() >> 8) as f32 / (1 << 24) as f32;
        let mut left = chance * total;
        for ((token, _), weight) in all.iter().zip(&weights) {
            if left < *weight {
                return Ok(*token);
            }
            left -= weight;
        }
        // Rounding may leave a small remainder.
        Ok(all
            .iter()
            .zip(&weights)
            .rfind(|(_, weight)| **weight > 0.0)
            .map_or(best.0, |((token, _), _)| *token))
    }

    fn penalise(&self, all: &mut [(u32, f32)], tokens: &[u32]) {
        let penalty = self.settings.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let mut recent: Vec<u32> = tokens.iter().rev().take(self.settings.recent).copied().collect();
        recent.sort_unstable();
        recent.dedup();
        for token in recent {
            if let Some((_, logit)) = all.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Keeps the most likely tokens, in order of likelihood.
    fn narrow(&self, all: &mut Vec<(u32, f32)>) {
        let Sampling { top_k, top_p, min_p, .. } = self.settings;
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if top_k > 0 {
            all.truncate(top_k);
        }
        let Some(&(_, most)) = all.first() else { return };
        let likelihood = |logit: f32| (logit - most).exp();
        if top_p < 1.0 {
            let goal = top_p * all.iter().map(|(_, logit)| likelihood(*logit)).sum::<f32>();
            let mut sum = 0.0;
            let enough = all.iter().position(|(_, logit)| {
                sum += likelihood(*logit);
                sum >= goal
            });
            all.truncate(enough.map_or(all.len(), |last| last + 1));
        }
        if min_p > 0.0 {
            let enough = all.iter().take_while(|(_, logit)| likelihood(*logit) >= min_p).count();
            all.truncate(enough.max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 2.9];

    /// How often each token is chosen in 4000 draws.
    fn counts(settings: Sampling) -> [usize; 5] {
        let mut sampler = Sampler::new(settings).unwrap();
        let mut counts = [0; 5];
        for _ in 0..4000 {
            counts[sampler.choose(&LOGITS, &[]).unwrap() as usize] += 1;
        }
        counts
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_largest_and_the_first_of_equals() {
        let mut sampler = Sampler::new(Sampling::default()).unwrap();
        assert_eq!(sampler.choose(&LOGITS, &[]), Ok(1));
        assert_eq!(sampler.choose(&[2.0, 5.0, 5.0], &[]), Ok(1));
    }

    #[test]
    fn chances_are_those_of_the_softmax() {
        let total: f32 = LOGITS.iter().map(|l| l.exp()).sum();
        for (count, logit) in counts(warm()).into_iter().zip(LOGITS) {
            let expected = 4000.0 * logit.exp() / total;
            assert!((count as f32 - expected).abs() < 5.0 * expected.sqrt().max(3.0), "{count} {expected}");
        }
    }

    #[test]
    fn the_choice_is_narrowed() {
        let chosen = |settings| counts(settings).map(|count| count > 0);
        assert_eq!(chosen(Sampling { top_k: 2, ..warm() }), [false, true, false, false, true]);
        assert_eq!(chosen(Sampling { top_k: 1, ..warm() }), [false, true, false, false, false]);
        // The two most likely tokens together have 77 %.
        assert_eq!(chosen(Sampling { top_p: 0.7, ..warm() }), [false, true, false, false, true]);
        assert_eq!(chosen(Sampling { top_p: 0.3, ..warm() }), [false, true, false, false, false]);
        // exp(-1) is 0.37 of the most likely one.
        assert_eq!(chosen(Sampling { min_p: 0.3, ..warm() }), [false, true, true, false, true]);
        assert_eq!(chosen(Sampling { min_p: 1.0, ..warm() }), [false, true, false, false, false]);
    }

    #[test]
    fn a_seed_is_repeatable_and_another_is_another() {
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..warm() }).unwrap();
            (0..32).map(|_| sampler.choose(&LOGITS, &[]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn repeated_tokens_are_less_likely() {
        let settings = Sampling { repetition_penalty: 1.2, recent: 2, ..Sampling::default() };
        let mut sampler = Sampler::new(settings).unwrap();
        assert_eq!(sampler.choose(&LOGITS, &[1]), Ok(4));
        assert_eq!(sampler.choose(&LOGITS, &[1, 0, 0]), Ok(1), "it was too long ago");
        assert_eq!(sampler.choose(&[-1.0, -1.1], &[0, 99]), Ok(1), "a negative logit falls");
    }

    #[test]
    fn what_cannot_be_chosen_from_is_refused() {
        let mut sampler = Sampler::new(warm()).unwrap();
        assert_eq!(sampler.choose(&[], &[]), Err(SamplingError::Empty));
        let nan = Err(SamplingError::NotANumber { token: Some(1) });
        assert_eq!(sampler.choose(&[0.0, f32::NAN], &[]), nan);
        assert_eq!(
            sampler.choose(&[f32::NEG_INFINITY; 2], &[]),
            Err(SamplingError::NotANumber { token: None })
        );
        assert_eq!(sampler.choose(&[0.0, f32::INFINITY], &[]), Ok(1));
        for settings in [
            Sampling { temperature: f32::NAN, ..warm() },
            Sampling { temperature: -1.0, ..warm() },
            Sampling { top_p: 0.0, ..warm() },
            Sampling { top_p: f32::NAN, ..warm() },
            Sampling { min_p: 1.5, ..warm() },
            Sampling { repetition_penalty: 0.0, ..warm() },
        ] {
            assert!(matches!(settings.check(), Err(SamplingError::Setting { .. })), "{settings:?}");
        }
    }
}
