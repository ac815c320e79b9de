//! Vector clocks over streams: what is known to come before what.

/// For each stream (by its lane), the position up to which its work comes before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock(Vec<u64>);

impl Clock {
    /// Whether the work of a lane at a position, counted from 1, comes before.
    pub(crate) fn covers(&self, lane: usize, position: u64) -> bool {
        self.0.get(lane).is_some_and(|&known| position <= known)
    }

    /// Adds everything that comes before the other clock.
    pub(crate) fn join(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// Adds the lane's work up to a position.
    pub(crate) fn reach(&mut self, lane: usize, position: u64) {
        if self.0.len() <= lane {
            self.0.resize(lane + 1, 0);
        }
        self.0[lane] = self.0[lane].max(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_takes_the_later_of_each_lane() {
        let (mut a, mut b) = (Clock::default(), Clock::default());
        a.reach(0, 5);
        b.reach(2, 3);
        b.reach(0, 2);
        assert!(!a.covers(2, 1));
        a.join(&b);
        assert!(a.covers(0, 5) && !a.covers(0, 6) && a.covers(2, 3) && !a.covers(2, 4) && !a.covers(1, 1));
    }
}
