//! Names, addresses and settings that are programs in disguise, on pages, in mails and on terminals.

use grantsmith_service::stripe::fake::Rendering;
use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack, until};
use serde_json::{Value, json};

/// A seller with a sense of humour.
const SELLER: &str = "</title><script>alert('shop')</script> & \"Söhne\" 🎉";

async fn html(stack: &Stack, path: &str) -> (u16, String) {
    let answer = stack.client.get(stack.url(path)).send().await.expect("an answer");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let policy = answer.headers()["content-security-policy"].to_str().expect("a policy").to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

/// Every script of a page is the page's own.
fn assert_no_foreign_script(page: &str) {
    for (at, _) in page.match_indices("<script") {
        assert!(page[at..].starts_with("<script nonce="), "{}", &page[at..at + 60]);
    }
    assert!(!page.contains("<img src=x") && !page.contains("alert('shop')</script>"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_wrote_is_escaped_on_pages() {
    let flags = ["--seller-name", SELLER, "--support", "\"><img src=x onerror=alert(1)>"];
    let stack = Stack::plan(Shape::Standalone).without_mail().web_flags(&flags).start().await;
    for session in [
        "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "cs_test_%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "cs_test_a1%0d%0aset-cookie:%20a=b",
        "cs_test_%ff%fe",
        "%F0%9F%8E%89%E2%80%AE",
        &"x".repeat(4_000),
        "",
    ] {
        let (status, page) = html(&stack, &format!("/success?session_id={session}")).await;
        assert_eq!(status, 404, "{session}");
        assert!(page.contains("License not found"), "{page}");
        assert_no_foreign_script(&page);
        assert!(
            page.contains("&lt;script&gt;alert(") && page.contains("&amp;"),
            "the seller is named: {page}"
        );
    }
    for path in
        ["/success", "/success?look=-1&session_id=x", "/success?look=99999999999999999999", "/<script>"]
    {
        let (status, page) = html(&stack, path).await;
        assert_eq!(status, 404, "{path}");
        assert_no_foreign_script(&page);
    }
    let bought = stack.buy(order().by("<script>alert(1)</script>@evil.<img src=x onerror=alert(1)>")).await;
    stack.keys(&bought.session).await;
    let (status, page) = html(&stack, &format!("/success?session_id={}", bought.session)).await;
    assert_eq!(status, 200);
    assert_no_foreign_script(&page);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_session_is_not_found_and_costs_nobody_else_an_answer() {
    let stack = Stack::plan(Shape::Split).without_mail().start().await;
    let long = async {
        for session in ["x".repeat(9_000), "+".repeat(20_000), "%22".repeat(20_000), "x".repeat(60_000)] {
            let (status, page) = html(&stack, &format!("/success?session_id={session}")).await;
            assert_eq!(status, 404, "{} bytes", session.len());
            assert!(page.contains("License not found"), "{page}");
        }
    };
    let busy = async {
        for _ in 0..5 {
            let bought = stack.buy(order()).await;
            assert_eq!(stack.keys(&bought.session).await.len(), 1);
        }
    };
    tokio::join!(long, busy);
    assert!(!stack.logs().contains("broke") && stack.ready().await == 200, "{}", stack.logs());
}

/// An address that is none, or that carries more than one: no mail may go anywhere.
const NO_ADDRESSES: &[&str] = &[
    "victim@example.com\r\nBcc: other@example.com",
    "victim@example.com\nSubject: You won",
    "a@example.com, b@example.com",
    "a@example.com> RCPT TO:<b@example.com",
    "<script>alert(1)</script>",
    "no address",
    "@",
    "a@b@c.example",
    "\u{202e}moc.elpmaxe@rotkod",
    "nul\0@example.com",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_gets_no_mail_and_the_page_shows_the_key() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let long = format!("{}@example.com", "x".repeat(100_000));
    let addresses = NO_ADDRESSES.iter().copied().chain([long.as_str()]);
    for address in addresses {
        let bought = stack.buy(order().by(address)).await;
        let keys = stack.keys(&bought.session).await;
        assert_eq!(keys, stack.live()[&bought.session]);
        let grant = until("the mail to be refused", async || {
            stack.grant(&bought.session).await.filter(|grant| grant["delivery"]["state"] == "PARKED")
        })
        .await;
        assert_eq!(grant["delivery"]["reason"], "MailRefused", "{address:.80}");
        let (_, table, _) = stack.tool(&["grants", "get", grant["name"].as_str().expect("a name")]).await;
        assert!(
            !table.contains('\r') && !table.contains('\0') && !table.contains("\nSubject"),
            "{table:.500}"
        );
    }
    assert_eq!(stack.mail.as_ref().expect("mail").mails().await, Vec::<Value>::new(), "nobody got anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_address_gets_its_mail_and_adds_no_header() {
    let flags = ["--seller-name", SELLER];
    let stack = Stack::plan(Shape::Standalone).web_flags(&flags).start().await;
    let mail = stack.mail.as_ref().expect("mail");
    for address in ["o'hara&sons+{tag}@example.com", "ünder@exämple.example", "\"quoted here\"@example.com"]
    {
        let before = mail.mails().await.len();
        let bought = stack.buy(order().by(address)).await;
        let keys = stack.keys(&bought.session).await;
        let delivery = until(&format!("the fate of the mail to {address}"), async || {
            let delivery = stack.grant(&bought.session).await?["delivery"].clone();
            (delivery["state"] == "SENT" || delivery["state"] == "PARKED").then_some(delivery)
        })
        .await;
        let mails = mail.mails().await;
        if delivery["state"] == "PARKED" {
            // Not every mail can be sent; then a person sees why, and nothing is tried for two days.
            assert_eq!((mails.len(), &delivery["reason"]), (before, &json!("MailRefused")), "{address}");
            assert!(!address.is_ascii() || address.contains('"'), "{address}: {delivery}");
            continue;
        }
        assert_eq!(mails.len(), before + 1, "{address}");
        let id = mails[before]["ID"].as_str().expect("an id");
        let letter = mail.mail(id).await;
        assert!(letter["Text"].as_str().expect("text").contains(&keys[0]));
        assert!(!letter["HTML"].as_str().expect("html").contains("<script"), "{letter}");
        assert_eq!(letter["To"].as_array().map_or(0, Vec::len), 1);
        let headers = mail.headers(id).await;
        let names: Vec<&String> = headers.as_object().expect("headers").keys().collect();
        assert!(!names.iter().any(|name| ["Bcc", "Cc"].contains(&name.as_str())), "{names:?}");
        assert_eq!(headers["Subject"].as_array().map_or(0, Vec::len), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_metadata_and_names_are_no_part_of_anything() {
    let stack = Stack::plan(Shape::Standalone).events_only().start().await;
    let evil = "</script><script>alert(1)</script>\r\nBcc: x@example.com\u{202e}\u{0}🎉";
    let purchase = order().metadata("note", evil).metadata("<script>", &evil.repeat(50));
    let bought = stack.world.buy(purchase, stack.now());
    let event = bought.events.last().expect("an event");
    let body = String::from_utf8(event.body(Rendering::Endive)).expect("a text");
    let name = serde_json::to_string(&evil.repeat(100)).expect("JSON");
    let body = body.replace("\"Erika Musterfrau\"", &name);
    assert_eq!(stack.deliver(body.into_bytes()).await.status, 200);
    let keys = stack.keys(&bought.session).await;
    let (_, page) = html(&stack, &format!("/success?session_id={}", bought.session)).await;
    assert!(page.contains(&keys[0]) && !page.contains("alert(1)"), "{page}");
    let mail = stack.mail.as_ref().expect("mail");
    let mails = mail.until_mails(1).await;
    let letter = mail.mail(mails[0]["ID"].as_str().expect("an id")).await;
    assert!(!letter.to_string().contains("alert(1)"), "{letter}");

    for (key, value) in [("authforge_app_id", evil), ("license_duration", evil), ("max_hwid_slots", "-1\n2")]
    {
        let bought = stack.buy(order().metadata(key, value)).await;
        let grant = stack.until_grant(&bought.session, "PARKED", "BadMetadata").await;
        assert!(!grant["fix"].as_str().expect("a fix").is_empty());
        let (status, page) = html(&stack, &format!("/success?session_id={}", bought.session)).await;
        assert_eq!(status, 200);
        assert!(!page.contains("alert(1)"), "{page}");
        let (_, table, _) = stack.tool(&["grants", "get", grant["name"].as_str().expect("a name")]).await;
        assert!(!table.contains('\r') && !table.contains('\u{0}'), "{table}");
    }
}
