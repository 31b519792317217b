//! AuthForge in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::{Crash, ManualClock, lock};
use crate::label::Label;
use crate::license::{AppId, License, LicenseKey, LicenseStatus};
use crate::port::{ApiError, Class, Clock, CreateLicense, LicenseApi, Listing, Moment, Priority};

/// What goes wrong with one create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request never arrives.
    LostBefore,
    /// It is done, and the answer lost.
    LostAfter,
    /// It is done twice, and answered once.
    Duplicated,
    /// The caller gives up, and it is done that much later.
    Delayed(Duration),
    /// It is done, and answered with 500.
    FailedAfterCommit,
    /// It is refused with 429.
    TooMany,
}

/// What truly is at AuthForge.
#[derive(Debug, Default)]
pub struct Truth {
    /// Every license ever made, in order.
    pub licenses: Vec<License>,
    /// Creates that arrived.
    pub creates: usize,
    /// Listings that were asked for.
    pub lists: usize,
    /// Keys that were asked to be revoked, in order.
    pub revocations: Vec<LicenseKey>,
    /// Keys that were asked to be brought back, in order.
    pub reinstatements: Vec<LicenseKey>,
    /// Keys whose devices were unbound, in order.
    pub resets: Vec<LicenseKey>,
    visible_at: Vec<Moment>,
    /// When a license was in another status, and in which, until then.
    changes: Vec<(Moment, LicenseKey, LicenseStatus)>,
    change_faults: VecDeque<Class>,
    reset_faults: VecDeque<Class>,
    delayed: Vec<(Moment, CreateLicense)>,
    faults: VecDeque<Option<Fault>>,
    broken_lists: VecDeque<usize>,
    lag: Duration,
    ahead: SignedDuration,
    tells_time: bool,
}

/// AuthForge in memory, with faults by script.
#[derive(Debug, Clone, Default)]
pub struct FakeApi {
    truth: Arc<Mutex<Truth>>,
    clock: ManualClock,
    crash: Crash,
}

impl FakeApi {
    pub(super) fn new(clock: ManualClock, crash: Crash) -> Self {
        let truth = Truth { tells_time: true, ..Truth::default() };
        Self { truth: Arc::new(Mutex::new(truth)), clock, crash }
    }

    /// What goes wrong with the next creates, in order.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        lock(&self.truth).faults = faults.into_iter().collect();
    }

    /// How the next calls to unbind devices fail, in order, without effect.
    pub fn refuse_resets(&self, classes: impl IntoIterator<Item = Class>) {
        lock(&self.truth).reset_faults = classes.into_iter().collect();
    }

    /// How the next revocations and reinstatements fail, in order, without effect.
    pub fn refuse_changes(&self, classes: impl IntoIterator<Item = Class>) {
        lock(&self.truth).change_faults = classes.into_iter().collect();
    }

    /// How long a new license stays out of listings, and a changed one in them as it was.
    pub fn lag(&self, lag: Duration) {
        lock(&self.truth).lag = lag;
    }

    /// The next listings stop after this many rows each.
    pub fn break_lists(&self, rows: impl IntoIterator<Item = usize>) {
        lock(&self.truth).broken_lists = rows.into_iter().collect();
    }

    /// How far its clock is ahead, and whether it says so.
    pub fn ahead(&self, by: SignedDuration, tells_time: bool) {
        let mut truth = lock(&self.truth);
        (truth.ahead, truth.tells_time) = (by, tells_time);
    }

    /// What truly is.
    pub fn truth<T>(&self, read: impl FnOnce(&Truth) -> T) -> T {
        read(&lock(&self.truth))
    }

    /// Somebody else makes a license, `age` ago.
    pub fn made_elsewhere(&self, label: &Label, app: &AppId, age: SignedDuration) -> LicenseKey {
        let mut truth = lock(&self.truth);
        let license = self.license(&truth, app, label, None, -age);
        let key = license.key.clone();
        truth.licenses.push(license);
        truth.visible_at.push(Moment::default());
        key
    }

    /// Somebody else revokes a license.
    pub fn revoked_elsewhere(&self, key: &LicenseKey) {
        self.set(&mut lock(&self.truth), key, LicenseStatus::Revoked);
    }

    fn license(
        &self,
        truth: &Truth,
        app: &AppId,
        label: &Label,
        expires_at: Option<Timestamp>,
        shift: SignedDuration,
    ) -> License {
        let now = self.clock.now().wall;
        License {
            key: LicenseKey::new(format!("KEYS-AAAA-BBBB-{:04}", truth.licenses.len())),
            app_id: app.clone(),
            status: LicenseStatus::Active,
            expires_at,
            slots: None,
            created_at: now.checked_add(truth.ahead.saturating_add(shift)).unwrap_or(now),
            label: Some(label.to_string()),
        }
    }

    fn commit(&self, truth: &mut Truth, order: &CreateLicense) -> License {
        self.commit_late(truth, order, Duration::ZERO)
    }

    /// Makes a license that was due `ago`, with the times it would have had.
    fn commit_late(&self, truth: &mut Truth, order: &CreateLicense, ago: Duration) -> License {
        let shift = -SignedDuration::try_from(ago).unwrap_or_default();
        let license = self.license(truth, &order.app_id, &order.label, order.expires_at, shift);
        truth.licenses.push(license.clone());
        let made_at = Moment(self.clock.now().moment.since(Moment(ago)));
        let visible_at = made_at.plus(truth.lag);
        truth.visible_at.push(visible_at);
        license
    }

    /// Does what was delayed until now.
    fn catch_up(&self, truth: &mut Truth) {
        let now = self.clock.now().moment;
        let (due, later) = std::mem::take(&mut truth.delayed).into_iter().partition(|(at, _)| *at <= now);
        truth.delayed = later;
        let due: Vec<(Moment, CreateLicense)> = due;
        for (at, order) in due {
            self.commit_late(truth, &order, now.since(at));
        }
    }

    fn change(&self, key: &LicenseKey, status: LicenseStatus) -> Result<(), ApiError> {
        let mut truth = lock(&self.truth);
        self.catch_up(&mut truth);
        match status {
            LicenseStatus::Active => truth.reinstatements.push(key.clone()),
            LicenseStatus::Revoked => truth.revocations.push(key.clone()),
        }
        match truth.change_faults.pop_front() {
            Some(class) => Err(error(class, "by script")),
            None if self.set(&mut truth, key, status) => Ok(()),
            None => Err(error(Class::Rejected, "no such license")),
        }
    }

    fn set(&self, truth: &mut Truth, key: &LicenseKey, status: LicenseStatus) -> bool {
        let Some(license) = truth.licenses.iter_mut().find(|license| license.key == *key) else {
            return false;
        };
        let before = std::mem::replace(&mut license.status, status);
        truth.changes.push((self.clock.now().moment, key.clone(), before));
        true
    }
}

impl Truth {
    /// A license as a listing shows it.
    fn listed(&self, license: &License, now: Moment) -> License {
        let late = |(at, key, _): &&(Moment, LicenseKey, _)| *key == license.key && at.plus(self.lag) > now;
        let before = self.changes.iter().find(late).map(|(.., before)| *before);
        License { status: before.unwrap_or(license.status), ..license.clone() }
    }
}

fn error(class: Class, detail: &str) -> ApiError {
    ApiError { class, retry_after: None, detail: detail.to_owned() }
}

#[async_trait]
impl LicenseApi for FakeApi {
    async fn reserve_create(&self, _priority: Priority) -> Result<(), ApiError> {
        Ok(())
    }

    async fn create(&self, order: &CreateLicense) -> Result<License, ApiError> {
        self.crash.point().await;
        let answer = {
            let mut truth = lock(&self.truth);
            self.catch_up(&mut truth);
            truth.creates += 1;
            let unknown = |detail| Err(error(Class::OutcomeUnknown, detail));
            match truth.faults.pop_front().flatten() {
                None => Ok(self.commit(&mut truth, order)),
                Some(Fault::LostBefore) => unknown("lost"),
                Some(Fault::LostAfter) => {
                    self.commit(&mut truth, order);
                    unknown("lost")
                }
                Some(Fault::FailedAfterCommit) => {
                    self.commit(&mut truth, order);
                    unknown("500")
                }
                Some(Fault::Duplicated) => {
                    let first = self.commit(&mut truth, order);
                    self.commit(&mut truth, order);
                    Ok(first)
                }
                Some(Fault::Delayed(by)) => {
                    let at = self.clock.now().moment.plus(by);
                    truth.delayed.push((at, order.clone()));
                    unknown("timed out")
                }
                Some(Fault::TooMany) => Err(error(Class::RateLimited, "429")),
            }
        };
        self.crash.point().await;
        answer
    }

    async fn list(
        &self,
        app: &AppId,
        _not_before: Moment,
        _priority: Priority,
    ) -> Result<Arc<Listing>, ApiError> {
        self.crash.point().await;
        let listing = {
            let mut truth = lock(&self.truth);
            self.catch_up(&mut truth);
            truth.lists += 1;
            let now = self.clock.now().moment;
            let stops_after = truth.broken_lists.pop_front();
            let seen = truth.licenses.iter().zip(&truth.visible_at);
            let rows = seen.filter(|(license, at)| license.app_id == *app && **at <= now);
            let rows = rows.map(|(license, _)| truth.listed(license, now));
            Listing::new(now, stops_after.is_none(), rows.take(stops_after.unwrap_or(usize::MAX)))
        };
        self.crash.point().await;
        Ok(Arc::new(listing))
    }

    async fn revoke(&self, key: &LicenseKey, _priority: Priority) -> Result<(), ApiError> {
        self.crash.point().await;
        let answer = self.change(key, LicenseStatus::Revoked);
        self.crash.point().await;
        answer
    }

    async fn reinstate(&self, key: &LicenseKey, _priority: Priority) -> Result<(), ApiError> {
        self.crash.point().await;
        let answer = self.change(key, LicenseStatus::Active);
        self.crash.point().await;
        answer
    }

    async fn extend(
        &self,
        key: &LicenseKey,
        expires_at: Option<Timestamp>,
        _priority: Priority,
    ) -> Result<(), ApiError> {
        self.crash.point().await;
        if let Some(license) = lock(&self.truth).licenses.iter_mut().find(|license| license.key == *key) {
            license.expires_at = expires_at;
        }
        self.crash.point().await;
        Ok(())
    }

    async fn reset_devices(&self, key: &LicenseKey, _priority: Priority) -> Result<(), ApiError> {
        self.crash.point().await;
        let answer = {
            let mut truth = lock(&self.truth);
            match truth.reset_faults.pop_front() {
                None => {
                    truth.resets.push(key.clone());
                    Ok(())
                }
                Some(class) => Err(error(class, "by script")),
            }
        };
        self.crash.point().await;
        answer
    }

    fn clock_offset(&self) -> SignedDuration {
        let truth = lock(&self.truth);
        if truth.tells_time { truth.ahead } else { SignedDuration::ZERO }
    }
}
