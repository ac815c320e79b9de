//! Draws the curve as SVG.

use std::fmt::Write;

use vram_types::ByteSize;

use super::curve::{Point, top};
use super::document::Document;
use crate::output::seconds;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// The frame of the plot: left, top, right, bottom.
const FRAME: [f64; 4] = [84.0, 88.0, 696.0, 356.0];
/// Fonts by name for programs that do not know the generic one, which comes last.
const FONTS: &str = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif";

/// Draws the time of a pass over the budget, the bound below it, and the chosen budget.
pub(super) fn draw(document: &Document) -> String {
    let mut text = head(document);
    let axes = Axes::of(&document.curve);
    axes.grid(&mut text);
    let curve = &document.curve;
    let bound = axes.path(curve.iter().map(|p| (p.budget_bytes, p.bound_seconds)));
    let pass = axes.path(curve.iter().map(|p| (p.budget_bytes, p.pass_seconds)));
    line(&mut text, &format!("<path d=\"{pass}\" class=\"pass\" clip-path=\"url(#frame)\"/>"));
    // Above the other, which shows through its gaps where both are the same.
    line(&mut text, &format!("<path d=\"{bound}\" class=\"bound\" clip-path=\"url(#frame)\"/>"));
    for p in curve {
        let (x, y) = axes.at(p.budget_bytes, p.pass_seconds);
        if p.pass_seconds > axes.seconds {
            beyond(&mut text, x, p.pass_seconds);
            continue;
        }
        line(&mut text, &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" class=\"dot\"/>"));
    }
    axes.chosen(&mut text, document);
    legend(&mut text);
    text.push_str("</svg>\n");
    text
}

/// Labels a point above the frame with its value.
fn beyond(text: &mut String, x: f64, pass: f64) {
    let y = FRAME[1] - 6.0;
    line(text, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"dot\">↑ {}</text>", seconds(pass)));
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn head(d: &Document) -> String {
    let [left, ..] = FRAME;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"{FONTS}\" font-size=\"12\" fill=\"#222\">\n\
         <style>.grid{{stroke:#ddd}}.axis{{stroke:#222}}.pass{{fill:none;stroke:#1f5fa8;stroke-width:2}}\
         .bound{{fill:none;stroke:#f2a33a;stroke-width:2;stroke-dasharray:5 7}}.dot{{fill:#1f5fa8}}\
         .chosen{{stroke:#c0392b;stroke-dasharray:6 3}}.mark{{fill:#c0392b}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    let [_, top, right, bottom] = FRAME;
    let frame = format!("x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\"", right - left, bottom - top);
    line(&mut text, &format!("<clipPath id=\"frame\"><rect {frame}/></clipPath>"));
    let title = "Time of a pass over the device budget";
    line(&mut text, &format!("<text x=\"{left}\" y=\"24\" font-size=\"16\">{title}</text>"));
    let size = ByteSize(d.weights_bytes);
    let model = format!("{}, {size} of weights, {}, {} tokens", d.model, d.dtype, d.tokens);
    for (y, under) in [(44, &model), (60, &d.machine)] {
        let under = escape(&shorten(under));
        line(&mut text, &format!("<text x=\"{left}\" y=\"{y}\" fill=\"#555\">{under}</text>"));
    }
    text
}

/// Truncates a text to the width of the frame, at a word.
fn shorten(text: &str) -> String {
    const MOST: usize = 96;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let cut: String = text.chars().take(MOST - 1).collect();
    let end = cut.rfind(' ').unwrap_or(cut.len());
    format!("{}…", cut[..end].trim_end_matches(','))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The mapping of budgets and times to the frame. Both axes start at zero.
struct Axes {
    bytes: f64,
    seconds: f64,
}

impl Axes {
    fn of(curve: &[Point]) -> Axes {
        let bytes = curve.last().map_or(1, |p| p.budget_bytes.max(1)) as f64;
        Axes { bytes: bytes * 1.04, seconds: top(curve) * 1.06 }
    }

    fn at(&self, bytes: u64, seconds: f64) -> (f64, f64) {
        let [left, top, right, bottom] = FRAME;
        let x = left + (bytes as f64 / self.bytes).min(1.0) * (right - left);
        (x, bottom - seconds / self.seconds * (bottom - top))
    }

    fn path(&self, points: impl Iterator<Item = (u64, f64)>) -> String {
        let mut path = String::new();
        for (i, (bytes, seconds)) in points.enumerate() {
            let (x, y) = self.at(bytes, seconds);
            let command = if i == 0 { 'M' } else { 'L' };
            // Writing to a string does not fail.
            let _ = write!(path, "{command}{x:.1} {y:.1} ");
        }
        path.trim_end().to_owned()
    }

    fn grid(&self, text: &mut String) {
        let [left, top, right, bottom] = FRAME;
        let unit = binary_unit(self.bytes);
        for tick in ticks(self.bytes / unit.0) {
            let (x, _) = self.at((tick * unit.0) as u64, 0.0);
            line(text, &format!("<path d=\"M{x:.1} {top}V{bottom}\" class=\"grid\"/>"));
            let label = trimmed(tick);
            line(
                text,
                &format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 18.0),
            );
        }
        let (factor, name) = time_unit(self.seconds);
        for tick in ticks(self.seconds * factor) {
            let (_, y) = self.at(0, tick / factor);
            line(text, &format!("<path d=\"M{left} {y:.1}H{right}\" class=\"grid\"/>"));
            let label = trimmed(tick);
            line(
                text,
                &format!(
                    "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                    left - 8.0,
                    y + 4.0
                ),
            );
        }
        line(text, &format!("<path d=\"M{left} {top}V{bottom}H{right}\" class=\"axis\" fill=\"none\"/>"));
        let middle = (left + right) / 2.0;
        let below = bottom + 42.0;
        line(
            text,
            &format!(
                "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">device budget, {}</text>",
                unit.1
            ),
        );
        let middle = (top + bottom) / 2.0;
        let turned = format!("transform=\"rotate(-90 24 {middle})\"");
        line(
            text,
            &format!(
                "<text x=\"24\" y=\"{middle}\" text-anchor=\"middle\" {turned}>time of a pass, {name}</text>"
            ),
        );
    }

    fn chosen(&self, text: &mut String, d: &Document) {
        let [left, top, right, bottom] = FRAME;
        let (x, y) = self.at(d.budget_bytes, d.pass_seconds);
        line(text, &format!("<path d=\"M{x:.1} {top}V{bottom}\" class=\"chosen\"/>"));
        if d.pass_seconds <= self.seconds {
            line(text, &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" class=\"mark\"/>"));
        }
        let (anchor, beside) = if x > (left + right) / 2.0 { ("end", x - 10.0) } else { ("start", x + 10.0) };
        let beyond = if d.budget_bytes as f64 > self.bytes { " and more" } else { "" };
        let label = format!("{}{beyond}: {}", ByteSize(d.budget_bytes), seconds(d.pass_seconds));
        // Above the curve, which falls, and inside the frame.
        let above = (y - 12.0).clamp(top + 28.0, bottom);
        line(
            text,
            &format!(
                "<text x=\"{beside:.1}\" y=\"{above:.1}\" text-anchor=\"{anchor}\" class=\"mark\">{label}</text>"
            ),
        );
    }
}

fn legend(text: &mut String) {
    let [_, _, right, _] = FRAME;
    let y = HEIGHT - 10.0;
    let from = right - 270.0;
    line(text, &format!("<path d=\"M{from} {y}h24\" class=\"pass\"/>"));
    line(text, &format!("<text x=\"{}\" y=\"{}\">as planned</text>", from + 30.0, y + 4.0));
    line(text, &format!("<path d=\"M{} {y}h24\" class=\"bound\"/>", from + 120.0));
    line(text, &format!("<text x=\"{}\" y=\"{}\">bound</text>", from + 150.0, y + 4.0));
    line(text, &format!("<circle cx=\"{}\" cy=\"{y}\" r=\"5\" class=\"mark\"/>", from + 210.0));
    line(text, &format!("<text x=\"{}\" y=\"{}\">chosen</text>", from + 220.0, y + 4.0));
}

/// About five round numbers from 0 to `end`.
fn ticks(end: f64) -> Vec<f64> {
    let rough = (end / 5.0).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
    let count = (end / step * (1.0 + 1e-9)).floor() as usize;
    (0..=count).map(|i| i as f64 * step).collect()
}

/// A tick without trailing zeros.
fn trimmed(tick: f64) -> String {
    let text = format!("{tick:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn binary_unit(bytes: f64) -> (f64, &'static str) {
    let units = [(f64::from(1 << 30), "GiB"), (f64::from(1 << 20), "MiB"), (1024.0, "KiB")];
    units.into_iter().find(|(unit, _)| bytes >= *unit).unwrap_or((1.0, "bytes"))
}

fn time_unit(seconds: f64) -> (f64, &'static str) {
    let units = [(1.0, "s"), (1e3, "ms")];
    units.into_iter().find(|(factor, _)| seconds * factor >= 1.0).unwrap_or((1e6, "µs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_end_in_time() {
        assert_eq!(ticks(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(2.4), [0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(ticks(0.05).len(), 6);
        assert_eq!((trimmed(0.5), trimmed(10.0), trimmed(0.0)), ("0.5".into(), "10".into(), "0".into()));
    }

    #[test]
    fn units_are_those_that_people_read() {
        assert_eq!(binary_unit(3e9).1, "GiB");
        assert_eq!(binary_unit(3e4).1, "KiB");
        assert_eq!((time_unit(2.0).1, time_unit(0.2).1, time_unit(2e-5).1), ("s", "ms", "µs"));
        assert_eq!(escape("a<b & c"), "a&lt;b &amp; c");
    }
}
