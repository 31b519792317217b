//! Mails on a real mail server: what they hold, when they go out, and when they do not.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use grantsmith_authforge::fake::NewLicense;
use grantsmith_service::stripe::fake::Rendering;
use grantsmith_tests::mailpit::Mailpit;
use grantsmith_tests::stack::order;
use grantsmith_tests::{APP, Browser, Shape, Stack, until};
use jiff::Timestamp;
use serde_json::{Value, json};

const SHOP: [&str; 6] = [
    "--seller-name",
    "Test Shop",
    "--mail-reply-to",
    "Help <help@shop.example>",
    "--public-url",
    "https://shop.example/keys",
];

grantsmith_tests::walkthroughs! {
    in_one_process of Standalone:
        repeated_events_send_one_mail,
        a_key_that_the_guides_handler_made_is_adopted_and_not_mailed_again,
        a_buyer_without_an_address_is_listed;
    in_a_cluster of Cluster:
        repeated_events_send_one_mail,
        a_key_that_the_guides_handler_made_is_adopted_and_not_mailed_again,
        a_buyer_without_an_address_is_listed;
}

fn server(stack: &Stack) -> &Mailpit {
    stack.mail.as_ref().expect("a mail server")
}

/// Waits until the delivery of a purchase's keys is in a state; gives the grant.
async fn until_delivery(stack: &Stack, session: &str, state: &str) -> Value {
    until(&format!("the delivery to be {state}"), async || {
        stack.grant(session).await.filter(|grant| grant["delivery"]["state"] == state)
    })
    .await
}

/// Another purchase and its mail: what went before it and has sent no mail by then sends none.
async fn another(stack: &Stack, mails: usize) -> Vec<Value> {
    let bought = stack.buy(order().by("another@example.com")).await;
    until_delivery(stack, &bought.session, "SENT").await;
    let all = server(stack).until_mails(mails + 1).await;
    assert_eq!(all.last().map(|mail| &mail["To"][0]["Address"]), Some(&json!("another@example.com")));
    all
}

#[tokio::test]
async fn a_mail_holds_each_key_in_both_parts() {
    let stack = Stack::plan(Shape::Standalone).flags(&SHOP).start().await;
    for (units, number) in [(1, "your license key"), (3, "your 3 license keys")] {
        let buyer = format!("buyer{units}@example.com");
        let bought = stack.buy(order().times(units).by(&buyer)).await;
        let keys = stack.keys(&bought.session).await;
        let grant = until_delivery(&stack, &bought.session, "SENT").await;
        let mails = server(&stack).mails().await;
        let found = mails.iter().find(|mail| mail["To"][0]["Address"] == buyer.as_str()).expect("a mail");
        let mail = server(&stack).mail(found["ID"].as_str().expect("an id")).await;
        assert_eq!(mail["To"].as_array().map(Vec::len), Some(1));
        assert_eq!(mail["From"], json!({ "Name": "Test Shop", "Address": "keys@shop.example" }));
        assert_eq!(mail["ReplyTo"], json!([{ "Name": "Help", "Address": "help@shop.example" }]));
        let subject = mail["Subject"].as_str().expect("a subject");
        assert_eq!(subject, format!("{}{} from Test Shop", &number[..1].to_uppercase(), &number[1..]));
        let name = grant["name"].as_str().and_then(|name| name.strip_prefix("licenseGrants/"));
        let id = format!("{}.1@shop.example", name.expect("a name"));
        assert!(id.starts_with("lg-"), "{id}");
        assert_eq!(mail["MessageID"].as_str().map(|id| id.trim_matches(['<', '>'])), Some(id.as_str()));
        let link = format!("https://shop.example/keys/success?session_id={}", bought.session);
        for part in ["Text", "HTML"] {
            let text = mail[part].as_str().expect("a part").replace("&#x2f;", "/");
            for wanted in keys.iter().chain([&link, &bought.session]) {
                assert!(text.contains(wanted.as_str()), "{wanted} in {part}: {text}");
            }
            for wanted in
                [number, "2 devices", "help@shop.example", "valid until", "thank you for your order"]
            {
                let found = text.to_lowercase().contains(wanted);
                assert!(found, "{wanted} in {part}: {text}");
            }
        }
        look(&stack, &mail, &format!("mail-{units}")).await;
    }
}

/// Opens a mail's HTML in the browser: it fits a phone and runs nothing.
async fn look(stack: &Stack, mail: &Value, name: &str) {
    let file = stack.folder.path().join(format!("{name}.html"));
    std::fs::write(&file, mail["HTML"].as_str().expect("HTML")).expect("a file");
    for (window, browser) in
        [("phone", Browser::phone(true).await), ("desktop", Browser::open(640, 800, true).await)]
    {
        browser.goto(&format!("file://{}", file.display())).await;
        browser.until_text("license key").await;
        browser.assert_fits().await;
        assert_eq!(browser.complaints().await, Vec::<String>::new());
        browser.picture(&format!("{name}-{window}")).await;
        browser.prefer("dark").await;
        browser.picture(&format!("{name}-{window}-dark")).await;
    }
}

#[tokio::test]
async fn a_resent_mail_is_another_one_and_says_so() {
    let stack = Stack::plan(Shape::Standalone).flags(&SHOP).start().await;
    let bought = stack.buy(order()).await;
    let keys = stack.keys(&bought.session).await;
    let grant = until_delivery(&stack, &bought.session, "SENT").await;
    let name = grant["name"].as_str().expect("a name");
    let (code, out, error) = stack.tool(&["grants", "resend", name]).await;
    assert_eq!((code, out.trim()), (0, "mail 2 is on its way"), "{error}");
    let mails = server(&stack).until_mails(2).await;
    assert_ne!(mails[0]["MessageID"], mails[1]["MessageID"]);
    assert!(mails[1]["MessageID"].as_str().is_some_and(|id| id.contains(".2@shop.example")), "{mails:?}");
    assert_eq!(mails[1]["Subject"], "Your license key from Test Shop, sent again");
    let again = server(&stack).mail(mails[1]["ID"].as_str().expect("an id")).await;
    for part in ["Text", "HTML"] {
        let text = again[part].as_str().expect("a part");
        assert!(text.contains(&keys[0]) && text.contains("once more"), "{text}");
    }
    assert_eq!(stack.grant(&bought.session).await.expect("a grant")["delivery"]["number"], 2);
}

async fn repeated_events_send_one_mail(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let bought = stack.buy(order()).await;
    until_delivery(&stack, &bought.session, "SENT").await;
    for rendering in [Rendering::Endive, Rendering::PreBasil, Rendering::Thin] {
        for event in &bought.events {
            stack.deliver(event.body(rendering)).await;
            stack.deliver(event.twin().body(rendering)).await;
        }
    }
    assert_eq!(another(&stack, 1).await.len(), 2);
    stack.assert_promise();
}

async fn a_key_that_the_guides_handler_made_is_adopted_and_not_mailed_again(shape: Shape) {
    let plan = Stack::plan(shape).flags(&["--look-before-create-after", "0s"]);
    let stack = plan.start().await;
    let bought = stack.world.buy(order(), stack.now());
    let expires_at: Timestamp = "2031-02-03T04:05:06Z".parse().expect("a time");
    let mut theirs = NewLicense::labeled(APP, format!("Stripe session {}", bought.session));
    (theirs.expires_at, theirs.max_hwid_slots) = (Some(expires_at), 2);
    let key = stack.authforge.insert(theirs);
    stack.deliver_all(&bought.events).await;
    let grant = stack.until_grant(&bought.session, "READY", "Adopted").await;
    assert_eq!(stack.keys(&bought.session).await, [key], "the key that the buyer has");
    assert_eq!(grant["licenses"][0]["expire_time"], expires_at.to_string(), "as it was sold");
    assert_eq!(grant["delivery"], Value::Null, "{grant}");
    let mails = another(&stack, 0).await;
    assert_eq!(mails.len(), 1, "{mails:?}");
    let (_, page) = stack.page(&bought.session).await;
    assert_eq!(page["mailed"], false, "the page promises no mail: {page}");
    stack.assert_promise();
}

async fn a_buyer_without_an_address_is_listed(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let bought = stack.buy(order().nameless()).await;
    let grant = until_delivery(&stack, &bought.session, "PARKED").await;
    assert_eq!(grant["delivery"]["reason"], "NoAddress", "{grant}");
    let (code, out, error) = stack.tool(&["grants", "get", grant["name"].as_str().expect("a name")]).await;
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("NoAddress") && out.contains("no address is known"), "{out}");
    assert_eq!(stack.keys(&bought.session).await.len(), 1, "the page has it all the same");
    assert_eq!(stack.page(&bought.session).await.1["mailed"], false);
    another(&stack, 0).await;
}

#[tokio::test]
async fn without_a_mail_server_the_start_says_so_and_the_grant_too() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let log = stack.logs();
    assert!(log.contains("mail is off") && log.contains("--smtp-url"), "{log}");
    let bought = stack.buy(order()).await;
    let grant = until_delivery(&stack, &bought.session, "PARKED").await;
    assert_eq!(grant["delivery"]["reason"], "NoMailer", "{grant}");
    assert!(grant["delivery"]["fix"].as_str().is_some_and(|fix| fix.contains("--smtp-url")), "{grant}");
    assert_eq!(stack.page(&bought.session).await.1["mailed"], false);
}

#[tokio::test]
async fn a_template_of_the_seller_replaces_the_built_in_mail() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("email")).expect("a folder");
    for (name, text) in [
        ("license.subject.txt", "Moin, {{ seller }}\nBcc: thief@example.com"),
        ("license.txt", "Moin!\n{{ licenses[0].key }} <&>\n{{ page_url }}"),
        ("license.html", "<p>Moin! <b>{{ licenses[0].key }}</b> {{ seller }}"),
    ] {
        std::fs::write(folder.path().join("email").join(name), text).expect("a file");
    }
    let folder_flag = ["--templates", folder.path().to_str().expect("a path")];
    let stack = Stack::plan(Shape::Split)
        .flags(&folder_flag)
        .flags(&["--seller-name", "Müller & <Söhne>"])
        .start()
        .await;
    let bought = stack.buy(order()).await;
    let keys = stack.keys(&bought.session).await;
    let mails = server(&stack).until_mails(1).await;
    let mail = server(&stack).mail(mails[0]["ID"].as_str().expect("an id")).await;
    assert_eq!(mail["Subject"], "Moin, Müller & <Söhne> Bcc: thief@example.com", "one line, one receiver");
    assert_eq!(mail["Bcc"].as_array().map_or(0, Vec::len), 0, "{mail}");
    let text = mail["Text"].as_str().expect("a text");
    assert!(text.contains(&format!("Moin!\r\n{} <&>\r\n", keys[0])), "{text:?}");
    let html = mail["HTML"].as_str().expect("HTML");
    assert!(html.contains(&format!("<b>{}</b> Müller &amp; &lt;Söhne&gt;", keys[0])), "{html}");
}
