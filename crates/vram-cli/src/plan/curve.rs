//! The time of a pass over the budget, which shows what more memory would buy.

use anyhow::Result;
use serde::Serialize;
use vram_stream::layers::Plan;

use super::Problem;
use crate::engine::explain;

/// How many budgets are planned, from the smallest to the one under which everything is resident.
pub(super) const POINTS: u64 = 24;

/// A point that takes this many times as long as the next one is not drawn at its full height.
const STEEP: f64 = 2.5;

/// Rows of the plot on the terminal, and columns per budget.
const ROWS: usize = 8;
const WIDTH: usize = 2;

/// What marks the budget below the plot, and one that is beyond its end.
pub(super) const MARK: char = '▲';
pub(super) const BEYOND: char = '▶';

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Point {
    pub(super) budget_bytes: u64,
    pub(super) pass_seconds: f64,
    pub(super) bound_seconds: f64,
}

impl Point {
    fn of(plan: &Plan) -> Point {
        Point {
            budget_bytes: plan.budget_bytes,
            pass_seconds: plan.pass_seconds,
            bound_seconds: plan.bound_seconds,
        }
    }
}

/// Plans for budgets at equal distances.
pub(super) fn curve(problem: &Problem<'_>, chosen: &Plan) -> Result<Vec<Point>> {
    let minimum = chosen.smallest_budget_bytes;
    let everything = problem.plan(u64::MAX).map_err(explain)?.peak_bytes.max(minimum);
    let plan = |budget| -> Result<Point> {
        if budget == chosen.budget_bytes {
            return Ok(Point::of(chosen));
        }
        Ok(Point::of(&problem.plan(budget).map_err(explain)?))
    };
    budgets(minimum, everything).into_iter().map(plan).collect()
}

fn budgets(minimum: u64, everything: u64) -> Vec<u64> {
    let span = u128::from(everything - minimum);
    let budget = |i: u64| minimum + (span * u128::from(i) / u128::from(POINTS - 1)) as u64;
    let mut budgets: Vec<u64> = (0..POINTS).map(budget).collect();
    budgets.dedup();
    budgets
}

/// The first budget above `budget` whose pass takes at least a twentieth less than `seconds`.
pub(super) fn worth(curve: &[Point], budget: u64, seconds: f64) -> Option<&Point> {
    curve.iter().find(|p| p.budget_bytes > budget && p.pass_seconds < 0.95 * seconds)
}

/// The curve in block characters, one line per row from the top. The last line marks the budget.
pub(super) fn blocks(curve: &[Point], budget: u64) -> Vec<String> {
    const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let top = top(curve);
    // In eighths of a row, at least one, because no pass takes no time. An arrow marks values
    // above the top.
    let heights: Vec<usize> =
        curve.iter().map(|p| ((p.pass_seconds / top * (8 * ROWS) as f64).round() as usize).max(1)).collect();
    let mut lines: Vec<String> = (0..ROWS)
        .rev()
        .map(|row| {
            let cell = |height: &usize| match height.saturating_sub(8 * row) {
                beyond if row + 1 == ROWS && beyond > 8 => '↑',
                eighths => EIGHTHS[eighths.min(8)],
            };
            heights.iter().flat_map(|h| std::iter::repeat_n(cell(h), WIDTH)).collect()
        })
        .collect();
    let mark = mark(curve, budget, curve.len() * WIDTH - 1);
    lines.push(mark.map_or(String::new(), |(column, mark)| format!("{}{mark}", " ".repeat(column))));
    lines
}

/// The time at the top of the plot. The smallest budgets can take many times as long as all
/// others; the plot cuts these off.
pub(super) fn top(curve: &[Point]) -> f64 {
    let steep = curve.windows(2).take_while(|w| w[0].pass_seconds > STEEP * w[1].pass_seconds).count();
    curve.iter().skip(steep).map(|p| p.pass_seconds).fold(f64::MIN_POSITIVE, f64::max)
}

/// The column of a budget, from 0 to `last`, and its mark; `None` if it is too small to plan.
fn mark(curve: &[Point], budget: u64, last: usize) -> Option<(usize, char)> {
    let (from, to) = (curve.first()?.budget_bytes, curve.last()?.budget_bytes);
    if budget < from {
        return None;
    }
    if budget > to {
        return Some((last, BEYOND));
    }
    let span = (to - from).max(1) as f64;
    Some((((budget - from) as f64 / span * last as f64).round() as usize, MARK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(seconds: &[f64]) -> Vec<Point> {
        let point = |(i, s): (usize, &f64)| Point {
            budget_bytes: 100 * (i as u64 + 1),
            pass_seconds: *s,
            bound_seconds: *s,
        };
        seconds.iter().enumerate().map(point).collect()
    }

    #[test]
    fn budgets_go_from_the_smallest_to_everything() {
        let all = budgets(10, 10 + 23 * 7);
        assert_eq!((all.len(), all[0], all[1], all[23]), (24, 10, 17, 171));
        assert_eq!(budgets(5, 5), [5]);
        assert_eq!(budgets(5, 7), [5, 6, 7]);
        assert_eq!(budgets(0, u64::MAX)[23], u64::MAX);
    }

    #[test]
    fn blocks_are_as_high_as_passes_are_long() {
        let lines = blocks(&points(&[8.0, 4.0, 0.5, 0.01]), 300);
        assert_eq!(lines.len(), ROWS + 1);
        assert_eq!(lines[0], "██      ");
        assert_eq!(lines[ROWS / 2], "████    ");
        assert_eq!(lines[ROWS - 1], "████▄▄▁▁");
        assert_eq!(lines[ROWS], "     ▲");
        let steep = blocks(&points(&[100.0, 8.0, 4.0]), 100);
        assert_eq!((&*steep[0], &*steep[1], &*steep[ROWS - 1]), ("↑↑██  ", "████  ", "██████"));
        assert_eq!(blocks(&points(&[1.0]), 1000)[ROWS], " ▶", "a budget beyond the curve");
        assert_eq!(blocks(&points(&[1.0]), 10)[ROWS], "", "a budget that cannot be planned");
    }

    #[test]
    fn a_little_more_memory_has_to_buy_something() {
        let curve = points(&[1.0, 0.99, 0.9, 0.5]);
        assert_eq!(worth(&curve, 100, 1.0).map(|p| p.budget_bytes), Some(300));
        assert_eq!(worth(&curve, 300, 0.9).map(|p| p.budget_bytes), Some(400));
        assert_eq!(worth(&curve, 400, 0.5), None);
    }
}
