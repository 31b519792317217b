//! Keys that their buyers have not got yet are mailed: at least once, and never a key that is gone by then.

use std::time::Duration;

use grantsmith_core::port::KeptState;
use grantsmith_core::{DesiredState, Reason};
use jiff::SignedDuration;
use metrics::counter;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::issuer::Unlocked;
use crate::mail::{Letter, Outcome};
use crate::store::{Attempted, Delivery, DeliveryKind, DeliveryState, GrantLicense, GrantRow};

/// After a refusal for now: soon, then hourly, for two days.
const WAITS: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];
const HOURLY: Duration = Duration::from_secs(3_600);
const GIVE_UP: SignedDuration = SignedDuration::from_hours(48);
/// While the keys of a mail cannot be had, which are a moment late at most where nothing is wrong.
const FOR_KEYS_AT_MOST: Duration = Duration::from_secs(300);

impl Worker {
    pub(super) async fn deliver(&self, delivery: Delivery, stop: &CancellationToken) {
        let (grant, number) = (delivery.grant.clone(), delivery.number);
        let attempted = match self.store.grant(&grant).await {
            Ok(Some(row)) => match self.issuer.unlock(row).await {
                Ok(Unlocked { row, whole: true }) => self.send(&delivery, &row).await,
                Ok(Unlocked { whole: false, .. }) => self.without_keys(&delivery, "its keys are not there"),
                Err(error) => self.without_keys(&delivery, &error.to_string()),
            },
            Ok(None) => self.ended(DeliveryState::Dropped, None, None),
            Err(error) => {
                tracing::warn!(grant.id = %grant, %error, "a mail waits for the record");
                return tokio::time::sleep(super::BREATHER).await;
            }
        };
        let outcome = match attempted.state {
            DeliveryState::Sent => "sent",
            DeliveryState::Due => "later",
            DeliveryState::Parked => "parked",
            DeliveryState::Dropped => "dropped",
        };
        counter!("grantsmith_mails_total", "outcome" => outcome).increment(1);
        tracing::info!(grant.id = %grant, number, outcome, reason = attempted.reason.map(Reason::as_str), "mail");
        // Given back, the row would still be due, and the buyer get the mail again every second. A new process sends it once
        // more, with the same Message-ID: at least once.
        while let Err(error) = self.store.attempted(&grant, number, attempted.clone()).await {
            tracing::warn!(grant.id = %grant, %error, "what became of a mail was not written down");
            if stop.run_until_cancelled(tokio::time::sleep(super::BREATHER)).await.is_none() {
                return;
            }
        }
        if attempted.state == DeliveryState::Sent {
            // The cluster is told, for a record that knows nothing of this one.
            self.issuer.delivered(&grant, &self.touched);
        }
    }

    /// Puts a mail off for as long as it has waited for its keys, so that it never keeps others from their turn.
    fn without_keys(&self, delivery: &Delivery, why: &str) -> Attempted {
        let age = Duration::try_from(self.now().duration_since(delivery.created)).unwrap_or_default();
        let due = Some(self.after(age.clamp(super::BREATHER, FOR_KEYS_AT_MOST)));
        Attempted { due, ..self.ended(DeliveryState::Due, Some(Reason::KeyPending), Some(why.to_owned())) }
    }

    async fn send(&self, delivery: &Delivery, row: &GrantRow) -> Attempted {
        let parked =
            |reason, fix: &str| self.ended(DeliveryState::Parked, Some(reason), Some(fix.to_owned()));
        let Some(letter) = Letter::of(row, delivery) else {
            return self.ended(
                DeliveryState::Dropped,
                None,
                Some("there was nothing to tell by then".to_owned()),
            );
        };
        if self.observe {
            return self.ended(DeliveryState::Dropped, None, Some("observed: it would be sent".to_owned()));
        }
        let Some(mailer) = &self.mailer else {
            return parked(Reason::NoMailer, "no mail server is configured; set --smtp-url, then resend");
        };
        let Some(address) = &row.email else {
            return parked(Reason::NoAddress, "no address is known; hand the key over yourself");
        };
        match mailer.send(&letter, address).await {
            Outcome::Sent => self.ended(DeliveryState::Sent, None, None),
            Outcome::Refused(said) => parked(Reason::MailRefused, &said),
            Outcome::Later(said) => {
                let age = self.now().duration_since(delivery.created);
                if age > GIVE_UP {
                    return parked(Reason::MailRefused, &said);
                }
                let tries = usize::try_from(delivery.tries).unwrap_or(usize::MAX);
                let wait = WAITS.get(tries).copied().unwrap_or(HOURLY);
                let due = Some(self.after(wait));
                Attempted { due, ..self.ended(DeliveryState::Due, Some(Reason::MailRefused), Some(said)) }
            }
        }
    }

    fn ended(&self, state: DeliveryState, reason: Option<Reason>, detail: Option<String>) -> Attempted {
        Attempted { state, reason, detail, due: None, at: self.now() }
    }
}

impl Letter {
    /// The letter of a delivery; none if there is no license to tell of, or one that should be live is not.
    fn of(row: &GrantRow, delivery: &Delivery) -> Option<Self> {
        let failing = |license: &GrantLicense| license.desired.reason == Reason::PaymentFailed;
        if delivery.kind == DeliveryKind::PaymentFailed && !row.licenses.iter().any(failing) {
            return None;
        }
        let live = |license: &GrantLicense| {
            let kept = license.kept.as_ref().filter(|kept| kept.state == KeptState::Live)?;
            Some((kept.clone(), license.desired.slots))
        };
        let wanted = row.licenses.iter().filter(|license| license.desired.state == DesiredState::Active);
        let licenses: Vec<_> = wanted.map(live).collect::<Option<_>>()?;
        (!licenses.is_empty()).then(|| Self {
            grant: row.id.clone(),
            purchase: row.purchase.clone(),
            number: delivery.number,
            kind: delivery.kind,
            until: delivery.until,
            licenses,
        })
    }
}
