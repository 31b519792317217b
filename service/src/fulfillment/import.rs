//! Keys that were sold without this program become known to it.

use grantsmith_authforge::Client as AuthForge;
use grantsmith_core::port::{ApiError, Priority};
use grantsmith_core::purchase::{Email, PurchaseId, SessionMode, StripeId};
use grantsmith_core::terms::{Duration, LicenseTerms, Rules, Terms};
use grantsmith_core::{AppId, GrantId, Label, License, LicenseKey, Reason, Slots};
use jiff::SignedDuration;

use super::Fulfillment;
use crate::store::{self, Act, Ask, GrantLicense, Import, SoldLicense, Taken};
use crate::stripe::client::{Client as Stripe, Error as StripeError};
use crate::stripe::{Mode, shape};

/// A key and what it was sold for, as a person says.
#[derive(Debug, Clone)]
pub struct SoldKey {
    /// A session or a subscription at Stripe.
    pub purchase: PurchaseId,
    /// The key.
    pub key: LicenseKey,
    /// Its app.
    pub app_id: AppId,
    /// The buyer's address.
    pub email: Option<Email>,
    /// The name of the person's token.
    pub person: String,
}

/// What became of a key, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// It is kept from now on.
    Adopted(GrantId),
    /// It is declared from now on: the operator looks for it, and the grant tells what came of that.
    Declared(GrantId),
    /// It was kept before.
    Known(GrantId),
}

/// Why a key was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The session sold a subscription, and none is there.
    #[error("the session was for a subscription that never came to be; leave the row out")]
    NoSubscription,
    /// It is of Stripe's other mode.
    #[error("the purchase is not of Stripe's {0} mode, which this installation fulfils")]
    OtherMode(Mode),
    /// AuthForge does not know the key.
    #[error("AuthForge has no license of this key; check the key, and that the app belongs to this account")]
    NoLicense,
    /// It is for another app.
    #[error("the license is for the app '{0}'; correct app_id")]
    OtherApp(AppId),
    /// Its label is another purchase's.
    #[error("the license is labeled as the one of {0}; correct stripe_id")]
    OtherPurchase(PurchaseId),
    /// The record keeps it for another purchase.
    #[error(
        "the key is kept for another purchase already, or declared for it; look for it with 'grants find'"
    )]
    KeyTaken(GrantId),
    /// Stripe did not tell of the purchase.
    #[error("the purchase could not be looked up: {0}")]
    Stripe(#[source] StripeError),
    /// Stripe told of it in words that cannot be read.
    #[error("what Stripe tells of the purchase cannot be read")]
    Unreadable,
    /// People declare the grant in the cluster, as the object of this name.
    #[error(
        "people declare the grant in the cluster; write the key's fingerprint into spec.licenses[].adopt of its LicenseGrant '{0}'"
    )]
    PeoplesOwn(String),
    /// The cluster knows licenses of other apps alone that have no key, and a license keeps its app.
    #[error(
        "the grant waits for a license of another app than '{0}', which cannot change in the cluster; correct app_id, or revoke \
         the grant and make one by hand"
    )]
    OtherAppDeclared(AppId),
    /// AuthForge did not tell of the license.
    #[error("the license could not be looked up: {0}")]
    AuthForge(#[source] ApiError),
    /// The record failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Fulfillment {
    /// Keeps a key that was sold without this program for its purchase, after AuthForge and, where there is a key for it,
    /// Stripe have confirmed that both exist. Nothing is made, mailed or changed there. With `dry_run` it is only said what
    /// would become of it. A repetition finds the key known.
    ///
    /// Where an operator issues, the license is declared by its key's fingerprint, and looked up by the operator.
    pub async fn import(&self, sold: SoldKey, dry_run: bool) -> Result<Imported, ImportError> {
        if let Some(known) = self.known(&sold).await? {
            return Ok(Imported::Known(known));
        }
        let license = match &self.authforge {
            Some(authforge) => SoldLicense::Found(looked_up(authforge, &sold).await?),
            // Nobody can be asked whether it is written so.
            None => SoldLicense::Sought {
                app_id: sold.app_id.clone(),
                key: LicenseKey::typed(sold.key.expose()).fingerprint(),
            },
        };
        let purchase = self.sold_as(&sold.purchase).await?;
        let grant = GrantId::of(&purchase);
        let imported = match &license {
            SoldLicense::Found(license) => {
                self.check_label(license, &sold.purchase, &purchase).await?;
                Imported::Adopted(grant.clone())
            }
            SoldLicense::Sought { app_id, .. } => {
                self.check_declared(&grant, app_id).await?;
                Imported::Declared(grant.clone())
            }
        };
        if dry_run {
            return Ok(imported);
        }
        let import = Import {
            livemode: self.livemode(),
            terms: terms(&purchase, &license),
            email: sold.email,
            look: self.stripe.is_some(),
            license,
            purchase,
        };
        let (act, at) = (Act::Import(import), self.now());
        let ask = Ask { grant: grant.clone(), act, request: None, person: sold.person, at };
        match self.take(ask).await? {
            Taken::Done => Ok(imported),
            Taken::Repeated => Ok(Imported::Known(grant)),
            Taken::Refused(_) => Err(ImportError::KeyTaken(grant)),
        }
    }

    /// The grant that keeps the key, which must be the purchase's own.
    async fn known(&self, sold: &SoldKey) -> Result<Option<GrantId>, ImportError> {
        let Some(owner) = self.store.grant_of_key(&sold.key).await? else { return Ok(None) };
        let own = owner == GrantId::of(&sold.purchase)
            || owner == GrantId::of(&self.sold_as(&sold.purchase).await?);
        if own { Ok(Some(owner)) } else { Err(ImportError::KeyTaken(owner)) }
    }

    /// Whether a license can be declared in the cluster beside what is declared there.
    async fn check_declared(&self, grant: &GrantId, app_id: &AppId) -> Result<(), ImportError> {
        let Some(row) = self.store.grant(grant).await? else { return Ok(()) };
        if let Some(object) = row.object {
            return Err(ImportError::PeoplesOwn(object.name));
        }
        let free = |license: &&GrantLicense| {
            let waits = license.desired.adopt.is_some() && license.reason != Reason::KeyNotFound;
            license.kept.is_none() && !waits
        };
        let mut free = row.licenses.iter().filter(free).peekable();
        let in_cluster = row.agreed.is_some() && free.peek().is_some();
        if in_cluster && !free.any(|license| license.desired.app_id.is_same(app_id)) {
            return Err(ImportError::OtherAppDeclared(app_id.clone()));
        }
        Ok(())
    }

    /// The purchase that an id names: a session that sold a subscription belongs to it.
    async fn sold_as(&self, named: &PurchaseId) -> Result<PurchaseId, ImportError> {
        let Some(id) = named.stripe_id() else { return Ok(named.clone()) };
        if let Some(linked) = self.store.linked(id).await? {
            return Ok(linked);
        }
        let mode = self.rules.mode;
        match &self.stripe {
            Some(stripe) => self.told_by(stripe, id, named).await,
            // Only ids of sessions tell their mode.
            None if id.prefix() == "cs" && !id.as_str().starts_with(&format!("cs_{mode}_")) => {
                Err(ImportError::OtherMode(mode))
            }
            None => Ok(named.clone()),
        }
    }

    async fn told_by(
        &self,
        stripe: &Stripe,
        id: &StripeId,
        named: &PurchaseId,
    ) -> Result<PurchaseId, ImportError> {
        let (livemode, purchase) = if let PurchaseId::Session(_) = named {
            let object = stripe.session(id).await.map_err(ImportError::Stripe)?;
            let session = shape::session(&object).map_err(|_| ImportError::Unreadable)?;
            let purchase = match (session.mode, session.subscription) {
                (SessionMode::Subscription, Some(subscription)) => PurchaseId::Subscription(subscription),
                (SessionMode::Subscription, None) => return Err(ImportError::NoSubscription),
                _ => named.clone(),
            };
            (session.livemode, purchase)
        } else {
            let object = stripe.subscription(id).await.map_err(ImportError::Stripe)?;
            let subscription = shape::subscription(&object).map_err(|_| ImportError::Unreadable)?;
            (subscription.livemode, named.clone())
        };
        if livemode == self.livemode() { Ok(purchase) } else { Err(ImportError::OtherMode(self.rules.mode)) }
    }

    /// A label of another purchase shows a mistake: there its key would be found once more.
    async fn check_label(
        &self,
        license: &License,
        named: &PurchaseId,
        purchase: &PurchaseId,
    ) -> Result<(), ImportError> {
        let Some((labeled, ..)) = license.label.as_deref().and_then(Label::read) else { return Ok(()) };
        if labeled == *named || labeled == *purchase || self.sold_as(&labeled).await? == *purchase {
            return Ok(());
        }
        Err(ImportError::OtherPurchase(labeled))
    }
}

/// The license of a key, as AuthForge has it.
async fn looked_up(authforge: &AuthForge, sold: &SoldKey) -> Result<License, ImportError> {
    let found = authforge.get(&sold.app_id, &sold.key, Priority::Audit).await;
    let license = found.map_err(ImportError::AuthForge)?.ok_or(ImportError::NoLicense)?;
    if license.app_id.is_same(&sold.app_id) {
        Ok(license)
    } else {
        Err(ImportError::OtherApp(license.app_id))
    }
}

/// What a license shows of the terms it was sold under. One that is not found yet keeps its own expiry and slots, whatever is
/// said here.
fn terms(purchase: &PurchaseId, license: &SoldLicense) -> Terms {
    let lasts = match license {
        SoldLicense::Found(license) => license.expires_at.map(|end| end.duration_since(license.created_at)),
        SoldLicense::Sought { .. } => None,
    };
    let duration = match (purchase, lasts) {
        (PurchaseId::Subscription(_), _) => Duration::Subscription,
        (PurchaseId::Session(_) | PurchaseId::Manual(_), None) => Duration::Lifetime,
        (PurchaseId::Session(_) | PurchaseId::Manual(_), Some(lasts)) => Duration::Days(days(lasts)),
    };
    Terms::for_all(LicenseTerms {
        app_id: license.app_id().clone(),
        duration,
        slots: license.slots().unwrap_or(Slots::Limited(1)),
        rules: Rules::default(),
    })
}

/// Whole days, to the nearest: an expiry is counted from the payment, a moment before the license was made.
fn days(length: SignedDuration) -> u32 {
    let days = length.as_hours().saturating_add(12).div_euclid(24);
    u32::try_from(days).unwrap_or(1).clamp(1, Duration::MOST_DAYS)
}
