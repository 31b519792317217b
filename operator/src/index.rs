//! What this process knows of all grants: just enough to tell whose turn it is, who owns a purchase, and what to audit.
//!
//! The objects themselves are not kept. A grant is read anew when it is worked on, and what is settled is told by its status
//! alone, so a hundred thousand of them fit into memory and cost nothing at a restart.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grantsmith_core::port::{Clock, Moment, Priority};
use grantsmith_core::{GrantId, Reason};
use grantsmith_crd::{Cause, KeptState, LicenseGrant, LicenseStatus};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;

use crate::status::{self, Rest};
use crate::validate;

/// The payer's clock and the API server's are taken to be no further apart than this.
const CLOCKS_APART: SignedDuration = SignedDuration::from_secs(10);

/// No purchase is taken for fresh for longer than this.
const MOST_FRESH: Duration = Duration::from_secs(24 * 3_600);

/// The time that a revocation counts for.
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Place {
    /// The place of a namespaced object.
    pub fn of(object: &impl kube::Resource) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.as_deref().unwrap_or_default().into(),
            name: meta.name.as_deref().unwrap_or_default().into(),
        }
    }

    /// Another object of the same namespace.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        Self { namespace: Arc::clone(&self.namespace), name: name.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A license, as the audit compares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The name of its key.
    pub fingerprint: Fingerprint,
    /// Whether it should be live at AuthForge.
    pub live: bool,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Whether the last audit found something.
    pub drifted: bool,
    /// Its app.
    pub app: Arc<str>,
}

/// A fingerprint in sixteen bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u128);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Fingerprint {
    /// Reads the hex digits.
    pub fn parse(hex: &str) -> Option<Self> {
        u128::from_str_radix(hex, 16).ok().map(Self)
    }
}

/// What is known of one grant.
#[derive(Debug)]
struct Brief {
    uid: Box<str>,
    version: u64,
    created: Timestamp,
    purchase: Option<GrantId>,
    /// What the spec calls the Secret, if that is a name of its own.
    secret: Option<Box<str>>,
    rest: Rest,
    priority: Priority,
    reason: Option<Reason>,
    /// There is something to do that its own status does not tell.
    touched: bool,
    /// A license was made or found for it, or a request sent for one.
    tried: bool,
    licenses: Box<[Known]>,
    /// When these licenses were last seen to change.
    changed: Moment,
    first_seen: Moment,
}

impl Brief {
    /// Where the Secret of the grant at `place` is.
    fn secret_of(&self, place: &Place) -> Place {
        match &self.secret {
            Some(name) => place.beside(name),
            None => place.beside(&grantsmith_crd::secret_of(&place.name)),
        }
    }
}

#[derive(Debug)]
struct SecretBrief {
    owner: Box<str>,
    version: Box<str>,
}

#[derive(Debug, Default)]
struct State {
    grants: HashMap<Place, Brief>,
    purchases: HashMap<GrantId, Vec<Place>>,
    owners: HashMap<GrantId, Place>,
    /// Purchases for which a license may exist though no grant says so any more.
    gone: HashMap<GrantId, Moment>,
    secrets: HashMap<Place, SecretBrief>,
    /// Whose each key is, also of those that were found and no status tells of yet.
    keys: HashMap<Fingerprint, Place>,
    /// Since when each namespace has been watched without a gap.
    since: HashMap<Arc<str>, Moment>,
    revocations: BTreeSet<(Timestamp, Fingerprint)>,
    apps: HashMap<Box<str>, Arc<str>>,
}

/// What this process knows of all grants.
pub struct Index {
    installation: String,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("grants", &self.lock().grants.len()).finish_non_exhaustive()
    }
}

/// Whether there may be a license of a purchase that its grant does not know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// There is none of ours: it was paid while we were watching.
    None,
    /// A listing that begins then or later shows it.
    KnownFrom(Moment),
    /// Only a look now tells.
    Unknown,
}

/// What counts as fresh.
#[derive(Debug, Clone, Copy)]
pub struct Fresh {
    /// How far a listing may be behind.
    pub lag: Duration,
    /// How old a purchase may be that is still taken for one of now.
    pub young: SignedDuration,
}

/// Whose turn it is, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Which grant.
    pub place: Place,
    /// Who waits for it.
    pub priority: Priority,
    /// When it was made: of those that wait alike, the newest has somebody waiting at the till.
    pub created: Timestamp,
}

impl Index {
    /// An empty one.
    pub fn new(installation: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self { installation: installation.into(), clock, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a grant as it is listed.
    pub fn observe(&self, grant: &LicenseGrant) {
        self.take_in(grant, true);
    }

    /// Takes in a grant as a watch tells it or as we have written it: either may be behind the other.
    ///
    /// Versions of one object can be compared, as Kubernetes promises since 1.35 and has always done. A listing is believed
    /// whatever its versions: a cluster that was restored from a backup counts them anew.
    pub fn follow(&self, grant: &LicenseGrant) {
        self.take_in(grant, false);
    }

    fn take_in(&self, grant: &LicenseGrant, newest: bool) {
        let place = Place::of(grant);
        let purchase = grant.spec.purchase.purchase_id(&self.installation).ok();
        let version = grant.resource_version().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX);
        let mut state = self.lock();
        let known = state.grants.get(&place).filter(|brief| *brief.uid == *grant.uid().unwrap_or_default());
        if !newest && known.is_some_and(|known| known.version > version) {
            return;
        }
        let licenses: Box<[Known]> = status::kept(grant).filter_map(|license| state.known(license)).collect();
        let known = state.grants.get(&place).filter(|brief| *brief.uid == *grant.uid().unwrap_or_default());
        let changed = match known {
            Some(known) if known.licenses == licenses => known.changed,
            Some(_) => self.clock.now().moment,
            None => Moment::default(),
        };
        let first_seen = known.map_or_else(|| self.clock.now().moment, |known| known.first_seen);
        let brief = Brief {
            uid: grant.uid().unwrap_or_default().into(),
            version,
            created: grant.creation_timestamp().map(|time| time.0).unwrap_or_default(),
            purchase: purchase.as_ref().map(GrantId::of),
            secret: grant
                .spec
                .secret_name
                .as_deref()
                .filter(|name| *name != grantsmith_crd::secret_of(&place.name))
                .map(Into::into),
            rest: status::rest(grant, known.is_none()),
            priority: validate::priority(grant),
            reason: status::reason(grant),
            touched: known.is_some_and(|brief| brief.touched),
            tried: status::is_tried(grant),
            licenses,
            changed,
            first_seen,
        };
        let by_rule = |license: &&LicenseStatus| license.cause == Some(Cause::Rule);
        let spent = status::kept(grant)
            .filter(by_rule)
            .filter_map(|license| Some((license.revoked_at?, Fingerprint::parse(&license.fingerprint)?)));
        state.revocations.extend(spent);
        // One of the same name that is another, or that has lost its record, is a purchase that nothing is known of any more.
        let forgotten =
            state.grants.get(&place).filter(|old| old.tried && (old.uid != brief.uid || !brief.tried));
        if let Some(purchase) = forgotten.and_then(|old| old.purchase.clone()) {
            state.gone.insert(purchase, self.clock.now().moment);
        }
        state.leave(&place, brief.purchase.as_ref());
        if let Some(purchase) = &brief.purchase {
            match state.purchases.entry(purchase.clone()) {
                // Nearly always the only one, and a list that grows by itself has room for four.
                Entry::Vacant(entry) => drop(entry.insert(vec![place.clone()])),
                Entry::Occupied(entry) if entry.get().contains(&place) => {}
                Entry::Occupied(mut entry) => entry.get_mut().push(place.clone()),
            }
        }
        state.grants.insert(place.clone(), brief);
        for key in status::kept(grant).filter_map(|license| Fingerprint::parse(&license.fingerprint)) {
            // Whoever had it first keeps it.
            let _ = state.claim_key(key, &place);
        }
    }

    /// Forgets a grant, and says who may own its purchase now.
    pub fn remove(&self, place: &Place) -> Vec<Place> {
        let now = self.clock.now().moment;
        let mut state = self.lock();
        let heirs = state.leave(place, None);
        if let Some(brief) = state.grants.remove(place) {
            for license in &brief.licenses {
                if state.keys.get(&license.fingerprint) == Some(place) {
                    state.keys.remove(&license.fingerprint);
                }
            }
            if let Some(purchase) = brief.purchase.filter(|_| brief.tried) {
                state.gone.insert(purchase, now);
            }
        }
        for heir in &heirs {
            state.touch(heir);
        }
        heirs
    }

    /// Takes a key for a grant that has found it; gives the grant that has it already, if there is one.
    pub fn claim_key(&self, key: Fingerprint, place: &Place) -> Result<(), Place> {
        self.lock().claim_key(key, place)
    }

    /// The grants of a namespace.
    pub fn grants_in(&self, namespace: &str) -> BTreeSet<Place> {
        self.lock().grants.keys().filter(|place| *place.namespace == *namespace).cloned().collect()
    }

    /// A namespace is listed from now on: what came and went before was not seen.
    pub fn watching(&self, namespace: &str) {
        let now = self.clock.now().moment;
        self.lock().since.insert(namespace.into(), now);
    }

    /// What is known of licenses that a purchase may have besides what its grant says.
    ///
    /// Fresh is what was paid while this process was watching: it has seen all grants of it. That is told without our own wall
    /// clock: how long before the grant came the payment was is told by other clocks, how long we had been watching by ours,
    /// which cannot be set.
    ///
    /// Where it was paid shortly before its grant came, though before we came, only whoever was here before us can have made a
    /// license: any listing since then tells. Of an older one, somebody elsewhere may have made it until the moment that its
    /// grant came here.
    pub fn past(
        &self,
        place: &Place,
        purchase: &GrantId,
        paid_at: Option<Timestamp>,
        Fresh { lag, young }: Fresh,
    ) -> Past {
        let now = self.clock.now().moment;
        let mut state = self.lock();
        // What was made before that is listed by now.
        state.gone.retain(|_, since| now.since(*since) < lag.max(MOST_FRESH));
        let Some(brief) = state.grants.get(place) else { return Past::Unknown };
        if let Some(gone) = state.gone.get(purchase) {
            return Past::KnownFrom(gone.plus(lag));
        }
        let others = state.purchases.get(purchase).into_iter().flatten().filter(|other| *other != place);
        if others.into_iter().any(|other| state.grants.get(other).is_some_and(|brief| brief.tried)) {
            return Past::Unknown;
        }
        let Some(since) = state.since.get(&place.namespace) else { return Past::Unknown };
        let watched = SignedDuration::try_from(brief.first_seen.since(*since)).unwrap_or_default();
        match paid_at.map(|paid_at| brief.created.duration_since(paid_at) + CLOCKS_APART) {
            Some(came_after) if came_after <= watched => Past::None,
            Some(came_after) if came_after <= young => Past::KnownFrom(*since),
            _ => Past::KnownFrom(brief.first_seen),
        }
    }

    /// Claims a purchase for a grant, or says whose it is: of one that has a record, else of the oldest.
    pub fn claim(&self, purchase: &GrantId, place: &Place) -> Result<(), Place> {
        let mut state = self.lock();
        if let Some(owner) = state.owners.get(purchase) {
            return if owner == place { Ok(()) } else { Err(owner.clone()) };
        }
        let claimants = state.purchases.get(purchase).into_iter().flatten();
        let oldest = claimants.min_by_key(|place| {
            state.grants.get(*place).map(|brief| (!brief.tried, brief.created, brief.uid.clone()))
        });
        let owner = oldest.unwrap_or(place).clone();
        state.owners.insert(purchase.clone(), owner.clone());
        if owner == *place { Ok(()) } else { Err(owner) }
    }

    /// What a grant waits for; none if there is no such grant.
    pub fn rest(&self, place: &Place) -> Option<Rest> {
        let state = self.lock();
        let brief = state.grants.get(place)?;
        Some(if brief.touched { Rest::Now } else { brief.rest })
    }

    /// Whose turn it is.
    pub fn turn(&self, place: &Place) -> Option<Turn> {
        let state = self.lock();
        let brief = state.grants.get(place)?;
        Some(Turn { place: place.clone(), priority: brief.priority, created: brief.created })
    }

    /// There is something to do about a grant that its own status does not tell.
    pub fn touch(&self, place: &Place) {
        self.lock().touch(place);
    }

    /// A grant is being looked at, with all that there is to do about it.
    pub fn begin(&self, place: &Place) {
        if let Some(brief) = self.lock().grants.get_mut(place) {
            brief.touched = false;
        }
    }

    /// Takes in a Secret as it is now, and says which grant should look at it: one whose Secret somebody else has changed.
    pub fn observe_secret(&self, place: &Place, owner: &str, version: &str) -> Option<Place> {
        let mut state = self.lock();
        let brief = SecretBrief { owner: owner.into(), version: version.into() };
        match state.secrets.insert(place.clone(), brief) {
            Some(known) if *known.version != *version => state.touch_owner(place),
            _ => None,
        }
    }

    /// Takes in a Secret that we have written ourselves.
    pub fn wrote_secret(&self, place: &Place, owner: &str, version: &str) {
        let brief = SecretBrief { owner: owner.into(), version: version.into() };
        self.lock().secrets.insert(place.clone(), brief);
    }

    /// Forgets a Secret, and says which grant should look at it.
    pub fn remove_secret(&self, place: &Place) -> Option<Place> {
        let mut state = self.lock();
        state.secrets.remove(place);
        state.touch_owner(place)
    }

    /// The Secrets of a namespace.
    pub fn secrets_in(&self, namespace: &str) -> BTreeSet<Place> {
        self.lock().secrets.keys().filter(|place| *place.namespace == *namespace).cloned().collect()
    }

    /// Once all is listed: the grants whose Secret is not there.
    pub fn touch_bereft(&self) -> Vec<Place> {
        let mut state = self.lock();
        let bereft = |(place, brief): (&Place, &Brief)| {
            let there =
                state.secrets.get(&brief.secret_of(place)).is_some_and(|secret| secret.owner == brief.uid);
            (!there && !brief.licenses.is_empty()).then(|| place.clone())
        };
        let places: Vec<Place> = state.grants.iter().filter_map(bereft).collect();
        for place in &places {
            state.touch(place);
        }
        places
    }

    /// How long it is until then.
    pub fn until(&self, at: Timestamp) -> Duration {
        Duration::try_from(at.duration_since(self.clock.now().wall)).unwrap_or_default()
    }

    /// The revocations by rule in the hour before `at`.
    pub fn revocations(&self, at: Timestamp) -> u32 {
        self.lock().revocations_before(at)
    }

    /// Counts a revocation by rule, unless the budget is spent.
    pub fn spend(&self, fingerprint: Fingerprint, at: Timestamp, budget: u32) -> bool {
        let mut state = self.lock();
        let within = state.revocations_before(at) < budget;
        if within {
            state.revocations.insert((at, fingerprint));
        }
        within
    }

    /// A revocation that was counted did not come about.
    pub fn refund(&self, fingerprint: Fingerprint, at: Timestamp) {
        self.lock().revocations.remove(&(at, fingerprint));
    }

    /// Every app that a license is known of.
    pub fn apps(&self) -> BTreeSet<Arc<str>> {
        let state = self.lock();
        state.grants.values().flat_map(|brief| &brief.licenses).map(|known| Arc::clone(&known.app)).collect()
    }

    /// Every license known of an app that has not changed since then, with its grant.
    pub fn licenses(&self, app: &str, since: Moment) -> Vec<(Place, Known)> {
        let state = self.lock();
        let of_app = |(place, brief): (&Place, &Brief)| {
            let known = brief.licenses.iter().filter(|known| *known.app == *app);
            known.map(|known| (place.clone(), known.clone())).collect::<Vec<_>>()
        };
        state.grants.iter().filter(|(_, brief)| brief.changed <= since).flat_map(of_app).collect()
    }

    /// Whether a license is still as it was known.
    pub fn is_still(&self, place: &Place, known: &Known) -> bool {
        self.lock().grants.get(place).is_some_and(|brief| brief.licenses.contains(known))
    }

    /// How many grants there are of each reason; none for those that were not looked at yet.
    pub fn reasons(&self) -> BTreeMap<Option<Reason>, u64> {
        let mut counts = BTreeMap::new();
        for brief in self.lock().grants.values() {
            *counts.entry(brief.reason).or_default() += 1;
        }
        counts
    }
}

impl State {
    fn touch(&mut self, place: &Place) {
        if let Some(brief) = self.grants.get_mut(place) {
            brief.touched = true;
        }
    }

    fn touch_owner(&mut self, secret: &Place) -> Option<Place> {
        let named = |place: &Place, brief: &Brief| brief.secret_of(place) == *secret;
        let own = grantsmith_crd::grant_of(&secret.name).map(|name| secret.beside(name));
        let by_name = own.filter(|place| self.grants.get(place).is_some_and(|brief| named(place, brief)));
        // A Secret with a name of its own is rare, and so is its change.
        let owner = by_name.or_else(|| {
            let mut grants = self.grants.iter().filter(|(_, brief)| brief.secret.is_some());
            grants.find(|(place, brief)| named(place, brief)).map(|(place, _)| place.clone())
        })?;
        self.touch(&owner);
        Some(owner)
    }

    /// Takes a grant away from its purchase, unless it is still the same; says who may own that now.
    fn leave(&mut self, place: &Place, stays: Option<&GrantId>) -> Vec<Place> {
        let old = self.grants.get(place).and_then(|brief| brief.purchase.clone());
        let Some(purchase) = old.filter(|purchase| Some(purchase) != stays) else { return Vec::new() };
        if self.owners.get(&purchase) == Some(place) {
            self.owners.remove(&purchase);
        }
        let Some(places) = self.purchases.get_mut(&purchase) else { return Vec::new() };
        places.retain(|other| other != place);
        let heirs = places.clone();
        if heirs.is_empty() {
            self.purchases.remove(&purchase);
        }
        heirs
    }

    fn claim_key(&mut self, key: Fingerprint, place: &Place) -> Result<(), Place> {
        let owner = self.keys.get(&key).filter(|owner| *owner != place && self.grants.contains_key(*owner));
        if let Some(owner) = owner {
            return Err(owner.clone());
        }
        self.keys.insert(key, place.clone());
        Ok(())
    }

    fn known(&mut self, license: &LicenseStatus) -> Option<Known> {
        let live = match license.state {
            KeptState::Live => true,
            KeptState::Revoked | KeptState::RevokedElsewhere => false,
            // On its way: compared when it has arrived.
            KeptState::Revoking | KeptState::Reinstating => return None,
        };
        let app =
            self.apps.entry(license.app_id.as_str().into()).or_insert_with(|| license.app_id.as_str().into());
        Some(Known {
            fingerprint: Fingerprint::parse(&license.fingerprint)?,
            live,
            expires_at: license.expires_at,
            drifted: license.drift.is_some(),
            app: Arc::clone(app),
        })
    }

    fn revocations_before(&mut self, at: Timestamp) -> u32 {
        let hour_ago = at.checked_sub(HOUR).unwrap_or(Timestamp::MIN);
        self.revocations.retain(|(spent, _)| *spent > hour_ago);
        u32::try_from(self.revocations.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
