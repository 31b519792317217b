//! The mail server is away, says not now, or never.

use grantsmith_tests::mailpit::Mailpit;
use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack, until};
use serde_json::Value;

/// Waits until the newest sending of a purchase is in a state; gives its grant.
async fn until_delivery(stack: &Stack, session: &str, state: &str) -> Value {
    until(&format!("the mail of {session} to be {state}"), async || {
        stack.grant(session).await.filter(|grant| grant["delivery"]["state"] == state)
    })
    .await
}

/// The Message-ID of a grant's sending.
fn message_id(grant: &Value, number: u32) -> String {
    let id = grant["name"].as_str().expect("a name").trim_start_matches("licenseGrants/");
    format!("{id}.{number}@shop.example")
}

async fn ids(stack: &Stack) -> Vec<String> {
    let mails = stack.mail.as_ref().expect("mail").mails().await;
    mails.iter().filter_map(|mail| mail["MessageID"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_is_away_gets_each_mail_once_when_it_is_back() {
    for shape in Shape::ALL {
        let mut stack = Stack::plan(shape).start().await;
        stack.mail.as_mut().expect("mail").down().await;
        let (one, two) = (stack.buy(order()).await, stack.buy(order()).await);
        for session in [&one.session, &two.session] {
            let grant = until_delivery(&stack, session, "DUE").await;
            assert_eq!(grant["state"], "READY", "the key does not wait for the mail");
            until("the reason", async || {
                let grant = stack.grant(session).await?;
                (grant["delivery"]["reason"] == "MailRefused").then_some(())
            })
            .await;
            assert_eq!(stack.keys(session).await.len(), 1, "and the page shows it");
        }
        assert_eq!(stack.ready().await, 200);

        stack.mail.as_mut().expect("mail").up().await;
        let mut wanted = Vec::new();
        for session in [&one.session, &two.session] {
            wanted.push(message_id(&until_delivery(&stack, session, "SENT").await, 1));
        }
        let mut got = ids(&stack).await;
        got.sort();
        wanted.sort();
        assert_eq!(got, wanted, "one mail each");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_now_is_tried_again_with_the_same_message_id() {
    let mut stack = Stack::plan(Shape::Standalone).start().await;
    stack.mail.as_ref().expect("mail").refuse(451).await;
    let bought = stack.buy(order()).await;
    until("the refusal to be shown", async || {
        let grant = stack.grant(&bought.session).await?;
        let delivery = &grant["delivery"];
        (delivery["state"] == "DUE" && delivery["fix"].as_str()?.contains("451")).then_some(())
    })
    .await;
    assert_eq!(ids(&stack).await, Vec::<String>::new());
    // The wait is on record: a restart does not begin it anew, and forgets nothing.
    stack.kill_back().await;
    stack.up().await;
    stack.mail.as_ref().expect("mail").refuse(0).await;
    let grant = until_delivery(&stack, &bought.session, "SENT").await;
    assert_eq!(ids(&stack).await, [message_id(&grant, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_good_waits_for_a_person_who_sends_again() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    stack.mail.as_ref().expect("mail").refuse(550).await;
    let bought = stack.buy(order()).await;
    let grant = until_delivery(&stack, &bought.session, "PARKED").await;
    assert_eq!(grant["delivery"]["reason"], "MailRefused");
    let (_, page) = stack.page(&bought.session).await;
    assert_eq!(
        (&page["status"], &page["mailed"]),
        (&"ready".into(), &false.into()),
        "no mail is promised: {page}"
    );
    let name = grant["name"].as_str().expect("a name");
    let (_, table, _) = stack.tool(&["grants", "get", name]).await;
    assert!(table.contains("PARKED") && table.contains("MailRefused") && table.contains("550"), "{table}");

    stack.mail.as_ref().expect("mail").refuse(0).await;
    let mut wanted = Vec::new();
    for number in 2..=3 {
        let (code, said, error) = stack.tool(&["grants", "resend", name]).await;
        assert_eq!(code, 0, "{error}");
        assert!(said.contains(&number.to_string()), "{said}");
        until("the mail", async || {
            let delivery = stack.grant(&bought.session).await?["delivery"].clone();
            (delivery["state"] == "SENT" && delivery["number"] == number).then_some(())
        })
        .await;
        wanted.push(message_id(&grant, number));
        assert_eq!(ids(&stack).await, wanted, "each by its own id, and the refused one never");
    }
    let mail = stack.mail.as_ref().expect("mail");
    let keys = stack.keys(&bought.session).await;
    for summary in mail.mails().await {
        let letter = mail.mail(summary["ID"].as_str().expect("an id")).await;
        assert!(letter["Text"].as_str().is_some_and(|text| text.contains(&keys[0])), "the same key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_mail_goes_to_another_address_once() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    stack.mail.as_ref().expect("mail").refuse(550).await;
    let bought = stack.buy(order()).await;
    let grant = until_delivery(&stack, &bought.session, "PARKED").await;
    stack.mail.as_ref().expect("mail").refuse(0).await;
    let name = grant["name"].as_str().expect("a name");
    let (code, _, error) = stack.tool(&["grants", "set-email", name, "jane@example.org", "--resend"]).await;
    assert_eq!(code, 0, "{error}");
    until_delivery(&stack, &bought.session, "SENT").await;
    let other = stack.buy(order()).await;
    let other = until_delivery(&stack, &other.session, "SENT").await;
    assert_eq!(ids(&stack).await, [message_id(&grant, 2), message_id(&other, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_parks_nothing_and_the_new_password_is_read_while_running() {
    let mail = Mailpit::start_with_login("keys@shop.example", "a&b=p%41ss+").await;
    let url = mail.url().replace("smtp://", "smtp://keys%40shop.example@");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("smtp-password");
    std::fs::write(&file, "expired\n").expect("a file");
    let flags = ["--smtp-url", &url, "--mail-from", "Test Shop <keys@shop.example>"];
    let password = ["--smtp-password-file", file.to_str().expect("a path")];
    let plan = Stack::plan(Shape::Standalone).without_mail().flags(&flags).flags(&password);
    let stack = plan.start().await;
    let bought = stack.buy(order()).await;
    until("the refusal to be shown", async || {
        let grant = stack.grant(&bought.session).await?;
        let delivery = &grant["delivery"];
        let said = delivery["fix"].as_str()?;
        (delivery["state"] == "DUE" && said.contains("535") && said.contains("password")).then_some(())
    })
    .await;
    std::fs::write(&file, "a&b=p%41ss+\n").expect("a file");
    let grant = until_delivery(&stack, &bought.session, "SENT").await;
    let mails = mail.mails().await;
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0]["MessageID"].as_str(), Some(message_id(&grant, 1).as_str()));
    let logs = stack.logs();
    assert!(!logs.contains("a&b=p%41ss+") && !logs.contains("expired"), "{logs}");
}
