//! The operator dies, or an answer does, at each effect that it has, and nobody gets two keys and nobody none.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::{self, CallKind, NewLicense};
use grantsmith_core::port::Clock as _;
use grantsmith_tests::cluster::config;
use grantsmith_tests::program::signal;
use grantsmith_tests::proxy::{Fate, Passing, Proxy};
use grantsmith_tests::realm::{Realm, manual};
use grantsmith_tests::{APP, Cluster, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// Short enough for a test, and longer than the fake's listings lag.
const QUARANTINE: &[&str] = &["--lost-create-quarantine", "2s"];

/// When what an attempt made besides has been looked for: five minutes after it, on a grid of five.
const LATER: i64 = 11 * 60;

/// How many operators run beside each other.
const AT_ONCE: usize = 4;

/// What happens at one effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KilledBefore,
    KilledAfter,
    AnswerLost,
    Repeated,
}

const FAULTS: [Fault; 4] = [Fault::KilledBefore, Fault::KilledAfter, Fault::AnswerLost, Fault::Repeated];

/// Counts the effects that an operator has on both servers, and spoils one.
#[derive(Debug, Default)]
struct Saboteur {
    /// Which effect, counted from 0, and how.
    plan: Option<(usize, Fault)>,
    seen: Mutex<Vec<String>>,
    victim: Mutex<Option<u32>>,
    killed: Notify,
}

impl Saboteur {
    fn judge(self: &Arc<Self>, passing: Passing<'_>) -> Fate {
        let path = passing.uri.path();
        // The lease and what is told are no effects that a key depends on.
        if passing.method.is_safe() || path.contains("/leases") || path.contains("/events") {
            return Fate::Pass;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let number = seen.len();
        seen.push(format!("{} {path}", passing.method));
        drop(seen);
        let Some((_, fault)) = self.plan.filter(|(planned, _)| *planned == number) else { return Fate::Pass };
        match fault {
            Fault::KilledBefore => {
                self.kill();
                Fate::Drop
            }
            Fault::KilledAfter => {
                let saboteur = Arc::clone(self);
                Fate::Then(Box::new(move || {
                    saboteur.kill();
                    false
                }))
            }
            Fault::AnswerLost => Fate::Then(Box::new(|| false)),
            Fault::Repeated => Fate::Repeat,
        }
    }

    fn kill(&self) {
        let victim = self.victim.lock().unwrap_or_else(PoisonError::into_inner).take();
        signal(victim.expect("an operator"), Signal::KILL);
        self.killed.notify_one();
    }

    fn effects(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Keeps an operator running between the two proxies, for ever.
async fn keep_running(realm: &Realm<'_>, saboteur: &Arc<Saboteur>) {
    let judge = |saboteur: &Arc<Saboteur>| {
        let saboteur = Arc::clone(saboteur);
        move |passing: Passing<'_>| saboteur.judge(passing)
    };
    let api = Proxy::start(config(&realm.cluster.kubeconfig()).await, judge(saboteur)).await;
    let authforge = kube::Config::new(realm.authforge.url().parse().expect("an address"));
    let authforge = Proxy::start(authforge, judge(saboteur)).await;
    let mut start = realm.plan(QUARANTINE);
    start.flags.extend(["--leader-election".to_owned(), "false".to_owned()]);
    (start.api, start.authforge) = (api.url(), authforge.url());
    loop {
        let operator = realm.start(&start).await;
        *saboteur.victim.lock().unwrap_or_else(PoisonError::into_inner) = Some(operator.pid());
        saboteur.killed.notified().await;
        operator.kill().await;
    }
}

fn spec(change: &Value) -> Value {
    let mut spec = manual("jane");
    for (name, value) in change.as_object().expect("fields") {
        spec["licenses"][0][name] = value.clone();
    }
    spec
}

/// A grant's life: a key, taken away, given back, prolonged, its devices unbound.
async fn live(realm: &Realm<'_>) {
    let purchase = manual("jane")["purchase"].clone();
    let declare = async |change: Value| {
        let mut spec = spec(&change);
        spec["purchase"] = purchase.clone();
        realm.declare("jane", &spec).await;
        realm.until_settled("jane").await;
    };
    declare(json!({})).await;
    declare(json!({"state": "Suspended", "reason": "Disputed"})).await;
    declare(json!({"state": "Active"})).await;
    let end = "2031-01-01T00:00:00Z";
    declare(json!({"state": "Active", "expiresAt": end})).await;
    // A wish from before the grant was made would be passed over.
    let wish = SystemClock.now().wall;
    declare(json!({"state": "Active", "expiresAt": end, "devicesResetAt": wish})).await;
}

/// Lives that life under a fault; gives the effects that there were.
async fn survive(plan: Option<(usize, Fault)>) -> Vec<String> {
    let realm = Realm::new(Cluster::shared().await).await;
    let others = [
        realm.authforge.insert(NewLicense::labeled(APP, "Grant default/somebody-else")),
        realm.authforge.insert(NewLicense { label: None, ..NewLicense::labeled(APP, "") }),
    ];
    let saboteur = Arc::new(Saboteur { plan, ..Saboteur::default() });
    tokio::select! {
        () = live(&realm) => {}
        () = keep_running(&realm, &saboteur) => {}
    }
    let keys = realm.keys("jane").await;
    let key = keys.get("main").unwrap_or_else(|| panic!("{plan:?}: no key in {keys:?}"));
    if realm.created() > 1 {
        assert!(realm.created() == 2, "{plan:?}: {:?}", realm.authforge.history());
        let mut later = realm.plan(QUARANTINE);
        later.flags.extend(["--leader-election".to_owned(), "false".to_owned()]);
        later.ahead = LATER;
        let _operator = realm.start(&later).await;
        until(&format!("{plan:?}: the surplus to go"), async || {
            (realm.live("jane").len() == 1).then_some(())
        })
        .await;
    }
    assert_eq!(realm.live("jane"), std::slice::from_ref(key), "{plan:?}: {:?}", realm.authforge.history());
    let licenses = realm.authforge.licenses();
    let jane = licenses.iter().find(|license| license.key == *key).expect("her license");
    assert_eq!(jane.expires_at, Some("2031-01-01T00:00:00Z".parse().expect("a time")), "{plan:?}");
    let resets = realm.resets();
    match plan {
        None => assert_eq!(resets, 1),
        // By the network, not by us.
        Some((_, Fault::Repeated)) => {}
        Some(_) => assert!(resets <= 1, "{plan:?}: the buyer may have bound a device anew"),
    }
    for other in others {
        assert!(
            licenses.iter().any(|license| license.key == other && !license.revoked),
            "{plan:?}: untouched"
        );
    }
    saboteur.effects()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_or_unheard_at_any_effect_it_leaves_one_key_and_touches_nothing_else() {
    let effects = survive(None).await;
    let kinds: BTreeSet<_> = effects.iter().map(|effect| effect.split(' ').next()).collect();
    assert!(effects.len() >= 8 && kinds.len() >= 2, "these are effects: {effects:#?}");
    let cases = (0..effects.len()).flat_map(|number| FAULTS.map(|fault| (number, fault)));
    let cases = cases.map(|case| tokio::spawn(survive(Some(case))));
    futures_util::stream::iter(cases)
        .buffer_unordered(AT_ONCE)
        .for_each(async |ended| {
            ended.expect("it survives");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_the_answer_to_a_create_there_is_one_key() {
    let faults = [
        fake::Fault::LostBefore,
        fake::Fault::LostAfter,
        fake::Fault::Duplicated,
        fake::Fault::Delayed(1_000),
        fake::Fault::FiveHundredAfterCommit,
        fake::Fault::FiveHundredBefore,
        fake::Fault::TooManyRequests,
        fake::Fault::TruncatedBody,
    ];
    for fault in faults {
        let realm = Realm::new(Cluster::shared().await).await;
        let operator = realm.operator(QUARANTINE).await;
        realm.authforge.script(CallKind::Create, [fault]);
        let key = realm.issue("jane").await;
        operator.kill().await;
        let mut later = realm.plan(QUARANTINE);
        later.flags.extend(["--leader-election".to_owned(), "false".to_owned()]);
        later.ahead = LATER;
        let _operator = realm.start(&later).await;
        until(&format!("{fault:?}: one key"), async || (realm.live("jane") == [key.clone()]).then_some(()))
            .await;
        assert_eq!(realm.keys("jane").await["main"], key, "{fault:?}");
    }
}
