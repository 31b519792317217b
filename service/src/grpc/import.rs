//! `ImportLicense`.

use grantsmith_core::port::{ApiError, Class};
use grantsmith_core::purchase::PurchaseId;
use grantsmith_core::{AppId, LicenseKey, Reason};
use grantsmith_proto::v1 as pb;
use tonic::{Code, Status};

use super::hand::{address, bad};
use super::status::CallReason;
use super::{Services, convert, status};
use crate::fulfillment::{ImportError, Imported, SoldKey};
use crate::stripe::client::Error as StripeError;

/// The longest text that is taken for a key.
const LONGEST_KEY: usize = 128;

impl Services {
    pub(super) async fn import(
        &self,
        message: pb::ImportLicenseRequest,
        person: String,
    ) -> Result<pb::ImportLicenseResponse, Status> {
        use pb::import_license_response::Outcome;
        let dry_run = message.validate_only;
        let imported = self.fulfillment.import(sold(message, person)?, dry_run).await;
        let (outcome, grant) = match imported.map_err(|error| refused(&error))? {
            Imported::Adopted(grant) => (Outcome::Adopted, grant),
            Imported::Declared(grant) => (Outcome::Declared, grant),
            Imported::Known(grant) => (Outcome::Known, grant),
        };
        Ok(pb::ImportLicenseResponse { outcome: outcome.into(), license_grant: convert::grant_name(&grant) })
    }
}

fn sold(message: pb::ImportLicenseRequest, person: String) -> Result<SoldKey, Status> {
    let pb::ImportLicenseRequest { stripe_id, license_key, app_id, email, .. } = message;
    let purchase = match PurchaseId::parse(&stripe_id) {
        Ok(purchase @ (PurchaseId::Session(_) | PurchaseId::Subscription(_))) => purchase,
        Ok(PurchaseId::Manual(_)) | Err(_) => {
            return Err(bad("stripe_id is the id of a session or subscription, cs_… or sub_…"));
        }
    };
    let key = LicenseKey::new(license_key);
    let plain = key.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !plain || !(1..=LONGEST_KEY).contains(&key.expose().len()) {
        return Err(bad("license_key is no license key"));
    }
    let app_id = AppId::parse(&app_id).ok_or_else(|| bad("app_id is missing or no AuthForge app"))?;
    let email = Some(email).filter(|email| !email.is_empty());
    let email = email.as_deref().map(address).transpose()?;
    Ok(SoldKey { purchase, key, app_id, email, person })
}

fn refused(error: &ImportError) -> Status {
    let failed = |reason| status::because(Code::FailedPrecondition, reason, error.to_string());
    let mismatch = || status::plain(Code::FailedPrecondition, CallReason::KeyMismatch, error.to_string());
    match error {
        ImportError::OtherMode(_) => failed(Reason::OtherMode),
        ImportError::NoLicense => status::plain(Code::NotFound, CallReason::NoLicense, error.to_string()),
        ImportError::NoSubscription
        | ImportError::OtherApp(_)
        | ImportError::OtherPurchase(_)
        | ImportError::OtherAppDeclared(_)
        | ImportError::KeyTaken(_) => mismatch(),
        ImportError::PeoplesOwn(_) => failed(Reason::ChangeNotSupported),
        ImportError::Unreadable => failed(Reason::NotYetHandled),
        ImportError::Stripe(stripe) => {
            status::because(stripe_code(stripe), stripe.reason(), error.to_string())
        }
        ImportError::AuthForge(authforge) => {
            let (code, reason) = authforge_code(authforge);
            status::because(code, reason, error.to_string())
        }
        ImportError::Store(error) => status::store(error),
    }
}

fn stripe_code(error: &StripeError) -> Code {
    match error {
        StripeError::Gone { .. } => Code::NotFound,
        error if error.is_transient() => Code::Unavailable,
        _ => Code::FailedPrecondition,
    }
}

fn authforge_code(error: &ApiError) -> (Code, Reason) {
    match error.class {
        Class::Transient | Class::OutcomeUnknown => (Code::Unavailable, Reason::AuthForgeUnavailable),
        Class::RateLimited => (Code::Unavailable, Reason::RateLimited),
        Class::CreditsExhausted => (Code::FailedPrecondition, Reason::CreditsExhausted),
        Class::Unauthorized => (Code::FailedPrecondition, Reason::Unauthorized),
        Class::Rejected | Class::Refused | Class::Gone => (Code::FailedPrecondition, Reason::Rejected),
    }
}
