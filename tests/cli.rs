//! The hand tools, used as a person and a script would.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::fs::OpenOptions;

use grantsmith_tests::program::{run, run_into};
use grantsmith_tests::stack::order;
use grantsmith_tests::{AUTHFORGE_KEY, Shape, Stack};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn grants_are_listed_found_shown_and_revealed() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let bought = stack.buy(order().by("jane@example.com")).await;
    let keys = stack.keys(&bought.session).await;
    let other = stack.buy(order().by("john@example.com")).await;
    stack.keys(&other.session).await;

    let (code, names, _) = stack.tool(&["grants", "list", "-o", "name"]).await;
    let names: Vec<&str> = names.lines().collect();
    assert_eq!((code, names.len()), (0, 2));
    assert!(names.iter().all(|name| name.starts_with("licenseGrants/lg-")));

    let grant = stack.grant(&bought.session).await.expect("found by session");
    let name = grant["name"].as_str().expect("a name");
    let id = name.trim_start_matches("licenseGrants/");
    let fingerprint = grant["licenses"][0]["fingerprint"].as_str().expect("a fingerprint");
    let payment = stack.world.payment_intent(&bought.session).expect("a payment");
    let typed = keys[0].to_lowercase().replace('-', "");
    for text in [
        "JANE@example.com",
        keys[0].as_str(),
        typed.as_str(),
        fingerprint,
        payment.as_str(),
        bought.session.as_str(),
    ] {
        let (code, found, error) = stack.tool(&["grants", "find", text, "-o", "name"]).await;
        assert_eq!((code, found.trim()), (0, name), "{text}: {error}");
    }
    let (code, table, _) = stack.tool(&["grants", "get", id]).await;
    assert_eq!(code, 0);
    assert!(
        table.contains("READY (Issued)")
            && table.contains("****-****-****-")
            && table.contains("jane@example.com"),
        "{table}"
    );
    assert!(!table.contains(&keys[0]), "a look does not tell the key");
    let (code, key, _) = stack.tool(&["grants", "key", name]).await;
    assert_eq!((code, key.trim()), (0, keys[0].as_str()), "and the key alone is printed, for scripts");
    let filtered =
        stack.json(&["grants", "list", "--filter", "email = \"jane@example.com\" AND state = READY"]).await;
    assert_eq!(filtered.as_array().map(Vec::len), Some(1));
    let (code, yaml, _) = stack.tool(&["grants", "get", id, "-o", "yaml"]).await;
    assert!(code == 0 && yaml.contains("reason: Issued"), "{yaml}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_shown_and_played_again() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let bought = stack.buy(order()).await;
    let keys = stack.keys(&bought.session).await;
    let events = stack.json(&["events", "list", "--filter", "type = \"checkout.session.completed\""]).await;
    let event = &events[0];
    assert_eq!((&event["state"], &event["object"]), (&"HANDLED".into(), &bought.session.as_str().into()));
    let name = event["name"].as_str().expect("a name");
    let shown = stack.json(&["events", "get", name]).await;
    assert_eq!(
        shown["payload"]["data"]["object"]["id"],
        bought.session.as_str(),
        "with the payload as it came"
    );
    let (code, _, error) = stack.tool(&["events", "replay", name.trim_start_matches("events/")]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(stack.keys(&bought.session).await, keys, "playing again changes nothing");
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_is_no_failure_and_a_full_disk_is() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let bought = stack.buy(order()).await;
    stack.keys(&bought.session).await;
    let server = stack.grpc_url();
    let environment =
        [("GRANTSMITH_SERVER", server.as_str()), ("GRANTSMITH_TOKEN_FILE", "grantsmith.db.tokens")];
    for arguments in
        [&["grants", "list"][..], &["grants", "list", "-o", "name"], &["events", "list", "-o", "json"]]
    {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let (code, _, error) = run_into(arguments, &environment, stack.folder.path(), writer).await;
        assert_eq!((code, error.as_str()), (0, ""), "{arguments:?} into a closed pipe");
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
        let (code, _, error) = run_into(arguments, &environment, stack.folder.path(), full).await;
        assert!(
            code == 1 && error.contains("cannot write to standard output"),
            "{arguments:?}: {code} {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_stands_whatever_a_stranger_wrote_into_it() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let kind = "x".repeat(70_000);
    let body = format!(
        r#"{{"id":"evt_long","object":"event","type":"{kind}","created":1790000000,"livemode":false,"data":{{"object":{{"id":"x_1","object":"x"}}}}}}"#
    );
    assert_eq!(stack.deliver(body.into()).await.status, 200);
    let (code, table, error) = stack.tool(&["events", "list"]).await;
    assert_eq!(code, 0, "{error}");
    let row = table.lines().find(|line| line.starts_with("evt_long")).expect("a row");
    assert!(row.contains('…') && row.contains("UnknownType") && row.len() < 500, "{}", row.len());
    assert_eq!(
        stack.json(&["events", "get", "evt_long"]).await["type"],
        kind.as_str(),
        "programs get all of it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_do() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let http = stack.url("");
    for (arguments, code, words) in [
        (&["grants", "get", "lg-aaaaaaaaaaaaaaaaaaaa"][..], 1, "list them"),
        (&["grants", "get", "nonsense"], 2, "licenseGrants/lg-"),
        (&["grants", "get", ""], 2, "licenseGrants/lg-"),
        (&["grants", "list", "--filter", "state = FOO"], 2, "PENDING"),
        (&["grants", "list", "--filter", "state = READY AND state = PARKED"], 2, "named twice"),
        (&["grants", "set-email", "lg-aaaaaaaaaaaaaaaaaaaa", "bad"], 2, "no address"),
        (&["grants", "set-note", "lg-aaaaaaaaaaaaaaaaaaaa", &"n".repeat(1_001)], 2, "1000 characters"),
        (&["events", "get", "events/"], 2, "evt_1Abc"),
        (&["events", "list", "--filter", "reason = Nothing"], 2, "BadMetadata"),
        (&["grants", "find", "nobody@example.com"], 1, "nothing found"),
        (&["grants", "list", "--filter", "colour = red"], 2, "state, purchase, email"),
        (&["events", "replay", "evt_nobody"], 1, "list them"),
        (&["grants", "get"], 2, "<NAME>"),
        (&["grants", "list", "--server", "nowhere"], 2, "http://HOST:PORT"),
        (&["grants", "list", "--server", "http://127.0.0.1:1"], 1, "cannot be reached"),
        (&["grants", "list", "--server", &http], 1, "--grpc-listen"),
        (&["grants", "list", "--token-file", "missing"], 2, "missing"),
        (&["grants", "find", ""], 2, "<TEXT>"),
        (&["grant"], 2, "grants"),
    ] {
        let (found, out, error) = stack.tool(arguments).await;
        assert_eq!(found, code, "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
        assert!(out.is_empty(), "standard output is for results alone: {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_stops_the_start_and_says_how_to_mend_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("secrets", "whsec_1\n");
    write("blank", "\n");
    write("authforge", AUTHFORGE_KEY);
    write("live", "sk_live_1");
    let free_ports =
        ["--http-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let settings = [
        "standalone",
        "--stripe-mode",
        "test",
        "--stripe-webhook-secrets-file",
        "secrets",
        "--authforge-api-key-file",
        "authforge",
    ];
    let right = [&settings[..], &free_ports].concat();
    for (more, words) in [
        (&[][..], "--stripe-api-key-file"),
        (&["--events-only", "--stripe-api-key-file", "live"], "leave out one of them"),
        (&["--stripe-api-key-file", "live"], "live mode"),
        (&["--stripe-api-key-file", "missing"], "missing"),
        (&["--events-only", "--stripe-webhook-secrets-file", "blank"], "secret"),
        (&["--events-only", "--database-url", "postgres://x"], "not there yet"),
        (&["--events-only", "--database-url", "grantsmith.db"], "sqlite://PATH"),
        (&["--events-only", "--grpc-listen", "0.0.0.0:0"], "--grpc-insecure"),
        (&["--events-only", "--smtp-url", "smtp://localhost"], "--mail-from"),
        (
            &["--events-only", "--smtp-url", "smtp://u:p@localhost", "--mail-from", "a@b.example"],
            "--smtp-password-file",
        ),
        (&["--events-only", "--stripe-tolerance", "soon"], "--stripe-tolerance"),
        (&["--events-only", "--no-such-flag"], "--no-such-flag"),
        (&["--events-only", "--ca-file", "missing"], "missing"),
        (&["--events-only", "--grpc-tls-cert-file", "secrets", "--grpc-tls-key-file", "secrets"], "as PEM"),
        (&["--events-only", "--ca-file", "blank"], "BEGIN CERTIFICATE"),
        (&["--events-only", "--templates", "missing"], "no folder 'missing'"),
        (&["--events-only", "--trusted-proxies", "10.0.0"], "10.0.0.0/8"),
        (&["--events-only", "--fulfil-since", "2026-01-01"], "2026-01-31T00:00:00Z"),
        (&["--events-only", "--public-url", "ftp://shop.example"], "https://"),
        (&["--events-only", "--stripe-url", "file:/stripe"], "https://"),
        (&["--events-only", "--authforge-app", "not an app"], "UUID"),
    ] {
        // A flag that comes twice is wrong use of its own, so the right one steps back.
        let mut arguments = right.clone();
        for flag in more.iter().filter(|word| word.starts_with("--")) {
            if let Some(at) = arguments.iter().position(|word| word == flag) {
                arguments.drain(at..at + 2);
            }
        }
        arguments.extend(more);
        let (code, _, error) = run(&arguments, &[], folder.path()).await;
        assert_eq!(code, 2, "{more:?}: {error}");
        assert!(error.contains(words), "{more:?}: {error}");
    }
    for variable in ["GRANTSMITH_SMTP_URL", "GRANTSMITH_EVENTS_ONLY", "GRANTSMITH_CATALOG", "GRANTSMITH_MODE"]
    {
        let (code, _, error) = run(&right, &[(variable, "")], folder.path()).await;
        assert!(
            code == 2 && error.contains(&format!("{variable} is set and empty")),
            "{variable}: {code} {error}"
        );
    }
    let (code, _, error) =
        run(&[&["doctor"], &right[1..], &["-o", "name"]].concat(), &[], folder.path()).await;
    assert!(code == 2 && error.contains("-o table"), "{code} {error}");
    let live = [
        "--stripe-mode",
        "live",
        "--events-only",
        "--authforge-url",
        "fake:",
        "--stripe-webhook-secrets-file",
        "secrets",
    ];
    let (code, _, error) = run(&[&["standalone"][..], &live, &free_ports].concat(), &[], folder.path()).await;
    assert!(code == 2 && error.contains("--stripe-mode test"), "{error}");
}

/// What the doctor says of the settings with these flags and variables besides those that it needs; and all that it prints.
async fn settings(flags: &[&str], variables: &[(&str, &str)]) -> (i32, Value, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let needed = [
        "doctor",
        "-o",
        "json",
        "--stripe-mode",
        "test",
        "--events-only",
        "--authforge-url",
        "fake:",
        "--stripe-url",
        "http://127.0.0.1:1",
        "--public-url",
        "http://127.0.0.1:1",
        "--mail-from",
        "keys@shop.example",
    ];
    let (code, out, error) = run(&[&needed, flags].concat(), variables, folder.path()).await;
    let lines: Value = serde_json::from_str(&out).unwrap_or_default();
    let line = lines.as_array().and_then(|lines| lines.iter().find(|line| line["check"] == "settings"));
    (code, line.cloned().unwrap_or_default(), out + &error)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_address_of_the_mail_server_is_not_printed() {
    for url in [
        "smtps://user:CANARY#x@mail.example",
        "smtps://user:CANARY/x@mail.example",
        "smtps://user:CANARY@",
        "CANARY",
    ] {
        for (flags, variables) in
            [(&["--smtp-url", url][..], &[][..]), (&[], &[("GRANTSMITH_SMTP_URL", url)])]
        {
            let (code, _, said) = settings(flags, variables).await;
            assert!(code == 2 && said.contains("--smtp-url"), "{url}: {code} {said}");
            assert!(!said.contains("CANARY") && !said.contains("canary"), "{url}: {said}");
        }
    }
    let variables = [("GRANTSMITH_SMTP_URL", "smtps://user:CANARY@mail.example")];
    let (_, _, said) = settings(&["--help"], &variables).await;
    assert!(said.contains("GRANTSMITH_SMTP_URL") && !said.contains("CANARY"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_the_mail_server_may_stand_in_the_variable_and_not_in_the_flag() {
    for password in ["a=b", "a;b", "a|b", "a[b", "p%41ss"] {
        let url = format!("SMTP://user:{password}@127.0.0.1:1");
        let (_, line, said) = settings(&[], &[("GRANTSMITH_SMTP_URL", &url)]).await;
        assert_eq!(line["verdict"], "ok", "{url}: {said}");
        for variables in [&[][..], &[("GRANTSMITH_SMTP_URL", url.as_str())]] {
            let (_, line, said) = settings(&["--smtp-url", &url], variables).await;
            assert_eq!(line["verdict"], "FAIL", "{url}: {said}");
            assert!(said.contains("--smtp-password-file") && !said.contains(password), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_of_the_mail_server_is_read_where_its_url_has_a_user() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("smtp-password");
    std::fs::write(&file, "\n").expect("a file");
    let file = file.to_str().expect("a path");
    for (url, blank) in [("smtp://127.0.0.1:1", false), ("smtp://user@127.0.0.1:1", true)] {
        let (_, _, said) = settings(&["--smtp-url", url, "--smtp-password-file", file], &[]).await;
        assert_eq!(said.contains("the password is blank"), blank, "{url}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_variable_of_a_secret_is_none() {
    let (_, line, said) = settings(&[], &[("GRANTSMITH_STRIPE_API_KEY", "")]).await;
    assert_eq!(line["verdict"], "ok", "{said}");
    let variables = [("GRANTSMITH_SMTP_PASSWORD", ""), ("GRANTSMITH_SMTP_URL", "smtp://u:p@127.0.0.1:1")];
    let (_, line, said) = settings(&[], &variables).await;
    assert_eq!(line["verdict"], "ok", "{said}");
    let (_, line, said) = settings(&[], &[("GRANTSMITH_STRIPE_API_KEY", "sk_test_1")]).await;
    assert_eq!(line["verdict"], "FAIL", "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_teaches() {
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, words) in [
        (&["--help"][..], &["demo", "standalone", "webhook", "grants"][..]),
        (
            &["standalone", "--help"],
            &["--stripe-webhook-secrets-file", "GRANTSMITH_AUTHFORGE_URL", "default: 300s"],
        ),
        (&["grants", "--help"], &["by hand", "list", "find", "resend", "--token-file"]),
        (&["events", "replay", "--help"], &["as if it had just come"]),
    ] {
        let (code, out, _) = run(arguments, &[], folder.path()).await;
        assert_eq!(code, 0);
        for word in words {
            assert!(out.contains(word), "{arguments:?} lacks {word}:\n{out}");
        }
    }
}
