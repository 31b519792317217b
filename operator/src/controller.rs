//! The wiring: watches, workers, audits and the lease, from the start to the stop.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use grantsmith_authforge::Client as AuthForge;
use grantsmith_core::AppId;
use grantsmith_core::execute::Executor;
use grantsmith_core::plan::Policy;
use grantsmith_core::port::{AttemptId, Clock, LicenseApi};
use kube::api::Api;
use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::attempts::Attempts;
use crate::audit::Audit;
use crate::config::DriftPolicy;
use crate::elsewhere::Elsewhere;
use crate::events::Events;
use crate::index::{Index, Place};
use crate::lease::{Fenced, Lease};
use crate::queue::Queue;
use crate::reconcile::{Next, Reconciler};
use crate::status::Rest;
use crate::validate::Rules;
use crate::watch::{Sight, Watch};

/// Work that is under way gets this long when the program stops.
const FINISH_WITHIN: Duration = Duration::from_secs(18);

/// What a controller is made of.
pub struct Parts {
    /// The cluster, for calls that are answered soon.
    pub client: kube::Client,
    /// The cluster, for watches.
    pub watching: kube::Client,
    /// AuthForge.
    pub authforge: AuthForge,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The namespace of the grants.
    pub namespace: String,
    /// What this installation is called.
    pub installation: String,
    /// Which namespaces may use which apps.
    pub allowed: BTreeMap<String, BTreeSet<AppId>>,
    /// The times and limits.
    pub policy: Policy,
    /// How many grants are worked on at once.
    pub concurrency: u16,
    /// Whether a lease is held while working.
    pub leader_election: bool,
    /// What this replica is called.
    pub instance: String,
    /// How often all licenses are compared.
    pub drift_interval: Duration,
    /// What is done about those that differ.
    pub drift_policy: DriftPolicy,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// Everything that runs.
#[derive(Debug)]
pub struct Controller {
    /// What was seen of the cluster.
    pub sight: Arc<Sight>,
    /// What is known of grants.
    pub index: Arc<Index>,
    /// Which of them wait.
    pub queue: Arc<Queue>,
    /// Who may write.
    pub lease: Arc<Lease>,
    reconciler: Arc<Reconciler>,
    watch: Watch,
    audit: Audit,
    elsewhere: Elsewhere,
    namespaces: BTreeSet<String>,
    concurrency: u16,
}

impl Controller {
    /// Puts the parts together; nothing runs yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { client, clock, .. } = parts;
        let namespaces: BTreeSet<String> =
            parts.allowed.keys().cloned().chain([parts.namespace.clone()]).collect();
        let index = Arc::new(Index::new(&parts.installation, Arc::clone(&clock)));
        let queue = Arc::new(Queue::new(Arc::clone(&clock)));
        let sight = Arc::new(Sight::new(&namespaces));
        let lease = Arc::new(if parts.leader_election {
            // Beside the grants: whoever works on these is kept apart, wherever it runs.
            let api = Api::namespaced(client.clone(), &parts.namespace);
            Lease::new(api, parts.instance.clone(), Arc::clone(&clock))
        } else {
            Lease::alone(Arc::clone(&clock))
        });
        let api: Arc<dyn LicenseApi> = Arc::new(Fenced::new(parts.authforge, Arc::clone(&lease)));
        let attempts = Arc::new(Attempts::new(client.clone(), Arc::clone(&index), Arc::clone(&clock)));
        let lag = parts.policy.quarantine;
        let executor =
            Executor::new(Arc::clone(&api), attempts.clone(), Arc::clone(&clock), parts.policy, new_attempt);
        let events = Events::new(client.clone(), &parts.instance);
        let reconciler = Arc::new(Reconciler {
            client,
            rules: Rules { installation: parts.installation, allowed: parts.allowed },
            index: Arc::clone(&index),
            attempts,
            executor,
            api: Arc::clone(&api),
            clock: Arc::clone(&clock),
            events: events.clone(),
            lease: Arc::clone(&lease),
            findings: Mutex::default(),
        });
        let elsewhere = Elsewhere {
            client: reconciler.client.clone(),
            watching: parts.watching.clone(),
            served: namespaces.clone(),
            lease: Arc::clone(&lease),
            clock: Arc::clone(&clock),
        };
        let watch = Watch {
            client: parts.watching,
            sight: Arc::clone(&sight),
            index: Arc::clone(&index),
            queue: Arc::clone(&queue),
            events,
            lease: Arc::clone(&lease),
        };
        let audit = Audit {
            reconciler: Arc::clone(&reconciler),
            index: Arc::clone(&index),
            queue: Arc::clone(&queue),
            lease: Arc::clone(&lease),
            api,
            clock,
            every: parts.drift_interval,
            policy: parts.drift_policy,
            lag,
        };
        let concurrency = parts.concurrency;
        Self { sight, index, queue, lease, reconciler, watch, audit, elsewhere, namespaces, concurrency }
    }

    /// Runs until `stop`; then finishes what is under way, and gives the lease back.
    pub async fn run(self, stop: CancellationToken) {
        let Self { sight, index, queue, lease, reconciler, watch, audit, elsewhere, namespaces, concurrency } =
            self;
        let mut background = JoinSet::new();
        for namespace in namespaces {
            let (grants, secrets, both) = (watch.clone(), watch.clone(), namespace.clone());
            background.spawn(async move { grants.grants(namespace).await });
            background.spawn(async move { secrets.secrets(both).await });
        }
        background.spawn(elsewhere.run());
        let seen = Arc::clone(&sight);
        background.spawn(async move {
            seen.all().await;
            audit.run().await;
        });
        let release = CancellationToken::new();
        let (campaigner, released) = (Arc::clone(&lease), release.clone());
        let campaign = tokio::spawn(async move { campaigner.campaign(released).await });

        let worker = Worker { sight, index, queue, lease, reconciler };
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            workers.spawn(worker.clone().work(stop.clone()));
        }
        stop.cancelled().await;
        let all = async { while workers.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH_WITHIN, all).await.is_err() {
            tracing::warn!("not everything ended in time; the next leader goes on from what is written");
        }
        drop(workers);
        release.cancel();
        if campaign.await.is_err() {
            tracing::warn!("the lease was not given back");
        }
        background.shutdown().await;
    }
}

/// Takes one grant after the other.
#[derive(Debug, Clone)]
struct Worker {
    sight: Arc<Sight>,
    index: Arc<Index>,
    queue: Arc<Queue>,
    lease: Arc<Lease>,
    reconciler: Arc<Reconciler>,
}

impl Worker {
    async fn work(self, stop: CancellationToken) {
        let known = async {
            self.sight.all().await;
            self.lease.wait().await;
        };
        if stop.run_until_cancelled(known).await.is_none() {
            return;
        }
        while let Some(place) = stop.run_until_cancelled(self.next()).await {
            let wait = self.take(&place).await;
            let next = wait.and_then(|wait| Some((self.index.turn(&place)?, wait)));
            self.queue.done(&place, next);
        }
    }

    /// The next grant, once the lease is held.
    async fn next(&self) -> Place {
        loop {
            self.lease.wait().await;
            let place = self.queue.next().await;
            if self.lease.is_held() {
                return place;
            }
            // It waited in the queue while the lease went.
            let turn = self.index.turn(&place);
            self.queue.done(&place, turn.map(|turn| (turn, Duration::ZERO)));
        }
    }

    /// Looks at a grant, and says when to look again. What is settled is told without asking anybody.
    async fn take(&self, place: &Place) -> Option<Duration> {
        let due = match self.index.rest(place)? {
            Rest::Settled => return None,
            Rest::At(at) => self.index.until(at),
            Rest::Now => Duration::ZERO,
        };
        if !due.is_zero() {
            return Some(due);
        }
        let span = tracing::info_span!("grant", grant = %place);
        match self.reconciler.reconcile(place).instrument(span).await {
            Next::In(wait) => Some(wait),
            Next::Again => {
                self.index.touch(place);
                Some(Duration::ZERO)
            }
            Next::Rest => match self.index.rest(place)? {
                Rest::Settled => None,
                Rest::At(at) => Some(self.index.until(at)),
                Rest::Now => Some(Duration::ZERO),
            },
        }
    }
}

fn new_attempt() -> AttemptId {
    AttemptId(BASE64URL_NOPAD.encode(&rand::rng().random::<[u8; 15]>()))
}
