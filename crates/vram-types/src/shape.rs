//! Shapes of tensors.

use std::fmt;
use std::ops::Deref;

use smallvec::SmallVec;

/// The extents of a tensor, outermost first. Rank 0 is a scalar of one element; an extent may be 0.
///
/// Up to four extents are kept without a heap allocation.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(SmallVec<[usize; 4]>);

impl Shape {
    /// A shape from its extents.
    pub fn new(dims: &[usize]) -> Shape {
        Shape(SmallVec::from_slice(dims))
    }

    /// The shape of a scalar.
    pub fn scalar() -> Shape {
        Shape::default()
    }

    /// The extents, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// How many extents there are.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements; `None` if it overflows a `u64`. A zero extent gives 0 whatever the others are.
    pub fn elements(&self) -> Option<u64> {
        if self.0.contains(&0) {
            return Some(0);
        }
        self.0.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?))
    }

    /// The innermost extent; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }

    /// Elements in all but the innermost extent, saturating: the rows of the matrix that a linear layer sees.
    pub fn rows(&self) -> usize {
        match self.0.split_last() {
            None => 1,
            Some((_, outer)) => outer.iter().fold(1, |n, &d| n.saturating_mul(d)),
        }
    }

    /// This shape with its innermost extent replaced. A scalar becomes a vector.
    pub fn with_last(&self, last: usize) -> Shape {
        let mut dims = self.0.clone();
        match dims.last_mut() {
            Some(d) => *d = last,
            None => dims.push(last),
        }
        Shape(dims)
    }

    /// This shape with its outermost extent replaced. A scalar becomes a vector.
    pub fn with_first(&self, first: usize) -> Shape {
        let mut dims = self.0.clone();
        match dims.first_mut() {
            Some(d) => *d = first,
            None => dims.push(first),
        }
        Shape(dims)
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Shape {
        Shape::new(&dims)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Shape {
        Shape::new(dims)
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Shape {
        Shape(SmallVec::from_vec(dims))
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(iter: I) -> Shape {
        Shape(iter.into_iter().collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let mut text = String::from("[");
        for (i, d) in self.0.iter().enumerate() {
            write!(text, "{}{d}", if i > 0 { ", " } else { "" })?;
        }
        text.push(']');
        f.pad(&text)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Shape {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.iter())
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Shape {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Shape, D::Error> {
        Vec::<usize>::deserialize(d).map(Shape::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_scalars_zeros_and_giants() {
        let check = |dims: &[usize], expected| assert_eq!(Shape::new(dims).elements(), expected, "{dims:?}");
        check(&[], Some(1));
        check(&[0], Some(0));
        check(&[usize::MAX, usize::MAX, 0], Some(0));
        check(&[2, 3, 5, 7, 11], Some(2310));
        check(&[1 << 32, 1 << 32], None);
        check(&[1 << 32, 1 << 31], Some(1 << 63));
    }

    #[test]
    fn prints_as_a_list() {
        assert_eq!(Shape::from([2, 3]).to_string(), "[2, 3]");
        assert_eq!(format!("{:>6}|", Shape::scalar()), "    []|");
    }
}
