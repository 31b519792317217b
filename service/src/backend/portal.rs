//! The portal's messages, read back.

use std::time::Duration;

use grantsmith_core::purchase::Email;
use grantsmith_proto::v1 as pb;
use pb::resend_portal_key_response::Outcome;
use tonic::Code;
use tonic_types::StatusExt;

use super::{Error, shown, unavailable};
use crate::fulfillment::portal::{Error as Refused, Order, Portal, Resent, Token};
use crate::grpc::convert::{grant_id, timestamp};

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What the server's refusal means.
pub(super) fn refused(status: &tonic::Status) -> Refused {
    match status.code() {
        Code::ResourceExhausted => {
            let told = status.get_details_retry_info().and_then(|info| info.retry_delay);
            Refused::TooMany { wait: told.unwrap_or(Duration::from_secs(60)) }
        }
        Code::InvalidArgument => Refused::BadAddress,
        Code::FailedPrecondition => Refused::NoMailer,
        Code::NotFound => Refused::Gone,
        _ => unavailable(status).into(),
    }
}

/// What a link has opened.
pub(super) fn portal(portal: pb::Portal) -> Result<Portal, Refused> {
    let lacking = || Refused::Unavailable("the server told a portal without its address".to_owned());
    Ok(Portal {
        email: Email::new(&portal.email).ok_or_else(lacking)?,
        orders: portal.purchases.into_iter().filter_map(order).collect(),
        more: portal.more,
        action: Token::new(portal.action_token),
    })
}

/// What became of another mail, and the portal after it.
pub(super) fn resent(response: pb::ResendPortalKeyResponse) -> Result<(Resent, Portal), Refused> {
    let resent = match response.outcome() {
        Outcome::Sent => Resent::Sent,
        Outcome::TooOften => Resent::TooOften,
        Outcome::NotNow | Outcome::Unspecified => Resent::NotNow,
    };
    Ok((resent, portal(response.portal.unwrap_or_default())?))
}

fn order(purchase: pb::PortalPurchase) -> Option<Order> {
    let status = purchase.status();
    Some(Order {
        grant: grant_id(&purchase.license_grant)?,
        purchase: purchase.purchase,
        at: purchase.purchase_time.and_then(timestamp)?,
        page: shown(status, purchase.licenses, String::new()),
        can_resend: purchase.can_resend,
    })
}
