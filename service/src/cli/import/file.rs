//! The file of keys, read whole before anything is done.

use std::collections::BTreeMap;
use std::path::Path;

use csv::{Position, ReaderBuilder, StringRecord, Trim};
use grantsmith_core::purchase::PurchaseId;
use grantsmith_core::{AppId, LicenseKey};
use zeroize::Zeroizing;

use crate::config::Wrong;

/// The columns that count.
const COLUMNS: [&str; 4] = ["stripe_id", "license_key", "app_id", "email"];
/// The most mistakes that are told at once.
const MOST_TOLD: usize = 20;

/// One key and what it was sold for.
#[derive(Debug)]
pub(super) struct Row {
    /// Its line in the file.
    pub(super) line: u64,
    pub(super) stripe_id: String,
    pub(super) key: LicenseKey,
    pub(super) app_id: String,
    /// Empty if none is known.
    pub(super) email: String,
}

/// Reads a file. What is wrong with it is told by line, and never with a key.
pub(super) fn read(path: &Path) -> Result<Vec<Row>, Wrong> {
    let text = std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| Wrong(format!("cannot read '{}': {error}", path.display())))?;
    rows(&text).map_err(|mistakes| {
        let more = mistakes.len().saturating_sub(MOST_TOLD);
        let mut told: Vec<String> = mistakes.into_iter().take(MOST_TOLD).collect();
        if more > 0 {
            told.push(format!("and {more} more"));
        }
        Wrong(format!(
            "nothing was done, as '{}' is not as it should be: {}",
            path.display(),
            told.join("; ")
        ))
    })
}

/// Counts lines as an editor does. The reader says where it stood before a record: at blank lines, or within a line's end.
struct Lines<'t> {
    text: &'t [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line on which the record begins that the reader found from `position` on; records come in their order.
    fn of(&mut self, position: Option<&Position>) -> u64 {
        let from = position.and_then(|position| usize::try_from(position.byte()).ok()).unwrap_or(0);
        while let Some(byte) = self.text.get(self.at) {
            let ends = matches!(byte, b'\r' | b'\n');
            if self.at >= from && !ends {
                break;
            }
            self.at += 1;
            let halfway = *byte == b'\r' && self.text.get(self.at) == Some(&b'\n');
            self.line += u64::from(ends && !halfway);
        }
        self.line
    }
}

fn rows(text: &[u8]) -> Result<Vec<Row>, Vec<String>> {
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(text);
    let mut counted = Lines { text, at: 0, line: 1 };
    let head = reader.headers().map_err(|error| vec![unreadable(&error, counted.of(error.position()))])?;
    let head_line = counted.of(head.position());
    let places = places(head, head_line).map_err(|mistake| vec![mistake])?;
    let (mut rows, mut mistakes) = (Vec::new(), Vec::new());
    let mut lines: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for record in reader.into_records() {
        let row = match record {
            Ok(record) => row(&record, places, counted.of(record.position())),
            Err(error) => Err(unreadable(&error, counted.of(error.position()))),
        };
        match row {
            Err(mistake) => mistakes.push(mistake),
            Ok(row) => {
                let fingerprint = row.key.fingerprint().as_str().to_owned();
                match lines.get(&fingerprint) {
                    Some((line, id)) if *id != row.stripe_id => {
                        mistakes
                            .push(format!("line {}: the key of line {line} for another purchase", row.line));
                    }
                    // The same row again.
                    Some(_) => {}
                    None => {
                        lines.insert(fingerprint, (row.line, row.stripe_id.clone()));
                        rows.push(row);
                    }
                }
            }
        }
    }
    if mistakes.is_empty() { Ok(rows) } else { Err(mistakes) }
}

/// Where the columns stand.
fn places(head: &StringRecord, line: u64) -> Result<[usize; 4], String> {
    let mut places = [0; 4];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        let mut found =
            (0..head.len()).filter(|at| head.get(*at).is_some_and(|name| name.eq_ignore_ascii_case(column)));
        *place = match (found.next(), found.next()) {
            (Some(at), None) => at,
            (None, _) => {
                return Err(format!(
                    "line {line}: no column '{column}'; the first line is to be {}",
                    COLUMNS.join(",")
                ));
            }
            (Some(_), Some(_)) => return Err(format!("line {line}: two columns '{column}'")),
        };
    }
    Ok(places)
}

fn row(record: &StringRecord, places: [usize; 4], line: u64) -> Result<Row, String> {
    let [stripe_id, key, app_id, email] = places.map(|at| record.get(at).unwrap_or_default().to_owned());
    let sold =
        matches!(PurchaseId::parse(&stripe_id), Ok(PurchaseId::Session(_) | PurchaseId::Subscription(_)));
    if !sold {
        return Err(format!(
            "line {line}: stripe_id is to be the id of a session or subscription, cs_… or sub_…"
        ));
    }
    if key.is_empty() {
        return Err(format!("line {line}: license_key is missing"));
    }
    if AppId::parse(&app_id).is_none() {
        return Err(format!("line {line}: app_id is missing or no AuthForge app"));
    }
    if !email.is_empty() && email.parse::<lettre::Address>().is_err() {
        return Err(format!("line {line}: email is no address; leave it empty if none is known"));
    }
    Ok(Row { line, stripe_id, key: LicenseKey::new(key), app_id, email })
}

/// What the reader says, without what stands in the file.
fn unreadable(error: &csv::Error, line: u64) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("line {line}: {len} columns where the first line has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => format!("line {line}: not UTF-8"),
        _ => format!("line {line}: cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "stripe_id,license_key,app_id,email\n";

    #[test]
    fn columns_are_found_by_name() {
        let text = "\u{feff}note, email ,App_ID,license_key,stripe_id\n\"hers, paid\",j@example.com,app-1,KEY-1,cs_live_1\n,,app-1,KEY-2,sub_1\nagain,,app-1,KEY-2,sub_1\n";
        let rows = rows(text.as_bytes()).expect("rows");
        let told: Vec<_> = rows
            .iter()
            .map(|row| {
                (row.line, row.stripe_id.as_str(), row.key.expose(), row.app_id.as_str(), row.email.as_str())
            })
            .collect();
        assert_eq!(
            told,
            [(2, "cs_live_1", "KEY-1", "app-1", "j@example.com"), (3, "sub_1", "KEY-2", "app-1", "")]
        );
    }

    #[test]
    fn lines_are_those_of_an_editor() {
        let head = HEAD.trim_end();
        for (end, blank) in [("\n", ""), ("\r\n", ""), ("\r", ""), ("\n", "\n\n"), ("\r\n", "\r\n\r\n")] {
            let text = [head, "cs_1,A,app-1,", "\"cs_1\",B,\"app 2\",", "cs_1,C", "pi_1,D,app-1,", ""]
                .join(&format!("{end}{blank}"));
            let step = if blank.is_empty() { 1 } else { 3 };
            let mistakes = rows(text.as_bytes()).expect_err("three mistakes");
            let found: Vec<&str> = mistakes.iter().filter_map(|mistake| mistake.split(':').next()).collect();
            let lines = [2, 3, 4].map(|row| format!("line {}", 1 + row * step));
            assert_eq!(found, lines, "{text:?}");
        }
        let text = format!("\r\n{HEAD}cs_1,A,app-1,\r\n\r\n\"cs\r\n_1\",B,app-1,\r\npi_1,C,app-1,\r\n");
        let mistakes = rows(text.as_bytes()).expect_err("two mistakes");
        assert!(mistakes[0].starts_with("line 5:") && mistakes[1].starts_with("line 7:"), "{mistakes:?}");
    }

    #[test]
    fn every_mistake_is_told_by_line_and_without_keys() {
        let cases = [
            ("stripe_id,license_key,app_id\n", "line 1: no column 'email'"),
            ("stripe_id,license_key,app_id,email,EMAIL\n", "line 1: two columns 'email'"),
            (&format!("{HEAD}pi_1,SECRET,app-1,\n"), "line 2: stripe_id"),
            (&format!("{HEAD}cs_1,SECRET,app-1,\ncs_1,,app-1,\n"), "line 3: license_key"),
            (&format!("{HEAD}cs_1,SECRET,no app,\n"), "line 2: app_id"),
            (&format!("{HEAD}cs_1,SECRET,app-1,nobody\n"), "line 2: email"),
            (&format!("{HEAD}cs_1,SECRET\n"), "line 2: 2 columns where the first line has 4"),
            (&format!("{HEAD}cs_1,SECRET,app-1,\ncs_2,SECRET,app-1,\n"), "line 3: the key of line 2"),
        ];
        for (text, expected) in cases {
            let mistakes = rows(text.as_bytes()).expect_err(expected);
            assert!(mistakes.iter().any(|mistake| mistake.starts_with(expected)), "{mistakes:?}");
            assert!(!mistakes.join(" ").contains("SECRET"), "{mistakes:?}");
        }
        assert_eq!(rows("".as_bytes()).expect_err("no head").len(), 1);
    }
}
