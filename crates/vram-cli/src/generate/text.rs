//! Text as it comes, cut where a stop string begins.

/// Collects text, and gives out what no stop string can begin in.
#[derive(Debug, Default)]
pub(super) struct Text {
    all: String,
    /// Bytes that were given out.
    shown: usize,
}

impl Text {
    /// Adds text. Whether a stop string is complete: the text then ends before it.
    pub(super) fn push(&mut self, more: &str, stops: &[String]) -> bool {
        // A stop string may begin in what was there before.
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.all.len().saturating_sub(longest).max(self.shown);
        while !self.all.is_char_boundary(from) {
            from -= 1;
        }
        self.all.push_str(more);
        let found = stops.iter().filter_map(|stop| self.all[from..].find(stop.as_str())).min();
        if let Some(at) = found {
            self.all.truncate(from + at);
        }
        found.is_some()
    }

    /// What can be shown now and was not before; all of it at the end.
    pub(super) fn show(&mut self, stops: &[String], end: bool) -> &str {
        let mut until = self.all.len();
        if !end {
            let held = stops.iter().filter_map(|stop| {
                let starts = self.all[self.shown..].char_indices().map(|(at, _)| self.shown + at);
                starts.into_iter().find(|at| stop.starts_with(&self.all[*at..]))
            });
            until = held.min().unwrap_or(until);
        }
        let from = std::mem::replace(&mut self.shown, until);
        &self.all[from..until]
    }

    pub(super) fn into_string(self) -> String {
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_a_text_shows_the_same() {
        let stops = ["STOP".to_owned(), "é!".to_owned()];
        for (text, expected, stopped) in [
            ("one STO two", "one STO two", false),
            ("one STOP two", "one ", true),
            ("SSTOP", "S", true),
            ("caféx é!", "caféx ", true),
            ("STO", "STO", false),
            ("", "", false),
        ] {
            for every in 1..4 {
                let characters: Vec<char> = text.chars().collect();
                let (mut shown, mut collected, mut ended) = (String::new(), Text::default(), false);
                for piece in characters.chunks(every) {
                    ended = collected.push(&piece.iter().collect::<String>(), &stops);
                    shown.push_str(collected.show(&stops, false));
                    if ended {
                        break;
                    }
                }
                assert!(expected.starts_with(&shown));
                shown.push_str(collected.show(&stops, true));
                assert_eq!((shown.as_str(), ended), (expected, stopped), "{text} by {every}");
                assert_eq!(collected.into_string(), expected);
            }
        }
    }
}
