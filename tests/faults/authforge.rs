//! AuthForge is away, wants money, or does not know us.

use std::sync::Arc;

use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::{CallKind, Fake, Settings};
use grantsmith_tests::{Shape, Stack, until};

use super::{all_get_their_keys, all_wait, buy};

const FLAGS: &[&str] = &["--lost-create-quarantine", "3s"];

#[tokio::test(flavor = "multi_thread")]
async fn work_outlasts_an_authforge_that_answers_503() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).without_mail().flags(FLAGS).start().await;
        stack.authforge.switch(|switches| switches.down = true);
        let sessions = buy(&stack, 5).await;
        let grants = all_wait(&stack, 5, &["AuthForgeUnavailable", "OutcomeUnknown"]).await;
        for grant in &grants {
            let name = grant["name"].as_str().expect("a name");
            let (_, table, _) = stack.tool(&["grants", "get", name]).await;
            let reason = grant["reason"].as_str().expect("a reason");
            assert!(table.contains(reason) && table.contains("To do"), "a person sees why: {table}");
        }
        assert_eq!(stack.page(&sessions[0]).await.1["status"], "pending", "the buyer is asked to wait");
        assert_eq!(stack.ready().await, 200, "events can still be accepted");
        stack.authforge.switch(|switches| switches.down = false);
        all_get_their_keys(&stack, &sessions).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_outlasts_an_authforge_that_is_not_there() {
    let mut stack = Stack::plan(Shape::Standalone).without_mail().flags(FLAGS).start().await;
    let settings = || Settings::new(Arc::new(SystemClock));
    let address = stack.authforge.address();
    let elsewhere = Fake::start(settings()).await.expect("a fake");
    drop(std::mem::replace(&mut stack.authforge, elsewhere));

    let sessions = buy(&stack, 5).await;
    all_wait(&stack, 5, &["AuthForgeUnavailable"]).await;
    assert_eq!(stack.ready().await, 200);

    let listener =
        until("the port to be free", async || tokio::net::TcpListener::bind(address).await.ok()).await;
    let back = Settings { listener: Some(listener), ..settings() };
    stack.authforge = Fake::start(back).await.expect("a fake");
    all_get_their_keys(&stack, &sessions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credits_one_call_asks_for_all_and_a_top_up_is_enough() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    stack.authforge.switch(|switches| switches.no_credits = true);
    let sessions = buy(&stack, 10).await;
    let grants = all_wait(&stack, 10, &["CreditsExhausted"]).await;
    assert!(grants.iter().all(|grant| grant["fix"].as_str().is_some_and(|fix| fix.contains("top up"))));
    assert_eq!(stack.ready().await, 200);
    let paused = "grantsmith_authforge_paused{reason=\"CreditsExhausted\"}";
    assert!(stack.metrics().await.contains(&format!("{paused} 1")));

    // Ten buyers waited, a few seconds went by, and AuthForge was asked by one of them each time.
    let early = stack.authforge.counts().of(CallKind::Create);
    until("a probe", async || (stack.authforge.counts().of(CallKind::Create) > early).then_some(())).await;
    let counts = stack.authforge.counts();
    assert!(early <= 3, "{early} creates before the pause was noticed by all");
    assert_eq!(counts.of(CallKind::Create), early + 1, "one probe");
    assert_eq!(counts.no_credits, counts.of(CallKind::Create));

    stack.authforge.switch(|switches| switches.no_credits = false);
    all_get_their_keys(&stack, &sessions).await;
    assert!(stack.metrics().await.contains(&format!("{paused} 0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_api_key_is_shown_and_a_new_one_is_taken_up_without_a_restart() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    stack.authforge.switch(|switches| switches.accepted_key = Some("af_live_rotated".to_owned()));
    let sessions = buy(&stack, 5).await;
    let grants = all_wait(&stack, 5, &["Unauthorized"]).await;
    assert!(grants.iter().all(|grant| grant["fix"].as_str().is_some_and(|fix| fix.contains("API key"))));
    assert_eq!(stack.ready().await, 200);
    let asked = stack.authforge.counts().unauthorized;
    assert!(asked <= 6, "{asked} calls with a key that is refused");

    std::fs::write(stack.folder.path().join("authforge-key"), "af_live_rotated\r\n").expect("a file");
    all_get_their_keys(&stack, &sessions).await;
    assert!(!stack.logs().contains("af_live_rotated"), "the key is in no log");
}
