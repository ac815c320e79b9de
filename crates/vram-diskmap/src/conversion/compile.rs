//! Rules, applied one after the other to the names of a checkpoint. Nothing is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::error::{ConversionError, ConversionErrorKind};
use super::expr::{self, Expr};
use super::pattern::{Match, Pattern, Template};
use super::rule::{Names, Rule};
use super::rules::{Action, Conversion, NewName};
use crate::fault::quoted;

/// Most tensors that rules may make.
const MOST_TENSORS: usize = 1 << 20;

/// All tensors at one moment, by name.
pub(super) type State = BTreeMap<String, Arc<Expr>>;

/// Says why a tensor is not there, or that it is not.
pub(super) type Missing<'a> = dyn Fn(&str) -> ConversionError + 'a;

/// What a rule does: it sees the state before it, and all of this happens at once.
#[derive(Default)]
struct Change {
    taken: BTreeSet<String>,
    /// The new name, whose it was, and what it is.
    made: Vec<(String, String, Arc<Expr>)>,
}

/// Applies all rules.
pub(super) fn compile(
    conversion: &Conversion,
    mut state: State,
    missing: &Missing<'_>,
) -> Result<State, ConversionError> {
    for (number, step) in conversion.steps.iter().enumerate() {
        let failed = |e: ConversionError| {
            e.at_rule(number + 1, step.action.name()).at_line(step.line).at_path(conversion.path.as_deref())
        };
        let change = match &step.action {
            Action::Rule(rule) => Tensors { state: &state, missing }.change(rule),
            Action::Function(function) => Ok(renamed_by(&state, &**function)),
        };
        change.and_then(|change| change.apply(&mut state)).map_err(failed)?;
    }
    Ok(state)
}

impl Change {
    fn apply(self, state: &mut State) -> Result<(), ConversionError> {
        for name in &self.taken {
            state.remove(name);
        }
        let mut origins: BTreeMap<String, String> = BTreeMap::new();
        for (name, from, expr) in self.made {
            if state.insert(name.clone(), expr).is_some() {
                let message = match origins.get(&name) {
                    Some(other) => format!("both {} and {} would be called so", quoted(other), quoted(&from)),
                    None => format!("{} would be called so, and there is such a tensor", quoted(&from)),
                };
                return Err(ConversionError::new(ConversionErrorKind::Duplicate, message).of(&name));
            }
            origins.insert(name, from);
        }
        if state.len() > MOST_TENSORS {
            let message = format!("{} tensors; {MOST_TENSORS} are the most", state.len());
            return Err(ConversionError::new(ConversionErrorKind::Unsupported, message));
        }
        Ok(())
    }

    fn take(&mut self, name: &str) {
        self.taken.insert(name.to_owned());
    }

    fn make(&mut self, name: String, from: &str, expr: Arc<Expr>) {
        self.made.push((name, from.to_owned(), expr));
    }
}

fn renamed_by(state: &State, function: &NewName) -> Change {
    let mut change = Change::default();
    for (name, expr) in state {
        change.take(name);
        if let Some(new) = function(name) {
            change.make(new, name, Arc::clone(expr));
        }
    }
    change
}

/// A tensor that a pattern is for: its name, what it is, and where the name matched.
type Found<'a> = (&'a str, &'a Arc<Expr>, Match);

/// The tensors that a rule sees.
struct Tensors<'a> {
    state: &'a State,
    missing: &'a Missing<'a>,
}

impl<'a> Tensors<'a> {
    fn change(&self, rule: &Rule) -> Result<Change, ConversionError> {
        match rule {
            Rule::Rename { tensors, to } => self.renamed(tensors, to, true),
            Rule::Copy { tensors, to } => self.renamed(tensors, to, false),
            Rule::RenameMap(names) => self.renamed_one_by_one(names),
            Rule::Drop { tensors } => self.dropped(tensors),
            Rule::Keep { tensors } => self.kept(tensors),
            Rule::Split { tensors, dim, into, sizes } => self.split(tensors, *dim, into, sizes.as_deref()),
            Rule::Concat { tensors, dim, parts, into } => self.put_together(tensors, *dim, parts, into),
            Rule::Transpose { tensors, axes } => self.each(tensors, |_, expr| {
                let reversed = || (0..expr.shape().len()).rev().collect();
                expr::transpose(expr, &axes.clone().unwrap_or_else(reversed))
            }),
            Rule::Reshape { tensors, shape } => self.each(tensors, |_, expr| expr::reshape(expr, shape)),
            Rule::Slice { tensors, dim, start, end } => self.each(tensors, |_, expr| {
                let end = end.or(expr.shape().get(*dim).copied()).unwrap_or(*start);
                expr::slice(expr, *dim, *start..end)
            }),
            Rule::Cast { tensors, dtype } => {
                let pattern = Pattern::new(tensors)?;
                let found = self.matching(&pattern)?;
                let casts = |expr: &Expr| pattern.is_list() || expr.meta.dtype().is_float();
                if !found.iter().any(|(_, expr, _)| casts(expr)) {
                    let message = "none of the tensors that match is of a floating-point dtype";
                    return Err(ConversionError::new(ConversionErrorKind::NotFound, message));
                }
                self.each(tensors, |_, expr| match casts(expr) {
                    true => expr::cast(expr, *dtype),
                    false => Ok(Arc::clone(expr)),
                })
            }
        }
    }

    /// All tensors of a pattern; at least one, and every one that it names.
    fn matching(&self, pattern: &Pattern<'_>) -> Result<Vec<Found<'a>>, ConversionError> {
        if let Some(absent) = pattern.named().into_iter().find(|name| !self.state.contains_key(*name)) {
            return Err((self.missing)(absent));
        }
        let found_at =
            |(name, expr): (&'a String, &'a Arc<Expr>)| Some((name.as_str(), expr, pattern.find(name)?));
        let found: Vec<Found<'a>> = match pattern.is_list() {
            true => {
                let names: BTreeSet<&str> = pattern.named().into_iter().collect();
                names
                    .into_iter()
                    .filter_map(|name| self.state.get_key_value(name))
                    .filter_map(found_at)
                    .collect()
            }
            false => self.state.iter().filter_map(found_at).collect(),
        };
        if found.is_empty() {
            return Err(ConversionError::new(ConversionErrorKind::NotFound, pattern.describe()));
        }
        Ok(found)
    }

    fn get(&self, name: &str) -> Result<&'a Arc<Expr>, ConversionError> {
        self.state.get(name).ok_or_else(|| (self.missing)(name))
    }

    /// Tensors that keep their names.
    fn each(
        &self,
        tensors: &Names,
        mut new: impl FnMut(&str, &Arc<Expr>) -> Result<Arc<Expr>, ConversionError>,
    ) -> Result<Change, ConversionError> {
        let mut change = Change::default();
        for (name, expr, _) in self.matching(&Pattern::new(tensors)?)? {
            change.take(name);
            change.make(name.to_owned(), name, new(name, expr).map_err(|e| e.of(name))?);
        }
        Ok(change)
    }

    fn renamed(&self, tensors: &Names, to: &str, take: bool) -> Result<Change, ConversionError> {
        let pattern = Pattern::new(tensors)?;
        let to = Template::new(to, &pattern)?;
        let mut change = Change::default();
        for (name, expr, found) in self.matching(&pattern)? {
            if take {
                change.take(name);
            }
            change.make(to.expand(name, &found), name, Arc::clone(expr));
        }
        Ok(change)
    }

    fn renamed_one_by_one(&self, names: &BTreeMap<String, String>) -> Result<Change, ConversionError> {
        if names.is_empty() {
            return Err(ConversionError::new(ConversionErrorKind::Invalid, "it renames no tensor"));
        }
        let mut change = Change::default();
        for (from, to) in names {
            let expr = self.get(from)?;
            change.take(from);
            change.make(to.clone(), from, Arc::clone(expr));
        }
        Ok(change)
    }

    fn dropped(&self, tensors: &Names) -> Result<Change, ConversionError> {
        let mut change = Change::default();
        for (name, ..) in self.matching(&Pattern::new(tensors)?)? {
            change.take(name);
        }
        Ok(change)
    }

    fn kept(&self, tensors: &Names) -> Result<Change, ConversionError> {
        let found = self.matching(&Pattern::new(tensors)?)?;
        let kept: BTreeSet<&str> = found.iter().map(|(name, ..)| *name).collect();
        let mut change = Change::default();
        self.state.keys().filter(|name| !kept.contains(name.as_str())).for_each(|name| change.take(name));
        Ok(change)
    }

    fn split(
        &self,
        tensors: &Names,
        dim: usize,
        into: &[String],
        sizes: Option<&[usize]>,
    ) -> Result<Change, ConversionError> {
        let pattern = Pattern::new(tensors)?;
        let names = into.iter().map(|to| Template::new(to, &pattern)).collect::<Result<Vec<_>, _>>()?;
        let mut change = Change::default();
        for (name, expr, found) in self.matching(&pattern)? {
            let sizes = widths(expr, dim, into.len(), sizes).map_err(|e| e.of(name))?;
            change.take(name);
            let mut start = 0;
            for (to, size) in names.iter().zip(sizes) {
                let part = expr::slice(expr, dim, start..start + size).map_err(|e| e.of(name))?;
                change.make(to.expand(name, &found), name, part);
                start += size;
            }
        }
        Ok(change)
    }

    fn put_together(
        &self,
        tensors: &Names,
        dim: usize,
        parts: &[String],
        into: &str,
    ) -> Result<Change, ConversionError> {
        let pattern = Pattern::new(tensors)?;
        let parts = parts.iter().map(|part| Template::new(part, &pattern)).collect::<Result<Vec<_>, _>>()?;
        let into = Template::new(into, &pattern)?;
        let mut change = Change::default();
        for (name, _, found) in self.matching(&pattern)? {
            let names: Vec<String> = parts.iter().map(|part| part.expand(name, &found)).collect();
            if !names.iter().any(|part| part == name) {
                let message = format!("the pattern matches it, and the parts are others: {names:?}");
                return Err(ConversionError::new(ConversionErrorKind::Invalid, message).of(name));
            }
            let exprs = names.iter().map(|part| self.get(part).cloned()).collect::<Result<Vec<_>, _>>()?;
            let new = into.expand(name, &found);
            let whole = expr::concat(&exprs, dim).map_err(|e| e.of(&new))?;
            names.iter().for_each(|part| change.take(part));
            change.make(new, name, whole);
        }
        Ok(change)
    }
}

/// How wide the parts of a split are: as asked for, or equal.
fn widths(
    expr: &Expr,
    dim: usize,
    count: usize,
    sizes: Option<&[usize]>,
) -> Result<Vec<usize>, ConversionError> {
    let wrong = |message| ConversionError::new(ConversionErrorKind::Shape, message);
    let Some(&extent) = expr.shape().get(dim) else {
        return Err(wrong(format!("there is no extent {dim} in the shape {}", expr.meta.shape())));
    };
    let Some(sizes) = sizes else {
        let equal = extent.checked_div(count).filter(|part| part * count == extent);
        let part = equal
            .ok_or_else(|| wrong(format!("extent {dim}, which is {extent}, has no {count} equal parts")))?;
        return Ok(vec![part; count]);
    };
    if sizes.len() != count {
        return Err(wrong(format!("{} sizes for {count} parts", sizes.len())));
    }
    let sum = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
    if sum != Some(extent) {
        let sizes = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" + ");
        return Err(wrong(format!("{sizes} are not the {extent} of extent {dim}")));
    }
    Ok(sizes.to_vec())
}
