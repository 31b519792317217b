//! Rows for people: aligned, and safe to print.

/// Prints rows under a head, each column as wide as its widest cell.
#[expect(clippy::print_stdout, reason = "a hand tool's output")]
pub(super) fn print(head: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(title.chars().count())
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{:width$}", clean(cell), width = *width))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    println!("{}", line(&mut head.iter().copied()));
    for row in rows {
        println!("{}", line(&mut row.iter().map(String::as_str)));
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
#[expect(clippy::print_stdout, reason = "a hand tool's output")]
pub(crate) fn structured(value: &serde_json::Value, yaml: bool) -> anyhow::Result<()> {
    let text = if yaml { serde_saphyr::to_string(value)? } else { serde_json::to_string_pretty(value)? };
    println!("{}", text.trim_end());
    Ok(())
}

/// Prints a line.
#[expect(clippy::print_stdout, reason = "a hand tool's output")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
