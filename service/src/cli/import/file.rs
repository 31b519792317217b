//! The file of keys, read whole before anything is done.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use csv::{ReaderBuilder, StringRecord, Trim};
use grantsmith_core::purchase::PurchaseId;
use grantsmith_core::{AppId, LicenseKey};

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
    let file = std::fs::File::open(path)
        .map_err(|error| Wrong(format!("cannot read '{}': {error}", path.display())))?;
    rows(file).map_err(|mistakes| {
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

fn rows(source: impl Read) -> Result<Vec<Row>, Vec<String>> {
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(source);
    let head = reader.headers().map_err(|error| vec![unreadable(&error)])?.clone();
    let places = places(&head).map_err(|mistake| vec![mistake])?;
    let (mut rows, mut mistakes) = (Vec::new(), Vec::new());
    let mut lines: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for record in reader.into_records() {
        let row = record.map_err(|error| unreadable(&error)).and_then(|record| row(&record, places));
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
fn places(head: &StringRecord) -> Result<[usize; 4], String> {
    let mut places = [0; 4];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        let mut found =
            (0..head.len()).filter(|at| head.get(*at).is_some_and(|name| name.eq_ignore_ascii_case(column)));
        *place = match (found.next(), found.next()) {
            (Some(at), None) => at,
            (None, _) => {
                return Err(format!(
                    "line 1: no column '{column}'; the first line is to be {}",
                    COLUMNS.join(",")
                ));
            }
            (Some(_), Some(_)) => return Err(format!("line 1: two columns '{column}'")),
        };
    }
    Ok(places)
}

fn row(record: &StringRecord, places: [usize; 4]) -> Result<Row, String> {
    let line = record.position().map_or(0, csv::Position::line);
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
fn unreadable(error: &csv::Error) -> String {
    let line = error.position().map_or(1, csv::Position::line);
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
