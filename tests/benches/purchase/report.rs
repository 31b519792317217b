//! What is printed: medians, ratios, and whether the goals are met.

use grantsmith_tests::measure::median;

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
