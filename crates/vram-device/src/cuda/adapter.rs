//! Selects the card.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use super::driver::{self, Card};
use super::probe::{self, unavailable};
use crate::DeviceError;

/// Which card to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CudaDevice {
    /// The first, which is the fastest unless `CUDA_DEVICE_ORDER` says otherwise.
    #[default]
    First,
    /// By its index in [`devices`].
    Index(usize),
    /// The first whose description contains this text, ignoring case.
    Name(String),
}

/// Parses a command-line value: empty, an index, or part of a name.
impl FromStr for CudaDevice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<CudaDevice, Infallible> {
        Ok(match text.parse() {
            _ if text.is_empty() => CudaDevice::First,
            Ok(index) => CudaDevice::Index(index),
            Err(_) => CudaDevice::Name(text.to_owned()),
        })
    }
}

impl fmt::Display for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CudaDevice::First => f.write_str("cuda"),
            CudaDevice::Index(index) => write!(f, "cuda:{index}"),
            CudaDevice::Name(name) => write!(f, "cuda:{name}"),
        }
    }
}

/// Descriptions of all cards, in the order of [`CudaDevice::Index`]; empty without a driver.
pub fn devices() -> Vec<String> {
    all().unwrap_or_default().iter().map(Card::describe).collect()
}

/// All cards that the driver sees, at least one.
fn all() -> Result<Vec<Card>, DeviceError> {
    probe::driver()?;
    driver::cards()
}

/// The selected card.
pub(super) fn choose(choice: &CudaDevice) -> Result<Card, DeviceError> {
    let mut all = all()?;
    let names: Vec<String> = all.iter().map(Card::describe).collect();
    let found = match choice {
        CudaDevice::First => Some(0),
        CudaDevice::Index(index) => Some(*index).filter(|&index| index < all.len()),
        CudaDevice::Name(name) => {
            let name = name.to_lowercase();
            names.iter().position(|n| n.to_lowercase().contains(&name))
        }
    };
    match found.filter(|&index| index < all.len()) {
        Some(index) => Ok(all.swap_remove(index)),
        None => Err(unavailable(format!("there is no {choice} among {}", names.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_named_by_nothing_a_place_or_a_part_of_its_name() {
        for (text, expected, shown) in [
            ("", CudaDevice::First, "cuda"),
            ("1", CudaDevice::Index(1), "cuda:1"),
            ("RTX 3090", CudaDevice::Name("RTX 3090".into()), "cuda:RTX 3090"),
        ] {
            let Ok(choice) = text.parse::<CudaDevice>();
            assert_eq!(choice, expected);
            assert_eq!(choice.to_string(), shown);
        }
    }

    #[test]
    fn a_card_that_is_not_there_is_a_value_with_a_reason() {
        for choice in [CudaDevice::Index(1000), CudaDevice::Name("no such card".into())] {
            let error = choose(&choice).expect_err("there is no such card");
            assert!(matches!(error, DeviceError::Unavailable { .. }), "{error}");
        }
    }
}
