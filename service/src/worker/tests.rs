use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use grantsmith_core::port::{AttemptId, Kept, KeptState};
use grantsmith_core::testing::{ManualClock, grant};
use grantsmith_core::{LicenseKey, Reason};

use super::*;
use crate::issuer::Unlocked;
use crate::store::{
    self, Declaration, Delivery, DeliveryState, Error, GrantRow, GrantState, Progress, Resource, Seen, Shown,
    Sighting,
};

/// A cluster without any key, in which nothing ever happens: it counts the rounds of work.
#[derive(Debug, Default)]
struct Keyless {
    rounds: AtomicUsize,
}

#[async_trait]
impl Issuer for Keyless {
    async fn work(&self, _: &GrantRow) -> Result<Option<Progress>, Error> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    async fn rehearse(&self, _: &GrantRow) -> Progress {
        unreachable!("nothing is observed")
    }

    async fn unlock(&self, row: GrantRow) -> Result<Unlocked, Error> {
        Ok(Unlocked { row, whole: false })
    }

    fn delivered(&self, _: &GrantId, _: &Touched) {}
}

/// A worker on a record of its own.
struct Bench {
    worker: Arc<Worker>,
    store: Arc<dyn Store>,
    clock: ManualClock,
    issuer: Arc<Keyless>,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let clock = ManualClock::default();
        let url = format!("sqlite://{}", folder.path().join("grantsmith.db").display());
        let store = store::open(&url, Arc::new(clock.clone())).await.expect("opens");
        let (issuer, wake) = (Arc::<Keyless>::default(), Arc::new(Notify::new()));
        let worker = Worker::new(Parts {
            store: store.clone(),
            clock: Arc::new(clock.clone()),
            issuer: issuer.clone(),
            touched: Touched::new(wake.clone()),
            stripe: None,
            mailer: None,
            offer: Offer { default_app: None, catalog: None },
            observe: false,
            keep_bodies: Duration::from_secs(1),
            wake,
        });
        Self { worker, store, clock, issuer, folder }
    }

    /// Takes in a grant of people whose key is made and to be mailed.
    async fn declared(&self) -> GrantId {
        let now = self.worker.now();
        let grant = grant("default/press-17").build().expect("a grant");
        let (purchase, licenses) = (grant.purchase, grant.licenses);
        let (name, app_id) = (licenses[0].name.clone(), licenses[0].app_id.clone());
        let kept = Kept {
            name: name.clone(),
            generation: 1,
            key: LicenseKey::new("KEY-1"),
            app_id,
            slots: None,
            created_at: now,
            expires_at: None,
            attempt: Some(AttemptId("a1".to_owned())),
            state: KeptState::Live,
            duplicated: false,
            refused: None,
        };
        let shown = Shown { masked: kept.key.masked(), fingerprint: kept.key.fingerprint() };
        let seen = Seen { kept, shown, delivered: false, reset: None };
        let id = GrantId::of(&purchase);
        let progress = Progress {
            id: id.clone(),
            state: GrantState::Ready,
            reason: Reason::Issued,
            detail: None,
            licenses: vec![(name, Reason::Issued)],
            due: None,
            tries: 0,
            deliver: true,
            sighting: Some(Sighting { licenses: vec![seen], agreed: None }),
            at: now,
        };
        let declaration = Declaration {
            purchase,
            object: Resource { name: "jane".to_owned(), secret: "jane-license".to_owned() },
            livemode: false,
            paid_at: None,
            email: grantsmith_core::Email::new("jane@example.com"),
            created: now,
            licenses,
            progress,
        };
        self.store.take_in(declaration).await.expect("takes in");
        id
    }

    /// The mails that are due.
    async fn mails(&self) -> Vec<Delivery> {
        let most = Most { deliveries: 10, ..Most::default() };
        self.store.due(self.worker.now(), most).await.expect("reads").deliveries
    }
}

#[test]
fn what_ended_since_the_record_was_asked_is_left_to_the_next_pass() {
    let mails = InFlight::new(2);
    let place = mails.enter(&"grant");
    let pass = mails.pass();
    assert!(pass.enter(&"other").is_some());
    drop(place);
    assert!(
        pass.enter(&"grant").is_none(),
        "the record may have been asked before that mail was written down"
    );
    assert!(mails.pass().enter(&"grant").is_some());
}

#[tokio::test]
async fn a_mail_without_its_keys_waits_ever_longer_and_lets_others_pass() {
    let bench = Bench::start().await;
    let id = bench.declared().await;
    let mut waits = Vec::new();
    for _ in 0..12 {
        let mail = bench.mails().await.pop().expect("a mail");
        bench.worker.deliver(mail, &CancellationToken::new()).await;
        assert!(bench.mails().await.is_empty(), "it gives way");
        let mut wait = Duration::ZERO;
        while bench.mails().await.is_empty() {
            bench.clock.advance(Duration::from_secs(1));
            wait += Duration::from_secs(1);
        }
        waits.push(wait.as_secs());
    }
    assert_eq!(waits, [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    let mail = bench.store.grant(&id).await.expect("reads").and_then(|row| row.delivery).expect("a mail");
    assert_eq!((mail.state, mail.reason), (DeliveryState::Due, Some(Reason::KeyPending)));
    assert_eq!(mail.tries, 0, "the mail server was not asked");
}

#[tokio::test]
async fn what_was_put_off_while_the_clock_ran_ahead_is_gone_on_with_once_it_is_set_back() {
    let bench = Bench::start().await;
    let (years, none) = (SignedDuration::from_hours(2 * 365 * 24), CancellationToken::new());
    bench.declared().await;
    let mut offset = SignedDuration::MAX;
    bench.worker.mind_the_clock(&mut offset).await;
    bench.clock.skew(years);
    bench.worker.mind_the_clock(&mut offset).await;
    let mail = bench.mails().await.pop().expect("a mail");
    bench.worker.deliver(mail, &none).await;
    bench.clock.skew(-years);
    assert!(bench.mails().await.is_empty(), "it waits for two years");
    bench.worker.mind_the_clock(&mut offset).await;
    let mail = bench.mails().await.pop().expect("a mail");

    bench.worker.deliver(mail, &none).await;
    bench.clock.skew(-SignedDuration::from_secs(30));
    bench.worker.mind_the_clock(&mut offset).await;
    assert!(bench.mails().await.is_empty(), "a clock may be a little off");
}

#[tokio::test]
async fn what_was_put_off_while_the_clock_ran_ahead_is_gone_on_with_at_a_start() {
    let bench = Bench::start().await;
    let years = SignedDuration::from_hours(2 * 365 * 24);
    bench.declared().await;
    bench.clock.skew(years);
    let mail = bench.mails().await.pop().expect("a mail");
    bench.worker.deliver(mail, &CancellationToken::new()).await;
    bench.clock.skew(-years);
    let mut offset = SignedDuration::MAX;
    bench.worker.mind_the_clock(&mut offset).await;
    assert_eq!(bench.mails().await.len(), 1);
}

#[tokio::test]
async fn a_grant_that_the_cluster_tells_of_outlasts_a_record_that_cannot_be_read() {
    let bench = Bench::start().await;
    let id = bench.declared().await;
    let (there, away) = (bench.folder.path().join("grantsmith.db"), bench.folder.path().join("away"));
    let pass = async || {
        let tasks = TaskTracker::new();
        let nap = bench.worker.start_due(&tasks, &CancellationToken::new()).await;
        tasks.close();
        tasks.wait().await;
        (nap, bench.issuer.rounds.load(Ordering::Relaxed))
    };
    // No reader has it open yet.
    std::fs::rename(&there, &away).expect("takes it away");
    bench.worker.touched.touch(id);
    assert_eq!(pass().await, (BREATHER, 0));
    std::fs::rename(&away, &there).expect("brings it back");
    assert_eq!(pass().await.1, 1);
    assert_eq!(pass().await.1, 1, "once");
}
