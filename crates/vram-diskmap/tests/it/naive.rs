//! State dicts in memory, one element at a time: what conversions are held against.

use std::collections::BTreeMap;

use vram_diskmap::Rule;
use vram_types::{DType, cast};

/// An element: its bits, and where in which unit (the elements of a byte, mostly) it was stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Element {
    bits: u64,
    stored: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    elements: Vec<Element>,
}

pub(crate) type State = BTreeMap<String, Tensor>;

/// Whether a rule is wrong, as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wrong {
    NotFound,
    Duplicate,
    Shape,
    Unsupported,
}

impl Tensor {
    /// The tensor of these bytes; `number` tells its elements from those of others.
    pub(crate) fn new(number: usize, dtype: DType, shape: &[usize], bytes: &[u8]) -> Tensor {
        let count: usize = shape.iter().product();
        let bits = dtype.bits() as usize;
        let element = |i: usize| {
            let bit = |b: usize| u64::from(bytes[(i * bits + b) / 8] >> ((i * bits + b) % 8) & 1) << b;
            Element { bits: (0..bits).map(bit).sum(), stored: number * 840_000 + i }
        };
        Tensor { dtype, shape: shape.to_vec(), elements: (0..count).map(element).collect() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let bits = self.dtype.bits() as usize;
        let mut bytes = vec![0; self.elements.len() * bits / 8];
        for (i, element) in self.elements.iter().enumerate() {
            for b in 0..bits {
                bytes[(i * bits + b) / 8] |= ((element.bits >> b & 1) as u8) << ((i * bits + b) % 8);
            }
        }
        bytes
    }

    /// Whether it is whole bytes, made of whole bytes.
    fn is_whole(&self) -> bool {
        let unit = self.dtype.layout().block_elements as usize;
        let whole = |unit: &[Element]| {
            unit.iter().enumerate().all(|(i, e)| e.stored == unit[0].stored + i)
                && unit[0].stored.is_multiple_of(unit.len())
        };
        self.elements.chunks(unit).all(|chunk| chunk.len() == unit && whole(chunk))
    }

    /// The element at each index of `shape`, by the index that `from` gives for it.
    fn gathered(&self, shape: Vec<usize>, from: impl Fn(&[usize]) -> Vec<usize>) -> Tensor {
        let count: usize = shape.iter().product();
        let element = |number: usize| {
            let index = from(&index_of(number, &shape));
            let at = index.iter().zip(&self.shape).fold(0, |at, (i, extent)| at * extent + i);
            self.elements[at].clone()
        };
        let elements = (0..count).map(element).collect();
        Tensor { dtype: self.dtype, shape, elements }
    }

    fn slice(&self, dim: usize, start: usize, end: usize) -> Result<Tensor, Wrong> {
        let extent = *self.shape.get(dim).ok_or(Wrong::Shape)?;
        if start > end || end > extent {
            return Err(Wrong::Shape);
        }
        let mut shape = self.shape.clone();
        shape[dim] = end - start;
        Ok(self.gathered(shape, |index| {
            let mut index = index.to_vec();
            index[dim] += start;
            index
        }))
    }

    fn transpose(&self, axes: &[usize]) -> Result<Tensor, Wrong> {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..self.shape.len()) {
            return Err(Wrong::Shape);
        }
        let shape = axes.iter().map(|&axis| self.shape[axis]).collect();
        Ok(self.gathered(shape, |index| {
            let mut old = index.to_vec();
            axes.iter().zip(index).for_each(|(&axis, &i)| old[axis] = i);
            old
        }))
    }

    fn reshape(&self, asked: &[i64]) -> Result<Tensor, Wrong> {
        let known: i64 = asked.iter().filter(|&&d| d != -1).product();
        let count = self.elements.len() as i64;
        let shape: Vec<usize> = asked
            .iter()
            .map(|&d| if d == -1 { count.checked_div(known).unwrap_or(0) } else { d } as usize)
            .collect();
        if shape.iter().product::<usize>() != self.elements.len() || (known == 0 && asked.contains(&-1)) {
            return Err(Wrong::Shape);
        }
        Ok(Tensor { shape, ..self.clone() })
    }

    fn cast(&self, to: DType) -> Result<Tensor, Wrong> {
        if !cast::can_cast(self.dtype, to) {
            return Err(Wrong::Unsupported);
        }
        let from = self.bytes();
        let mut bytes =
            vec![0; from.len() / self.dtype.layout().block_bytes as usize * to.layout().block_bytes as usize];
        cast::cast_serial(&from, self.dtype, &mut bytes, to).unwrap();
        Ok(Tensor::new(0, to, &self.shape, &bytes))
    }
}

fn concat(parts: &[&Tensor], dim: usize) -> Result<Tensor, Wrong> {
    let like = parts[0];
    if dim >= like.shape.len() {
        return Err(Wrong::Shape);
    }
    let mut shape = like.shape.clone();
    shape[dim] = 0;
    for part in parts {
        if part.dtype != like.dtype {
            return Err(Wrong::Unsupported);
        }
        if part.shape.len() != shape.len() || (0..shape.len()).any(|i| i != dim && part.shape[i] != shape[i])
        {
            return Err(Wrong::Shape);
        }
        shape[dim] += part.shape[dim];
    }
    let count: usize = shape.iter().product();
    let element = |number: usize| {
        let mut index = index_of(number, &shape);
        let mut part = parts.iter();
        let mut tensor = part.next().unwrap();
        while index[dim] >= tensor.shape[dim] {
            index[dim] -= tensor.shape[dim];
            tensor = part.next().unwrap();
        }
        let at = index.iter().zip(&tensor.shape).fold(0, |at, (i, extent)| at * extent + i);
        tensor.elements[at].clone()
    };
    Ok(Tensor { dtype: like.dtype, elements: (0..count).map(element).collect(), shape })
}

fn index_of(number: usize, shape: &[usize]) -> Vec<usize> {
    let mut left = number;
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|extent| {
            let i = left % extent;
            left /= extent;
            i
        })
        .collect();
    index.reverse();
    index
}

/// Applies a rule whose names are all exact.
pub(crate) fn apply(state: &State, rule: &Rule) -> Result<State, Wrong> {
    let exact = |names: &vram_diskmap::Names| match names {
        vram_diskmap::Names::Exact(name) => name.clone(),
        other => panic!("the model knows exact names alone, not {other:?}"),
    };
    let get = |name: &str| state.get(name).ok_or(Wrong::NotFound);
    let (mut taken, mut made): (Vec<String>, Vec<(String, Tensor)>) = (Vec::new(), Vec::new());
    match rule {
        Rule::Rename { tensors, to } => {
            let name = exact(tensors);
            made.push((to.clone(), get(&name)?.clone()));
            taken.push(name);
        }
        Rule::RenameMap(names) => {
            for (from, to) in names {
                made.push((to.clone(), get(from)?.clone()));
                taken.push(from.clone());
            }
        }
        Rule::Copy { tensors, to } => made.push((to.clone(), get(&exact(tensors))?.clone())),
        Rule::Drop { tensors } => {
            get(&exact(tensors))?;
            taken.push(exact(tensors));
        }
        Rule::Keep { tensors } => {
            get(&exact(tensors))?;
            taken.extend(state.keys().filter(|name| **name != exact(tensors)).cloned());
        }
        Rule::Split { tensors, dim, into, sizes } => {
            let name = exact(tensors);
            let tensor = get(&name)?;
            let extent = *tensor.shape.get(*dim).ok_or(Wrong::Shape)?;
            let sizes = sizes.clone().unwrap_or_else(|| vec![extent / into.len(); into.len()]);
            if sizes.len() != into.len() || sizes.iter().sum::<usize>() != extent {
                return Err(Wrong::Shape);
            }
            let mut start = 0;
            for (to, size) in into.iter().zip(sizes) {
                made.push((to.clone(), tensor.slice(*dim, start, start + size)?));
                start += size;
            }
            taken.push(name);
        }
        Rule::Concat { dim, parts, into, .. } => {
            let tensors = parts.iter().map(|part| get(part)).collect::<Result<Vec<_>, _>>()?;
            made.push((into.clone(), concat(&tensors, *dim)?));
            taken.extend(parts.iter().cloned());
        }
        Rule::Transpose { tensors, axes } => {
            let tensor = get(&exact(tensors))?;
            let reversed = (0..tensor.shape.len()).rev().collect();
            made.push((exact(tensors), tensor.transpose(&axes.clone().unwrap_or(reversed))?));
            taken.push(exact(tensors));
        }
        Rule::Reshape { tensors, shape } => {
            made.push((exact(tensors), get(&exact(tensors))?.reshape(shape)?));
            taken.push(exact(tensors));
        }
        Rule::Slice { tensors, dim, start, end } => {
            let tensor = get(&exact(tensors))?;
            let end = end.unwrap_or(*tensor.shape.get(*dim).ok_or(Wrong::Shape)?);
            made.push((exact(tensors), tensor.slice(*dim, *start, end)?));
            taken.push(exact(tensors));
        }
        Rule::Cast { tensors, dtype } => {
            made.push((exact(tensors), get(&exact(tensors))?.cast(*dtype)?));
            taken.push(exact(tensors));
        }
        other => panic!("the model does not know {other:?}"),
    }
    let mut state = state.clone();
    taken.iter().for_each(|name| drop(state.remove(name)));
    if made.iter().any(|(_, tensor)| !tensor.is_whole()) {
        return Err(Wrong::Unsupported);
    }
    for (name, tensor) in made {
        if state.insert(name, tensor).is_some() {
            return Err(Wrong::Duplicate);
        }
    }
    Ok(state)
}
