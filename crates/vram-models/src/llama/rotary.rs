//! The angles of rotary position embedding.

use vram_device::ops::RotaryForm;

/// How far each pair of elements rotates from one position to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    form: RotaryForm,
    /// Radians per position, for each pair.
    frequencies: Vec<f32>,
}

impl Rotary {
    /// The usual frequencies, `base^(-2 i / width)` for pair `i` of a head's first `width` elements, each
    /// divided by its factor if there are factors.
    pub fn new(form: RotaryForm, base: f64, width: usize, factors: Option<&[f32]>) -> Rotary {
        let frequency = |pair: usize| {
            // Rounded where PyTorch rounds, so that angles at large positions are the same.
            let frequency = base.powf(-(2.0 * pair as f64) / width as f64) as f32;
            factors.and_then(|all| all.get(pair)).map_or(frequency, |factor| frequency / factor)
        };
        Rotary { form, frequencies: (0..width / 2).map(frequency).collect() }
    }

    /// With every frequency replaced by `f` of it.
    #[must_use]
    pub fn map(mut self, f: impl Fn(f32) -> f32) -> Rotary {
        for frequency in &mut self.frequencies {
            *frequency = f(*frequency);
        }
        self
    }

    /// Which elements are a pair.
    pub fn form(&self) -> RotaryForm {
        self.form
    }

    /// How many elements of a head are rotated.
    pub fn width(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// The f32 bytes of a table with a row for each position: cosines, then sines, as
    /// [`ops::Rotary`](vram_device::ops::Rotary) expects them.
    pub(super) fn table(&self, positions: &[usize]) -> Vec<u8> {
        let mut table = Vec::with_capacity(positions.len() * self.width() * 4);
        for &position in positions {
            let angles =
                || self.frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency));
            for value in angles().map(f64::cos).chain(angles().map(f64::sin)) {
                table.extend((value as f32).to_le_bytes());
            }
        }
        table
    }
}

/// Llama 3's scaling for longer contexts: slow frequencies are divided by a factor, fast ones are unchanged,
/// those between are interpolated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Llama3 {
    pub(super) factor: f32,
    pub(super) low: f32,
    pub(super) high: f32,
    /// Number of positions that the model was originally trained for.
    pub(super) original: f32,
}

impl Llama3 {
    pub(super) fn scaled(self, frequency: f32) -> f32 {
        let turns = self.original * frequency / std::f32::consts::TAU;
        if turns < self.low {
            frequency / self.factor
        } else if turns > self.high {
            frequency
        } else {
            let share = (turns - self.low) / (self.high - self.low);
            (1.0 - share) * frequency / self.factor + share * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_those_of_the_paper() {
        let rotary = Rotary::new(RotaryForm::Halves, 10_000.0, 4, None);
        let table = rotary.table(&[0, 3]);
        let values: Vec<f32> = table.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(values[..4], [1.0, 1.0, 0.0, 0.0]);
        let expected = [3f64.cos(), 0.03f64.cos(), 3f64.sin(), 0.03f64.sin()];
        for (value, expected) in values[4..].iter().zip(expected) {
            assert!((f64::from(*value) - expected).abs() < 1e-7, "{value} {expected}");
        }
    }

    #[test]
    fn slow_frequencies_are_divided_and_fast_ones_stay() {
        let scale = Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        assert_eq!(scale.scaled(1.0), 1.0);
        assert_eq!(scale.scaled(1e-5), 1e-5 / 8.0);
        let between = std::f32::consts::TAU * 2.0 / 8192.0;
        assert!(scale.scaled(between) < between && scale.scaled(between) > between / 8.0);
    }

    #[test]
    fn factors_divide() {
        let plain = Rotary::new(RotaryForm::Halves, 10_000.0, 4, None);
        let halved = Rotary::new(RotaryForm::Halves, 10_000.0, 4, Some(&[1.0, 2.0]));
        assert_eq!(halved.frequencies, [plain.frequencies[0], plain.frequencies[1] / 2.0]);
    }
}
