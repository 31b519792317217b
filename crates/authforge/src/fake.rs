//! A fake AuthForge: a server over real HTTP that keeps the true history, with a switch for everything the vendor's
//! reference leaves open and a script of faults.
//!
//! - `store` holds the licenses and what happened to them, in memory or in a file that outlives the process.
//! - `api` answers `/v1/licenses` as the switches say, `call` lets each call through key, limit and fault; `admin` answers `/_fake/…`, for other processes and for people.
//! - `serve` owns the sockets, because a dropped connection must really be one.

mod admin;
mod api;
mod call;
mod serve;
mod store;
mod switches;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grantsmith_core::port::{Clock, Moment};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::store::{Deed, Deeds, NewLicense, Stored};
use self::store::{Store, StoreError};
pub use self::switches::{ListOrder, PutAnswer, RateLimit, Switches};

/// The kinds of calls, as faults and counters tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// `POST /v1/licenses`
    Create,
    /// `GET /v1/licenses`
    List,
    /// `GET /v1/licenses/:licenseKey`
    Get,
    /// `PUT /v1/licenses/:licenseKey`
    Put,
}

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The connection drops, and nothing was done.
    LostBefore,
    /// It is done, and the connection drops.
    LostAfter,
    /// It is done twice, as by a repeating proxy, and answered once.
    Duplicated,
    /// The connection drops now, and it is done that many milliseconds later.
    Delayed(u64),
    /// It is done and answered 500, without JSON.
    FiveHundredAfterCommit,
    /// It is answered 500, without JSON, and not done.
    FiveHundredBefore,
    /// It is answered 429 and not done.
    TooManyRequests,
    /// It is done, and half of the answer comes.
    TruncatedBody,
    /// It is answered with this status and not done.
    Status(u16),
}

/// How many calls there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// By kind, faults included.
    pub calls: HashMap<CallKind, u64>,
    /// Answered 429, by switch, limit or fault.
    pub too_many: u64,
    /// Answered 402.
    pub no_credits: u64,
    /// Answered 401.
    pub unauthorized: u64,
    /// The most requests under way at once.
    pub most_in_flight: u64,
}

impl Counts {
    /// How many calls of a kind there were.
    pub fn of(&self, kind: CallKind) -> u64 {
        self.calls.get(&kind).copied().unwrap_or(0)
    }
}

/// Why the fake could not start.
#[derive(Debug, thiserror::Error)]
pub enum FakeError {
    /// No port could be had.
    #[error("could not listen")]
    Listen(#[source] std::io::Error),
    /// Its file cannot be used.
    #[error("could not use the fake's file")]
    Store(#[from] StoreError),
}

/// How a fake is set up. What may change while it runs stands in [`Switches`].
pub struct Settings {
    /// Tells the time, which [`Switches::clock_skew_ms`] shifts.
    pub clock: Arc<dyn Clock>,
    /// Where to accept; none takes a free port on loopback.
    pub listener: Option<TcpListener>,
    /// A file of JSON lines that keeps the licenses over restarts.
    pub state_file: Option<PathBuf>,
    /// How it behaves at first.
    pub switches: Switches,
    /// Where keys and the arbitrary order come from.
    pub seed: u64,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("switches", &self.switches).finish_non_exhaustive()
    }
}

impl Settings {
    /// A fake on a free port that keeps nothing.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, listener: None, state_file: None, switches: Switches::default(), seed: 0 }
    }

    /// The same with other switches.
    #[must_use]
    pub fn with(mut self, switches: Switches) -> Self {
        self.switches = switches;
        self
    }
}

/// All that changes.
struct World {
    switches: Switches,
    store: Store,
    faults: HashMap<CallKind, VecDeque<Fault>>,
    counts: Counts,
    in_flight: u64,
    /// The strict token buckets, one for each API key: level and when it was right.
    buckets: HashMap<String, (f64, Moment)>,
}

/// What the routes share.
struct Shared {
    clock: Arc<dyn Clock>,
    world: Mutex<World>,
    /// Sent after every effect.
    changed: watch::Sender<()>,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fake's own time.
    fn time(&self, world: &World) -> Timestamp {
        let ours = self.clock.now().wall;
        ours.checked_add(SignedDuration::from_millis(world.switches.clock_skew_ms)).unwrap_or(ours)
    }
}

/// A running fake. It stops when this is dropped.
pub struct Fake {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Fake {
    /// Starts a fake; it accepts when this returns.
    pub async fn start(settings: Settings) -> Result<Self, FakeError> {
        let Settings { clock, listener, state_file, switches, seed } = settings;
        let listener = match listener {
            Some(listener) => listener,
            None => TcpListener::bind(("127.0.0.1", 0)).await.map_err(FakeError::Listen)?,
        };
        let address = listener.local_addr().map_err(FakeError::Listen)?;
        let world = World {
            switches,
            store: Store::open(state_file, seed)?,
            faults: HashMap::new(),
            counts: Counts::default(),
            in_flight: 0,
            buckets: HashMap::new(),
        };
        let shared = Arc::new(Shared { clock, world: Mutex::new(world), changed: watch::Sender::new(()) });
        let server = tokio::spawn(serve::accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, server })
    }

    /// Where it is; what `--authforge-url` takes.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was ever done, in order, whether or not anybody was told.
    pub fn history(&self) -> Vec<Deed> {
        self.shared.world().store.history().to_vec()
    }

    /// Every license, oldest first.
    pub fn licenses(&self) -> Vec<Stored> {
        self.shared.world().store.licenses().cloned().collect()
    }

    /// How many calls there were.
    pub fn counts(&self) -> Counts {
        self.shared.world().counts.clone()
    }

    /// Starts the counters anew.
    pub fn reset_counts(&self) {
        self.shared.world().counts = Counts::default();
    }

    /// Scripts what happens to the next calls of a kind, one fault a call.
    pub fn script(&self, kind: CallKind, faults: impl IntoIterator<Item = Fault>) {
        self.shared.world().faults.entry(kind).or_default().extend(faults);
    }

    /// Changes how it behaves from now on.
    pub fn switch(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut self.shared.world().switches);
    }

    /// Makes a license by hand, as the guide's own handler or the dashboard would. Returns its key.
    pub fn insert(&self, license: NewLicense) -> String {
        let mut world = self.shared.world();
        let now = self.shared.time(&world);
        world.store.create(license, now, Deeds::Inserted).key
    }

    /// Revokes a license by hand, as somebody in the dashboard would. False if there is none of that key.
    pub fn revoke_by_hand(&self, key: &str) -> bool {
        let mut world = self.shared.world();
        let now = self.shared.time(&world);
        world.store.change(key, now, Deeds::RevokedByHand, |license| license.revoked = true).is_some()
    }

    /// Waits until the history is as wanted, such as for an effect that a fault has delayed.
    pub async fn until(&self, wanted: impl Fn(&[Deed]) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        while !wanted(self.shared.world().store.history()) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // The open connections hang on the task too, so a stopped fake is gone for its clients.
        self.server.abort();
    }
}
