//! Settings that cannot be stop the start and say what to do; the definition that is printed is the one in the chart.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::process::{Command, Output};

fn operator(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grantsmith-operator"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command.output().expect("the program starts")
}

#[test]
fn what_cannot_be_is_told_with_the_way_out() {
    let key = ("GRANTSMITH_AUTHFORGE_API_KEY", "af_live_1");
    let nowhere = ("KUBECONFIG", "/nonexistent");
    let free = ["run", "--admin-listen", "127.0.0.1:0"];
    for (further, environment, told) in [
        (
            &[][..],
            &[nowhere][..],
            "give it with --authforge-api-key-file FILE or in GRANTSMITH_AUTHFORGE_API_KEY",
        ),
        (&["--authforge-api-key-file", "/nonexistent"], &[nowhere], "cannot read '/nonexistent'"),
        (&[], &[key, nowhere], "give a kubeconfig in KUBECONFIG"),
        (&["--authforge-url", "ftp://x"], &[key], "--authforge-url must begin with https://"),
        (&["--drift-interval", "0s"], &[key], "--drift-interval must be a second or more"),
        (&["--allow", "shop"], &[key], "write NAMESPACE=APP"),
        (&["--revocation-budget", "100"], &[key], "write a number and /h"),
    ] {
        let output = operator(&[&free[..], further].concat(), environment);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{further:?}: {text}");
        assert!(text.contains(told), "{further:?}: {text}");
        assert!(!text.contains("af_live_1"), "{text}");
    }
}

#[test]
fn the_definition_that_it_prints_is_the_charts() {
    let output = operator(&["crd"], &[]);
    let chart = include_str!("../../charts/grantsmith/files/crds/licensegrants.yaml");
    assert!(output.status.success() && output.stdout == chart.as_bytes());
}
