//! Grants that people make: complimentary, for resellers, for another payment provider.

use std::fmt;

use jiff::Timestamp;

use crate::grant::{Cause, Desired, DesiredState, Expiry, Grant, Hand, LicenseName, Standing};
use crate::license::{AppId, Slots};
use crate::purchase::PurchaseId;
use crate::reason::Reason;

/// What names a grant that a person made: `<installation>/<reference>`, such as `default/press-2026-17`.
///
/// The installation is in it because two installations may share an AuthForge account, where the label is all that tells
/// their licenses apart. The bounds leave room for the words of a label, which AuthForge cuts at 128 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManualId(String);

/// A text that cannot name a grant made by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManualId {
    /// The installation.
    #[error("an installation is named by 1 to 32 lower-case letters, digits and '-'")]
    Installation,
    /// The reference.
    #[error(
        "a reference is 1 to 72 letters, digits and '._:/-', such as an order number; no spaces, no address"
    )]
    Reference,
}

impl ManualId {
    const LONGEST_INSTALLATION: usize = 32;
    const LONGEST_REFERENCE: usize = 72;

    /// Joins an installation's name and a reference.
    pub fn new(installation: &str, reference: &str) -> Result<Self, InvalidManualId> {
        if !is_installation(installation) {
            return Err(InvalidManualId::Installation);
        }
        // No '#', '~' or space, which would read as a license's name or generation in a label; no '@', as a purchase's id
        // stands in logs.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
        if !(1..=Self::LONGEST_REFERENCE).contains(&reference.len()) || !reference.bytes().all(plain) {
            return Err(InvalidManualId::Reference);
        }
        Ok(Self(format!("{installation}/{reference}")))
    }

    /// Reads `<installation>/<reference>`.
    pub fn parse(text: &str) -> Result<Self, InvalidManualId> {
        let (installation, reference) = text.split_once('/').ok_or(InvalidManualId::Reference)?;
        Self::new(installation, reference)
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The reference alone.
    pub fn reference(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, reference)| reference)
    }
}

impl fmt::Display for ManualId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text can name an installation: up to 32 lower-case letters, digits and `-`.
pub fn is_installation(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    plain && (1..=ManualId::LONGEST_INSTALLATION).contains(&text.len())
}

/// A license that a person promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promised {
    /// The app.
    pub app_id: AppId,
    /// Its device slots.
    pub slots: Slots,
    /// When it ends; none is never.
    pub expires_at: Option<Timestamp>,
}

/// The grant that a person made at `made_at`: what was promised, under the hand as it is now.
pub fn granted(purchase: &PurchaseId, made_at: Timestamp, promised: &[Promised], hand: &Hand) -> Grant {
    let license = |(ordinal, promised): (u32, &Promised)| {
        hand.apply(Desired {
            name: LicenseName::of_unit(ordinal),
            generation: 1,
            app_id: promised.app_id.clone(),
            slots: promised.slots,
            state: DesiredState::Active,
            expires_at: promised.expires_at,
            expiry: Expiry::Sold,
            reason: Reason::Issued,
            cause: Cause::Rule,
            imported: false,
            withdrawn: false,
            adopt: None,
        })
    };
    Grant {
        purchase: purchase.clone(),
        paid_at: Some(made_at),
        standing: Standing::Entitled,
        licenses: (1..).zip(promised).map(license).collect(),
        released: hand.released,
        dunning: None,
        look_again: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_plain_and_short() {
        let id = ManualId::new("default", "press-2026-17").expect("plain");
        assert_eq!((id.as_str(), id.reference()), ("default/press-2026-17", "press-2026-17"));
        assert_eq!(
            ManualId::parse("shop-2/paddle:txn_1/2").map(|id| id.reference().to_owned()).as_deref(),
            Ok("paddle:txn_1/2")
        );
        for bad in ["", "a b", "jane@example.com", "a#2", "a~2", "é", "a\n", &"x".repeat(73)] {
            assert_eq!(ManualId::new("default", bad), Err(InvalidManualId::Reference), "{bad:?}");
        }
        for bad in ["", "Shop", "a/b", "a b", &"x".repeat(33)] {
            assert_eq!(ManualId::new(bad, "x"), Err(InvalidManualId::Installation), "{bad:?}");
        }
    }
}
