//! What benchmarks count and print.

use std::fs;
use std::time::Duration;

use hdrhistogram::Histogram;

/// The kernel counts in these.
const TICKS_A_SECOND: f64 = 100.0;

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_default()
}

/// Processor seconds of a process: `utime` and `stime`.
pub fn processor_seconds(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().skip(11).take(2).map(number).sum::<f64>() / TICKS_A_SECOND
}

/// Resident memory of a process, in MiB.
pub fn resident(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    number(line.split_whitespace().next().unwrap_or_default()) / 1024.0
}

/// The middle of some values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        Some(value) if values.len() % 2 == 1 => *value,
        Some(value) => f64::midpoint(*value, values[middle - 1]),
        None => f64::NAN,
    }
}

/// Columns below each other, the first to the left and the others to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|&cell| cell.to_owned()).collect()];
    lines.extend(rows.iter().cloned());
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..head.len()).filter_map(width).collect();
    let mut text = String::new();
    for line in &lines {
        text.push_str("   ");
        for (place, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let cell = if place == 0 { format!(" {cell:<width$}") } else { format!("  {cell:>width$}") };
            text.push_str(&cell);
        }
        text.push('\n');
    }
    text
}

/// A number with few digits.
pub fn short(number: f64) -> String {
    match number {
        _ if number.is_nan() => "-".to_owned(),
        _ if number >= 100.0 => format!("{number:.0}"),
        _ if number >= 10.0 => format!("{number:.1}"),
        _ if number >= 1.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

/// A share of the machine.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Times in microseconds.
pub fn histogram(times: impl IntoIterator<Item = Duration>) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("three digits");
    for time in times {
        histogram.record(u64::try_from(time.as_micros()).expect("no ages")).expect("it grows as needed");
    }
    histogram
}

/// A percentile of such times in milliseconds.
pub fn milliseconds(histogram: &Histogram<u64>, percent: f64) -> f64 {
    let micros = histogram.value_at_quantile(percent / 100.0);
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1_000.0
}

/// The same, to be printed.
pub fn percentile(histogram: &Histogram<u64>, percent: f64) -> String {
    short(milliseconds(histogram, percent))
}
