//! The images and the chart, on a Kubernetes that runs pods.
//!
//! Not every machine may run one. libtest decides when it compiles which tests are ignored, so these have a harness of
//! their own, which says `ignored` and why.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

mod chart;
mod images;
mod shop;

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

use grantsmith_tests::node::{self, Node};
use libtest_mimic::{Arguments, Completion, Trial};

/// The one that all tests share.
static NODE: OnceLock<Node> = OnceLock::new();

fn trial<F: Future<Output = ()> + 'static>(name: &'static str, test: fn(&'static Node) -> F) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(reason) = node::unable() {
            return Ok(Completion::ignored_with(reason));
        }
        let start = Instant::now();
        let node = NODE.get_or_init(Node::start);
        node.run(|| test(node));
        eprintln!("after {:.1?}", start.elapsed());
        Ok(Completion::Completed)
    })
}

/// Named as libtest would name them.
macro_rules! trials {
    ($($module:ident::$test:ident,)*) => {
        vec![$(trial(concat!(stringify!($module), "::", stringify!($test)), $module::$test)),*]
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One after the other, in this order: most share a shop, and what each does to it takes the whole machine.
    arguments.test_threads = Some(1);
    let trials = trials![
        images::each_runs_without_any_privilege,
        images::the_operator_speaks_https,
        chart::a_purchase_becomes_a_secret_a_mail_and_a_page,
        chart::a_missing_secret_is_told_by_the_pods_event,
        chart::an_upgrade_amid_purchases_loses_and_doubles_none,
        chart::killed_pods_amid_purchases_lose_and_double_none,
        chart::a_drained_node_amid_purchases_loses_and_doubles_none,
        chart::what_was_sold_outlives_the_release,
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(node) = NODE.get() {
        node.end();
    }
    conclusion.exit_code()
}
