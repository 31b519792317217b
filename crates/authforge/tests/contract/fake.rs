//! What other tests, and people, rely on in the fake.

use grantsmith_authforge::fake::{self, Fake, NewLicense, Switches};
use grantsmith_authforge::http_client;
use grantsmith_core::port::Class;

use crate::support::{APP, Bench, TestClock};

#[tokio::test]
async fn a_fake_that_starts_again_has_its_licenses() {
    let file = std::env::temp_dir().join(format!("grantsmith-fake-{}.jsonl", std::process::id()));
    let clock = TestClock::start();
    let start = async || {
        let settings =
            fake::Settings { state_file: Some(file.clone()), ..fake::Settings::new(clock.clone()) };
        Fake::start(settings).await.expect("fake")
    };
    let first = start().await;
    let keys = [1, 2].map(|n| first.insert(NewLicense::labeled(APP, format!("label {n}"))));
    assert!(first.revoke_by_hand(&keys[0]));
    drop(first);
    let second = start().await;
    let third = second.insert(NewLicense::labeled(APP, "label 3"));
    let kept: Vec<_> = second.licenses().into_iter().map(|license| (license.key, license.revoked)).collect();
    std::fs::remove_file(&file).expect("file");
    let [one, two] = keys;
    assert_eq!(kept, [(one, true), (two, false), (third, false)]);
}

#[tokio::test]
async fn the_fakes_admin_routes_read_and_change_it() {
    let bench = Bench::with(Switches::default()).await;
    let http = http_client(&[]).expect("HTTP client");
    let post = async |path: &str, body: &str| {
        let request = http.post(format!("{}/_fake/{path}", bench.fake.url()));
        let request = request.header("content-type", "application/json").body(body.to_owned());
        request.send().await.expect("answer").status().as_u16()
    };
    assert_eq!(post("faults", r#"{"on":"create","faults":["lost_after",{"status":400}]}"#).await, 204);
    assert_eq!(bench.create("cs_test_1").await.expect_err("lost").class, Class::OutcomeUnknown);
    assert_eq!(bench.create("cs_test_1").await.expect_err("refused").class, Class::Rejected);
    assert_eq!(post("switches", r#"{"no_credits":true,"list_order":"oldest"}"#).await, 200);
    assert_eq!(post("switches", r#"{"no_credit":true}"#).await, 400);
    assert_eq!(bench.create("cs_test_1").await.expect_err("no credits").class, Class::CreditsExhausted);
    assert_eq!(post("licenses", &format!(r#"{{"app_id":"{APP}","label":"by hand"}}"#)).await, 200);
    let key = bench.fake.licenses()[1].key.clone();
    assert_eq!(post(&format!("licenses/{key}/revoke"), "").await, 200);
    let url = format!("{}/_fake/history", bench.fake.url());
    let history = http.get(url).send().await.expect("answer").text().await.expect("body");
    for deed in ["created", "inserted", "revoked_by_hand", "\"answered\":false"] {
        assert!(history.contains(deed), "{deed} in {history}");
    }
}
