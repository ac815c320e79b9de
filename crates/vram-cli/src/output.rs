//! What goes to stdout.

use std::io::{self, Write};

use serde::Serialize;

/// Prints a document as JSON, on lines of its own.
pub(crate) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    // Unwrapped from serde's error, so that a closed pipe is seen as one.
    serde_json::to_writer_pretty(&mut out, document).map_err(io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

/// Prints rows in columns: the first flush left, the columns in `right` flush right.
pub(crate) fn columns<const N: usize>(
    out: &mut impl Write,
    rows: &[[String; N]],
    right: [bool; N],
) -> io::Result<()> {
    let widths: [usize; N] =
        std::array::from_fn(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0));
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let blanks = " ".repeat(widths[c] - cell.chars().count());
            let gap = if c > 0 { "  " } else { "" };
            line.push_str(gap);
            if right[c] {
                line.push_str(&blanks);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.push_str(&blanks);
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
