//! `docs/operations.md`: which operations each backend can run, as the backends themselves answer.
//!
//! Each backend's tests compare its own column. `VRAM_RECORD=1` writes it anew.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use vram_device::{Kernels, conformance};

const COLUMNS: [&str; 3] = ["cpu", "wgpu", "cuda"];

const HEAD: &str = "# What each backend can run

The backends' tests compare this table with what the backends answer, and `VRAM_RECORD=1 cargo test -p
vram-device` writes it. A backend refuses an operation that it has no kernel for by name and with the
reason below, before anything runs. `sim` runs whatever the CPU runs.
";

/// Rows of the table: an operation with its variant, and what each column says.
type Rows = BTreeMap<(String, String), BTreeMap<String, String>>;

/// Compares a backend's column, or writes it.
pub(crate) fn check(column: &str, device: &dyn Kernels) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let support = conformance::support(device).unwrap();
    let answer = |result: &Result<(), String>| match result {
        Ok(()) => "yes".to_owned(),
        Err(why) => why.replace('|', "/"),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        // Only the repository has the page.
        Err(_) if std::env::var_os("VRAM_RECORD").is_none() => {
            return println!("skipped: {} is not here", path.display());
        }
        Err(_) => String::new(),
    };
    let known = parse(&text);
    if std::env::var_os("VRAM_RECORD").is_none() {
        let keys: Vec<_> = support.iter().map(|s| (s.operation.to_owned(), s.variant.to_owned())).collect();
        let extra: Vec<_> = known.keys().filter(|key| !keys.contains(key)).collect();
        assert!(extra.is_empty(), "docs/operations.md has rows that no suite has: {extra:?}");
        for (key, row) in keys.iter().zip(&support) {
            let said = known.get(key).and_then(|row| row.get(column));
            assert_eq!(said, Some(&answer(&row.result)), "docs/operations.md, {key:?} on {column}");
        }
        return;
    }
    let mut page = format!("{HEAD}\n| operation | use of it | cpu | wgpu | cuda |\n|---|---|---|---|---|\n");
    for row in &support {
        let key = (row.operation.to_owned(), row.variant.to_owned());
        let cell = |name: &str| match name == column {
            true => answer(&row.result),
            false => known.get(&key).and_then(|row| row.get(name)).cloned().unwrap_or_default(),
        };
        let cells = COLUMNS.map(cell).join(" | ");
        let _ = writeln!(page, "| `{}` | {} | {cells} |", row.operation, row.variant);
    }
    page += "\n## What they compute\n\n";
    let mut last = "";
    for row in support.iter().filter(|row| std::mem::replace(&mut last, row.operation) != row.operation) {
        let _ = writeln!(page, "- `{}`: {}", row.operation, wrapped(&row.formula));
    }
    std::fs::write(&path, page).unwrap();
}

fn parse(text: &str) -> Rows {
    let mut rows = Rows::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [operation, variant, answers @ ..] = &*cells {
            let columns =
                COLUMNS.iter().zip(answers).map(|(name, cell)| ((*name).to_owned(), (*cell).to_owned()));
            let key = (operation.trim_matches('`').to_owned(), (*variant).to_owned());
            rows.insert(key, columns.collect());
        }
    }
    rows
}

/// In lines that end before the hundredth column.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut column = 20;
    for word in text.split_whitespace() {
        if column + word.len() >= 98 {
            out += "\n  ";
            column = 2;
        } else if !out.is_empty() {
            out.push(' ');
        }
        out += word;
        column += word.len() + 1;
    }
    out
}
