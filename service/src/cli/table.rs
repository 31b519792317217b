//! Rows for people: aligned, and safe to print.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// The widest cell that another one may follow: what a stranger sent must not push the rest off the screen.
const WIDEST: usize = 120;

/// The result could not be printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct Error(#[from] io::Error);

/// How a command ends. Whoever reads its result may stop when they have seen enough, as `head` does.
pub(crate) fn ended(outcome: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    match outcome {
        Err(error) if error.downcast_ref().is_some_and(|Error(why)| why.kind() == ErrorKind::BrokenPipe) => {
            Ok(ExitCode::SUCCESS)
        }
        outcome => outcome,
    }
}

/// Prints rows under a head, each column as wide as its widest cell.
pub(super) fn print(head: &[&str], rows: &[Vec<String>]) -> Result<(), Error> {
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(title.chars().count()).min(WIDEST)
        })
        .collect();
    let last = head.len().saturating_sub(1);
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| match clean(cell) {
                cell if column == last => cell,
                cell => format!("{:width$}", clip(&cell), width = *width),
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    say(&line(&mut head.iter().copied()))?;
    rows.iter().try_for_each(|row| say(&line(&mut row.iter().map(String::as_str))))
}

/// A text that fits into a column.
fn clip(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(WIDEST) {
        None => text.into(),
        Some(_) => text.chars().take(WIDEST - 1).chain(['…']).collect::<String>().into(),
    }
}

/// What a buyer typed must not steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A time, in UTC and to the second.
pub(super) fn time(at: Option<prost_types::Timestamp>) -> String {
    let at = at.and_then(crate::grpc::convert::timestamp);
    at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// A text, or a dash.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Prints a value as JSON or YAML.
pub(crate) fn structured(value: &serde_json::Value, yaml: bool) -> anyhow::Result<()> {
    let text = if yaml { serde_saphyr::to_string(value)? } else { serde_json::to_string_pretty(value)? };
    Ok(say(text.trim_end())?)
}

/// Prints a line.
pub(crate) fn say(line: &str) -> Result<(), Error> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}
