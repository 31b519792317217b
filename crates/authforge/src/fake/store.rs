//! The fake's licenses, and the true history of what happened to them.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

/// A–Z without I and O, and 2–9: the vendor's alphabet.
const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// Why the file of a fake could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened or read.
    #[error("could not read '{0}'")]
    Read(PathBuf, #[source] std::io::Error),
}

/// A license as the fake keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its number, in the order of making.
    pub number: u64,
    /// Its key.
    pub key: String,
    /// Its app.
    pub app_id: String,
    /// Its label.
    pub label: Option<String>,
    /// Whether it is revoked.
    pub revoked: bool,
    /// When that changed last: lists may show it as it was before.
    #[serde(default)]
    pub turned_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Its slots.
    pub max_hwid_slots: u64,
    /// Whether its slots do not count.
    pub unlimited: bool,
    /// When it was made, by the fake's clock.
    pub created_at: Timestamp,
    /// The devices bound to it.
    pub hwids: Vec<String>,
}

/// A license to be made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewLicense {
    /// Its app.
    pub app_id: String,
    /// Its label.
    #[serde(default)]
    pub label: Option<String>,
    /// When it ends.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// Its slots.
    #[serde(default = "one")]
    pub max_hwid_slots: u64,
    /// Whether its slots do not count.
    #[serde(default)]
    pub unlimited: bool,
}

fn one() -> u64 {
    1
}

impl NewLicense {
    /// A lifetime license with one slot.
    pub fn labeled(app_id: impl Into<String>, label: impl Into<String>) -> Self {
        let (app_id, label) = (app_id.into(), Some(label.into()));
        Self { app_id, label, expires_at: None, max_hwid_slots: 1, unlimited: false }
    }
}

/// What was done to a license.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Deeds {
    /// Made by a call.
    Created,
    /// Made by hand.
    Inserted,
    /// Revoked by a call.
    Revoked,
    /// Revoked by hand.
    RevokedByHand,
    /// Re-activated.
    Activated,
    /// Its expiry was set.
    Extended,
    /// Its devices were unbound.
    DevicesReset,
}

/// One thing that was really done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deed {
    /// When, by the fake's clock.
    pub at: Timestamp,
    /// What.
    pub what: Deeds,
    /// The license's key.
    pub key: String,
    /// Its app.
    pub app_id: String,
    /// Its label.
    pub label: Option<String>,
    /// Whether the caller was told by a whole 2xx answer, as far as the fake can tell.
    pub answered: bool,
}

/// Licenses by number, and everything ever done.
pub(super) struct Store {
    licenses: BTreeMap<u64, Stored>,
    numbers: HashMap<String, u64>,
    history: Vec<Deed>,
    rng: StdRng,
    seed: u64,
    file: Option<File>,
}

impl Store {
    /// Opens a store; the last line of each license in its file counts, and a torn last line does not.
    pub(super) fn open(path: Option<PathBuf>, seed: u64) -> Result<Self, StoreError> {
        let mut store = Self {
            licenses: BTreeMap::new(),
            numbers: HashMap::new(),
            history: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            seed,
            file: None,
        };
        if let Some(path) = path {
            let unread = |error| StoreError::Read(path.clone(), error);
            let mut file =
                OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(unread)?;
            let mut torn = false;
            for line in BufReader::new(&file).split(b'\n') {
                let line = line.map_err(unread)?;
                torn = !line.is_empty();
                if let Ok(license) = serde_json::from_slice::<Stored>(&line) {
                    torn = false;
                    store.numbers.insert(license.key.clone(), license.number);
                    store.licenses.insert(license.number, license);
                }
            }
            if torn {
                file.write_all(b"\n").map_err(unread)?;
            }
            store.file = Some(file);
        }
        Ok(store)
    }

    pub(super) fn licenses(&self) -> impl DoubleEndedIterator<Item = &Stored> {
        self.licenses.values()
    }

    /// Licenses from a number on, or down from it.
    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = &Stored> {
        self.licenses.range(number.saturating_add(1)..).map(|(_, license)| license)
    }

    pub(super) fn before(&self, number: u64) -> impl Iterator<Item = &Stored> {
        self.licenses.range(..number).rev().map(|(_, license)| license)
    }

    pub(super) fn history(&self) -> &[Deed] {
        &self.history
    }

    pub(super) fn get(&self, key: &str) -> Option<&Stored> {
        self.licenses.get(self.numbers.get(key)?)
    }

    /// A place in the arbitrary order: a mix of number and seed without repetitions.
    pub(super) fn shuffled(&self, number: u64) -> u64 {
        let mixed = (number ^ self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ (mixed >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
    }

    pub(super) fn create(&mut self, new: NewLicense, now: Timestamp, what: Deeds) -> Stored {
        let number = self.licenses.last_key_value().map_or(1, |(number, _)| number + 1);
        let NewLicense { app_id, label, expires_at, max_hwid_slots, unlimited } = new;
        let license = Stored {
            number,
            key: self.fresh_key(),
            app_id,
            label,
            revoked: false,
            turned_at: None,
            expires_at,
            max_hwid_slots,
            unlimited,
            created_at: now,
            hwids: Vec::new(),
        };
        self.numbers.insert(license.key.clone(), number);
        self.licenses.insert(number, license.clone());
        self.record(&license, now, what);
        license
    }

    /// Changes a license and records it.
    pub(super) fn change(
        &mut self,
        key: &str,
        now: Timestamp,
        what: Deeds,
        change: impl FnOnce(&mut Stored),
    ) -> Option<Stored> {
        let license = self.licenses.get_mut(self.numbers.get(key)?)?;
        let revoked = license.revoked;
        change(license);
        if license.revoked != revoked {
            license.turned_at = Some(now);
        }
        let license = license.clone();
        self.record(&license, now, what);
        Some(license)
    }

    /// Notes that the latest deed's caller was told.
    pub(super) fn answered(&mut self, key: &str) {
        if let Some(deed) = self.history.iter_mut().rev().find(|deed| deed.key == key) {
            deed.answered = true;
        }
    }

    fn fresh_key(&mut self) -> String {
        loop {
            let mut key = String::with_capacity(19);
            for place in 0..16 {
                if place > 0 && place % 4 == 0 {
                    key.push('-');
                }
                key.push(char::from(ALPHABET[self.rng.random_range(0..ALPHABET.len())]));
            }
            // A store that was reopened draws the same numbers again.
            if !self.numbers.contains_key(&key) {
                return key;
            }
        }
    }

    fn record(&mut self, license: &Stored, at: Timestamp, what: Deeds) {
        let (key, app_id, label) = (license.key.clone(), license.app_id.clone(), license.label.clone());
        self.history.push(Deed { at, what, key, app_id, label, answered: false });
        if let (Some(file), Ok(mut line)) = (&mut self.file, serde_json::to_vec(license)) {
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                tracing::warn!(%error, "the fake's file could not be written");
            }
        }
    }
}
