//! What the port promises, claimed under every value of everything that AuthForge's reference leaves open.

#[path = "contract/canned.rs"]
mod canned;
#[path = "contract/fake.rs"]
mod fake;
#[path = "contract/faults.rs"]
mod faults;
#[path = "contract/listing.rs"]
mod listing;
mod support;

use std::sync::Arc;

use grantsmith_authforge::fake::{CallKind, Deeds, ListOrder, NewLicense, PutAnswer, RateLimit, Switches};
use grantsmith_authforge::{ApiKey, Pace};
use grantsmith_core::port::{Class, Clock as _, CreateLicense, LicenseApi, Priority};
use grantsmith_core::{LicenseKey, LicenseStatus, Slots};

use canned::canned;
use support::{APP, Bench, app, at, client_of, label, order};

type Change = fn(&mut Switches);

/// Every switch of the fake that a sale may meet, at its other value.
const VARIATIONS: &[(&str, Change)] = &[
    ("as documented", |_| ()),
    ("list without labels", |s| s.list_labels = false),
    ("list without slots", |s| s.list_slots = false),
    ("list with devices", |s| s.list_hwids = true),
    ("list without createdAt", |s| s.list_created_at = false),
    ("list of bare rows", |s| (s.list_labels, s.list_slots, s.list_created_at) = (false, false, false)),
    ("list oldest first", |s| s.list_order = ListOrder::Oldest),
    ("list in any order", |s| s.list_order = ListOrder::Arbitrary),
    ("strict rate limit", |s| s.rate_limit = Some(RateLimit::DOCUMENTED)),
    ("429 of a gateway", |s| (s.documented_429, s.retry_after) = (false, Some(1))),
    ("foreign app is 404", |s| s.foreign_app_status = 404),
    ("repetitions refused", |s| s.repeat_refused = true),
    ("shortening refused", |s| s.shorten_refused = true),
    ("extending revoked refused", |s| s.extend_revoked_refused = true),
    ("re-activation refused", |s| s.activate_refused = true),
    ("another name for re-activation", |s| s.activate_action = String::from("reactivate")),
    ("get-one wrapped", |s| s.get_wrapped = true),
    ("PUT answers a part", |s| s.put_answer = PutAnswer::Partial),
    ("PUT answers nothing", |s| s.put_answer = PutAnswer::Empty),
    ("PUT answers nothing, repetitions refused", |s| {
        (s.put_answer, s.repeat_refused, s.get_wrapped) = (PutAnswer::Empty, true, true);
    }),
    ("ten slots at most", |s| s.slots_ceiling = 10),
    ("unknown fields refused", |s| s.unknown_fields_refused = true),
    ("no unlimited slots", |s| s.unlimited_supported = false),
    ("no unlimited slots, unknown fields refused", |s| {
        (s.unlimited_supported, s.unknown_fields_refused) = (false, true);
    }),
    ("create answers the label", |s| s.create_label = true),
    ("no Date", |s| s.date_header = false),
    ("their clock is 90 s ahead", |s| s.clock_skew_ms = 90_000),
    ("their clock is 90 s behind", |s| s.clock_skew_ms = -90_000),
    ("slow", |s| s.latency_ms = 30),
];

/// Says under which variation a claim failed.
struct Under(&'static str);

impl Drop for Under {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("under the variation '{}'", self.0);
        }
    }
}

async fn under_each_variation(claim: impl AsyncFn(&Bench, &Switches)) {
    for (name, change) in VARIATIONS {
        let _under = Under(name);
        let mut switches = Switches::default();
        change(&mut switches);
        let action = switches.activate_action.clone();
        let bench = Bench::tuned(switches.clone(), |settings| settings.activate_action = action).await;
        claim(&bench, &switches).await;
    }
}

#[tokio::test]
async fn a_created_license_is_as_ordered() {
    under_each_variation(async |bench, _| {
        let license = bench.create("cs_test_1").await.expect("created");
        assert_eq!(license.app_id, app());
        assert_eq!(license.status, LicenseStatus::Active);
        assert_eq!(license.expires_at, Some(at("2027-01-01T00:00:00Z")));
        assert_eq!(license.slots, Some(Slots::Limited(2)));
        assert_eq!(license.label.as_deref(), Some(label("cs_test_1").as_str()));
        let [stored] = bench.fake.licenses().try_into().expect("one");
        assert_eq!((stored.key.as_str(), stored.expires_at), (license.key.expose(), license.expires_at));
        assert_eq!((stored.label, stored.max_hwid_slots), (license.label, 2));
        assert_eq!(bench.fake.counts().of(CallKind::Create), 1);
    })
    .await;
}

#[tokio::test]
async fn a_lifetime_license_without_a_device_limit_can_be_ordered_where_there_is_one() {
    under_each_variation(async |bench, switches| {
        bench.client.reserve_create(Priority::Buyer).await.expect("reserved");
        let order = CreateLicense { expires_at: None, slots: Slots::Unlimited, ..order("cs_test_1") };
        let result = bench.client.create(&order).await;
        match (switches.unlimited_supported, switches.unknown_fields_refused) {
            (true, _) => {
                let license = result.expect("created");
                assert_eq!((license.expires_at, license.slots), (None, Some(Slots::Unlimited)));
            }
            (false, true) => assert_eq!(result.expect_err("refused").class, Class::Rejected),
            // The answer shows what was really made.
            (false, false) => assert_eq!(result.expect("created").slots, Some(Slots::Limited(1))),
        }
    })
    .await;
}

#[tokio::test]
async fn devices_are_unbound_and_nothing_else_changes() {
    under_each_variation(async |bench, _| {
        let license = bench.create("cs_test_1").await.expect("created");
        let [before] = bench.fake.licenses().try_into().expect("one");
        bench.client.reset_devices(&license.key, Priority::Buyer).await.expect("unbound");
        let resets = bench.fake.history().into_iter().filter(|deed| deed.what == Deeds::DevicesReset);
        assert_eq!(resets.map(|deed| deed.key).collect::<Vec<_>>(), [license.key.expose()]);
        let [after] = bench.fake.licenses().try_into().expect("one");
        assert_eq!(before, after);
    })
    .await;
}

#[tokio::test]
async fn a_listing_has_every_page_and_every_label() {
    under_each_variation(async |bench, _| {
        let ours = bench.create("cs_test_1").await.expect("created");
        for n in 0..30 {
            bench.fake.insert(NewLicense::labeled(APP, label(&format!("cs_guide_{n}")).as_str()));
        }
        let other = bench.fake.insert(NewLicense::labeled("another-app", label("cs_test_1").as_str()));
        let unlabeled = NewLicense { label: None, ..NewLicense::labeled(APP, "") };
        bench.fake.insert(unlabeled);
        let listing = bench.client.list(&app(), bench.now(), Priority::Buyer).await.expect("listing");
        assert!(listing.is_complete());
        let [found] = listing.labeled(&label("cs_test_1")) else { panic!("one license has that label") };
        assert_eq!((&found.key, found.status, found.expires_at), (&ours.key, ours.status, ours.expires_at));
        assert_ne!(found.key.expose(), other);
        for n in 0..30 {
            assert_eq!(listing.labeled(&label(&format!("cs_guide_{n}"))).len(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn revoking_can_be_repeated() {
    under_each_variation(async |bench, _| {
        let license = bench.create("cs_test_1").await.expect("created");
        for _ in 0..3 {
            bench.client.revoke(&license.key, Priority::Refund).await.expect("revoked");
        }
        assert!(bench.fake.licenses()[0].revoked);
    })
    .await;
}

#[tokio::test]
async fn reinstating_can_be_repeated_or_is_rejected() {
    under_each_variation(async |bench, switches| {
        let license = bench.create("cs_test_1").await.expect("created");
        bench.client.revoke(&license.key, Priority::Refund).await.expect("revoked");
        for _ in 0..3 {
            let result = bench.client.reinstate(&license.key, Priority::Buyer).await;
            if switches.activate_refused {
                assert_eq!(result.expect_err("refused").class, Class::Refused);
            } else {
                result.expect("reinstated");
            }
        }
        assert_eq!(bench.fake.licenses()[0].revoked, switches.activate_refused);
    })
    .await;
}

#[tokio::test]
async fn extending_sets_an_absolute_time_and_can_be_repeated() {
    under_each_variation(async |bench, switches| {
        let license = bench.create("cs_test_1").await.expect("created");
        let extend = async |to| bench.client.extend(&license.key, to, Priority::Renewal).await;
        for _ in 0..2 {
            extend(Some(at("2028-01-01T00:00:00Z"))).await.expect("extended");
        }
        assert_eq!(bench.fake.licenses()[0].expires_at, Some(at("2028-01-01T00:00:00Z")));
        let shortened = extend(Some(at("2026-06-01T00:00:00Z"))).await;
        if switches.shorten_refused {
            assert_eq!(shortened.expect_err("refused").class, Class::Refused);
        } else {
            shortened.expect("shortened");
        }
        bench.client.revoke(&license.key, Priority::Refund).await.expect("revoked");
        let late = extend(Some(at("2029-01-01T00:00:00Z"))).await;
        assert_eq!(late.is_err(), switches.extend_revoked_refused);
    })
    .await;
}

#[tokio::test]
async fn an_unknown_key_is_gone() {
    under_each_variation(async |bench, _| {
        // What is no key does not reach a license's route at all.
        let unknown = [("ABCD-EFGH-JKLM-NPQR", Class::Gone), ("a/b?c#d", Class::Gone)];
        for (key, class) in unknown.into_iter().chain([("..", Class::Rejected), ("", Class::Rejected)]) {
            let key = LicenseKey::new(key);
            for result in [
                bench.client.revoke(&key, Priority::Refund).await,
                bench.client.reinstate(&key, Priority::Refund).await,
                bench.client.extend(&key, None, Priority::Refund).await,
            ] {
                assert_eq!(result.expect_err("unknown").class, class);
            }
        }
        let unknown = LicenseKey::new("ABCD-EFGH-JKLM-NPQR");
        assert_eq!(bench.client.get(&app(), &unknown, Priority::Buyer).await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn one_license_reads_whole() {
    under_each_variation(async |bench, _| {
        let made = bench.create("cs_test_1").await.expect("created");
        let read = bench.client.get(&app(), &made.key, Priority::Buyer).await.expect("read").expect("there");
        assert_eq!((read.key, read.label, read.expires_at), (made.key, made.label, made.expires_at));
    })
    .await;
}

#[tokio::test]
async fn what_was_made_lies_in_the_window_that_the_clocks_give() {
    under_each_variation(async |bench, switches| {
        // The first answer tells the time.
        bench.client.list(&app(), bench.now(), Priority::Buyer).await.expect("listing");
        let offset = bench.client.clock_offset();
        let off_by = offset.as_millis() - i128::from(switches.clock_skew_ms);
        if switches.date_header {
            assert!(off_by.abs() <= 1_000, "{off_by} ms");
        } else {
            assert!(offset.is_zero());
        }
    })
    .await;
}

#[tokio::test]
async fn a_foreign_app_is_rejected() {
    for foreign_app_status in [403, 404] {
        let apps = Some(vec!["ours".to_owned()]);
        let bench = Bench::with(Switches { apps, foreign_app_status, ..Switches::default() }).await;
        assert_eq!(bench.create("cs_test_1").await.expect_err("foreign").class, Class::Rejected);
        let listed = bench.client.list(&app(), bench.now(), Priority::Buyer).await;
        assert_eq!(listed.expect_err("foreign").class, Class::Rejected);
    }
}

#[tokio::test]
async fn an_action_that_is_ignored_and_answered_200_does_not_count_as_done() {
    let bench = Bench::with(Switches::default()).await;
    let license = bench.create("cs_test_1").await.expect("created");
    bench.client.revoke(&license.key, Priority::Refund).await.expect("revoked");
    // A service whose word for it is another, and that ignores what it does not know: here, an extension.
    let client = client_of(&bench.fake.url(), &bench.key, &bench.clock, |settings| {
        settings.activate_action = "reset-hwid".to_owned();
    });
    let error = client.reinstate(&license.key, Priority::Buyer).await.expect_err("still revoked");
    assert_eq!(error.class, Class::Refused);
}

#[tokio::test]
async fn a_create_without_a_turn_is_not_sent() {
    let burst =
        |settings: &mut grantsmith_authforge::Settings| settings.pace = Pace { per_second: 1, burst: 1 };
    let bench = Bench::tuned(Switches::default(), burst).await;
    bench.create("cs_test_1").await.expect("created");
    let error = bench.client.create(&order("cs_test_2")).await.expect_err("no turn");
    assert_eq!((error.class, bench.fake.counts().of(CallKind::Create)), (Class::Transient, 1));
}

#[tokio::test]
async fn what_a_create_answer_leaves_out_is_as_ordered() {
    let bench = Bench::with(Switches::default()).await;
    let url = canned(r#"{"licenses":[{"licenseKey":"ABCD-EFGH-JKLM-NPQR"}]}"#).await;
    let client = client_of(&url, &bench.key, &bench.clock, |_| ());
    client.reserve_create(Priority::Buyer).await.expect("reserved");
    let license = client.create(&order("cs_test_1")).await.expect("created");
    assert_eq!((license.status, license.slots), (LicenseStatus::Active, Some(Slots::Limited(2))));
    assert_eq!((license.app_id, license.expires_at), (app(), Some(at("2027-01-01T00:00:00Z"))));
    assert_eq!(license.created_at.duration_since(bench.clock.now().wall).as_secs(), 0);
}

#[tokio::test]
async fn a_key_rotated_at_run_time_is_used_by_the_next_call() {
    let bench = Bench::with(Switches::default()).await;
    bench.create("cs_test_1").await.expect("created");
    bench.key.store(Arc::new(ApiKey::new("af_live_new")));
    bench.fake.switch(|switches| switches.accepted_key = Some("af_live_new".to_owned()));
    bench.create("cs_test_2").await.expect("created");
    assert_eq!(bench.fake.counts().unauthorized, 0);
}

#[tokio::test]
async fn a_base_url_may_end_in_a_slash_and_have_a_path() {
    let bench = Bench::with(Switches::default()).await;
    let url = format!("{}/", bench.fake.url());
    let client = client_of(&url, &bench.key, &bench.clock, |_| ());
    assert!(client.list(&app(), bench.now(), Priority::Buyer).await.expect("listing").is_complete());
    let below = client_of(&format!("{url}gateway/"), &bench.key, &bench.clock, |_| ());
    // The fake has nothing there.
    assert_eq!(
        below.list(&app(), bench.now(), Priority::Buyer).await.expect_err("404").class,
        Class::Rejected
    );
}
