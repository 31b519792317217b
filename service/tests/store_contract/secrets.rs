//! Nothing that is secret or personal leaves the record but by the one way that is meant for it.

use grantsmith_core::Reason;
use grantsmith_core::grant::Cause;
use grantsmith_core::port::{Change, KeptState, Outcome, Refusal};
use grantsmith_core::purchase::Email;
use grantsmith_service::store::{Attempted, DeliveryState, NewEvent};

use crate::Harness;
use crate::build::{at, attempt, decision, event, grant_id, issue, kept, progress, ready, session};

const KEY: &str = "CANA-RYKE-YYYY-0001";
const ADDRESS: &str = "canary.buyer@example.com";
const BODY: &str = "canary-body";

pub(crate) async fn no_secret_is_in_journal_or_debug<H: Harness>(harness: H) {
    let store = harness.open().await;
    let told = NewEvent { body: BODY.into(), ..event("evt_1", 1, &session("cs_1")) };
    store.record_event(told).await.expect("records");
    let id = grant_id("cs_1");
    for (n, address) in [(1, "first.canary@example.com"), (2, ADDRESS)] {
        let ticket = store.ticket().await.expect("ticket");
        let mut decided = decision("cs_1", ticket, n, 2);
        decided.email = Email::new(address);
        decided.snapshot.body = BODY.into();
        assert!(store.decide(decided).await.expect("decides"));
    }
    let version = store.load(&id).await.expect("loads").version;
    let opened = attempt("attempt-1", 1, 3);
    store.open(&id, version, &opened).await.expect("opens");
    let license = kept(KEY, 1);
    store.keep(&id, &license).await.expect("keeps");
    store.settle(&id, &opened.id, &Outcome::Answered { at: at(4) }).await.expect("settles");
    let fingerprint = license.key.fingerprint();
    for change in [
        Change::State(KeptState::Revoking { at: at(5), cause: Cause::Rule }),
        Change::State(KeptState::Revoked { at: at(5), cause: Cause::Rule }),
        Change::State(KeptState::Reinstating),
        Change::State(KeptState::Live),
        Change::State(KeptState::RevokedElsewhere),
        Change::Expiry(None),
        Change::Duplicated(true),
        Change::Refused(Some(Refusal::Reinstate)),
        Change::Refused(Some(Refusal::Shorten(at(9)))),
    ] {
        store.note(&id, &fingerprint, &change).await.expect("writes");
    }
    issue(&*store, "cs_1", 2).await;
    progress(&*store, ready("cs_1", 2, 6)).await;
    let refused = Attempted {
        state: DeliveryState::Parked,
        reason: Some(Reason::MailRefused),
        detail: None,
        due: None,
        at: at(7),
    };
    store.attempted(&id, 1, refused).await.expect("writes");
    store.resend(&id, "hand", at(8)).await.expect("asks");

    let journal = store.journal(&id).await.expect("reads");
    assert!(journal.len() > 12, "{journal:#?}");
    assert!(
        journal.iter().any(|line| line.text.contains(fingerprint.as_str())),
        "keys go by their fingerprints"
    );
    let row = store.grant(&id).await.expect("reads");
    assert!(row.as_ref().and_then(|row| row.email.as_ref()).is_some_and(|email| email.expose() == ADDRESS));
    let taken = store.keep(&grant_id("cs_2"), &license).await;
    let shown = format!("{journal:?} {row:?} {store:?} {taken:?} {:?}", store.load(&id).await);
    for secret in [KEY, "CANA-RYKE", ADDRESS, "canary", BODY] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}
