//! What is printed: medians, ratios, and whether the goals are met.

use crate::load::Round;
use crate::machine::CALM;

/// The rounds of one side.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) rounds: Vec<Round>,
}

impl Series {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), rounds: Vec::new() }
    }

    /// The median over the rounds.
    pub(crate) fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of).collect())
    }

    /// The most that other work used of the machine in any of the rounds.
    pub(crate) fn other(&self) -> f64 {
        self.rounds.iter().map(|round| round.spent.other).fold(0.0, f64::max)
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        Some(value) if values.len() % 2 == 1 => *value,
        Some(value) => f64::midpoint(*value, values[middle - 1]),
        None => f64::NAN,
    }
}

/// How many times better ours is than theirs, and how many times is the goal.
#[derive(Debug)]
pub(crate) struct Ratio {
    pub(crate) what: &'static str,
    pub(crate) times: f64,
    pub(crate) goal: Option<f64>,
}

impl Ratio {
    /// More is better.
    pub(crate) fn more(what: &'static str, ours: f64, theirs: f64, goal: Option<f64>) -> Self {
        Self { what, times: ours / theirs, goal }
    }

    /// Less is better.
    pub(crate) fn less(what: &'static str, ours: f64, theirs: f64, goal: Option<f64>) -> Self {
        Self { what, times: theirs / ours, goal }
    }

    fn words(&self) -> String {
        let Self { what, times, goal } = self;
        match goal {
            Some(goal) if times >= goal => format!("{what} {times:.1} times (goal {goal:.0}: met)"),
            Some(goal) => format!("{what} {times:.1} times (goal {goal:.0}: NOT MET)"),
            None => format!("{what} {times:.1} times"),
        }
    }
}

/// One line of ratios, unless other work ran meanwhile.
pub(crate) fn ratios(ours: &Series, theirs: &Series, ratios: &[Ratio]) -> String {
    let other = ours.other().max(theirs.other());
    let verdict = if other > CALM {
        format!("not printed: other work used {:.0} % of the machine", other * 100.0)
    } else {
        ratios.iter().map(Ratio::words).collect::<Vec<_>>().join(", ")
    };
    format!("    {} over {}: {verdict}", ours.name, theirs.name)
}

/// Columns below each other, the first to the left and the others to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
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
pub(crate) fn short(number: f64) -> String {
    match number {
        _ if number.is_nan() => "-".to_owned(),
        _ if number >= 100.0 => format!("{number:.0}"),
        _ if number >= 10.0 => format!("{number:.1}"),
        _ if number >= 1.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

/// A share of the machine.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
