//! Hard byte budgets: the ledger that every allocation takes its bytes from first.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, PoisonError};

use vram_types::ByteSize;

use crate::sync::{Mutex, MutexGuard};

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// In a checkpoint.
    Disk,
    /// In host memory that the device does not compute from.
    Host,
    /// In memory that kernels read.
    Device,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Tier::Disk => "disk",
            Tier::Host => "host",
            Tier::Device => "device",
        })
    }
}

/// How long reserved bytes are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lifetime {
    /// Residents, ring and staging: as long as the plan is in force.
    Weights,
    /// Activations and scratch: for one pass, or while passes of the same shape follow.
    Pass,
    /// KV caches and computed buffers: as long as the model.
    Session,
}

/// Bytes held, by lifetime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// [`Lifetime::Weights`], in bytes.
    pub weights: u64,
    /// [`Lifetime::Pass`], in bytes.
    pub pass: u64,
    /// [`Lifetime::Session`], in bytes.
    pub session: u64,
}

impl Usage {
    /// All lifetimes together, in bytes.
    pub fn total(&self) -> u64 {
        self.weights + self.pass + self.session
    }

    fn of(&mut self, lifetime: Lifetime) -> &mut u64 {
        match lifetime {
            Lifetime::Weights => &mut self.weights,
            Lifetime::Pass => &mut self.pass,
            Lifetime::Session => &mut self.session,
        }
    }
}

/// A hard cap on the bytes of one tier. Clones share one ledger.
#[derive(Clone)]
pub struct Budget(Arc<Ledger>);

struct Ledger {
    tier: Tier,
    books: Mutex<Books>,
}

struct Books {
    // Invariant 1: used.total() <= limit, unless `set_limit` lowered the limit below what was already held.
    limit: u64,
    used: Usage,
    peak: u64,
}

impl Budget {
    /// A budget of `limit` bytes on a tier. `u64::MAX` counts without limiting.
    pub fn new(tier: Tier, limit: u64) -> Budget {
        Budget(Arc::new(Ledger { tier, books: Mutex::new(Books { limit, used: Usage::default(), peak: 0 }) }))
    }

    /// Takes bytes from the budget until the [`Reservation`] is dropped.
    ///
    /// # Errors
    /// [`BudgetExceeded`] if they do not fit; nothing is taken in that case.
    pub fn reserve(&self, lifetime: Lifetime, bytes: u64) -> Result<Reservation, BudgetExceeded> {
        let mut books = self.books();
        let total = books.used.total();
        match total.checked_add(bytes) {
            Some(after) if after <= books.limit => {
                *books.used.of(lifetime) += bytes;
                books.peak = books.peak.max(after);
                Ok(Reservation { budget: self.clone(), lifetime, bytes })
            }
            _ => {
                Err(BudgetExceeded { tier: self.0.tier, asked: bytes, used: books.used, limit: books.limit })
            }
        }
    }

    /// The tier it caps.
    pub fn tier(&self) -> Tier {
        self.0.tier
    }

    /// The cap in bytes.
    pub fn limit(&self) -> u64 {
        self.books().limit
    }

    /// Changes the cap. Bytes already held stay held; nothing new is granted until they fit.
    pub fn set_limit(&self, limit: u64) {
        self.books().limit = limit;
    }

    /// Bytes held now.
    pub fn used(&self) -> u64 {
        self.books().used.total()
    }

    /// Bytes held now, by lifetime.
    pub fn usage(&self) -> Usage {
        self.books().used
    }

    /// The most bytes ever held at once.
    pub fn peak(&self) -> u64 {
        self.books().peak
    }

    /// Whether both are clones of one budget.
    pub fn is_same(&self, other: &Budget) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // The books are changed in one step each, so a panic elsewhere cannot leave them half-written.
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let books = self.books();
        f.debug_struct("Budget")
            .field("tier", &self.0.tier)
            .field("limit_bytes", &books.limit)
            .field("used", &books.used)
            .field("peak_bytes", &books.peak)
            .finish()
    }
}

/// Bytes taken from a [`Budget`]; dropping it gives them back.
#[derive(Debug)]
#[must_use = "dropping a reservation gives its bytes back"]
pub struct Reservation {
    budget: Budget,
    lifetime: Lifetime,
    bytes: u64,
}

impl Reservation {
    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long they are expected to be held.
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// Splits off `bytes` into a separate reservation; `None` if there are fewer.
    pub fn split(&mut self, bytes: u64) -> Option<Reservation> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(Reservation { budget: self.budget.clone(), lifetime: self.lifetime, bytes })
    }

    /// Takes `bytes` more from the budget.
    ///
    /// # Errors
    /// [`BudgetExceeded`] if they do not fit; nothing is taken in that case.
    pub fn grow(&mut self, bytes: u64) -> Result<(), BudgetExceeded> {
        let mut more = self.budget.reserve(self.lifetime, bytes)?;
        self.bytes += std::mem::take(&mut more.bytes);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.budget.books().used.of(self.lifetime) -= self.bytes;
    }
}

/// A reservation would exceed the budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetExceeded {
    /// The tier.
    pub tier: Tier,
    /// Bytes asked for.
    pub asked: u64,
    /// Bytes already held.
    pub used: Usage,
    /// The cap in bytes.
    pub limit: u64,
}

impl fmt::Display for BudgetExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage { weights, pass, session } = self.used;
        write!(
            f,
            "the {} budget of {} bytes ({}) has no room for {} bytes: weights hold {weights}, the pass {pass}, the session {session}",
            self.tier,
            self.limit,
            ByteSize(self.limit),
            self.asked
        )
    }
}

impl Error for BudgetExceeded {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_exact_to_the_byte_and_gives_back() {
        let budget = Budget::new(Tier::Device, 100);
        let mut a = budget.reserve(Lifetime::Weights, 60).unwrap();
        assert_eq!(budget.reserve(Lifetime::Pass, 41).unwrap_err().asked, 41);
        let b = budget.reserve(Lifetime::Pass, 40).unwrap();
        assert_eq!(budget.usage(), Usage { weights: 60, pass: 40, session: 0 });
        let half = a.split(30).unwrap();
        assert!(a.split(31).is_none());
        assert_eq!((a.bytes(), half.bytes()), (30, 30));
        drop((a, b));
        assert_eq!(budget.used(), 30);
        let mut half = half;
        half.grow(50).unwrap();
        assert_eq!((half.bytes(), budget.used()), (80, 80));
        assert_eq!(half.grow(21).unwrap_err().asked, 21);
        assert_eq!(half.bytes(), 80);
        drop(half);
        assert_eq!((budget.used(), budget.peak()), (0, 100));
        assert!(budget.reserve(Lifetime::Pass, u64::MAX).is_err());
    }
}
