//! The label of a license at AuthForge: a function of purchase, name and generation, and nothing else.
//!
//! AuthForge has no idempotency key and no look-up by order. The label is what a lost create is found by, so it may never
//! depend on a count, a time or a line item: the same unit must get the same label in every process, for ever.

use std::fmt;

use crate::grant::LicenseName;
use crate::purchase::PurchaseId;

/// A license's label, at most 128 characters of ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

impl Label {
    /// AuthForge's limit (licenses, `label`).
    pub const LONGEST: usize = 128;

    /// The label of one license of a purchase.
    ///
    /// The first is exactly what the Stripe guide's own code writes, so that its keys are found and kept. Others carry
    /// ` #name`, a replacement ` ~generation`.
    pub fn new(purchase: &PurchaseId, name: &LicenseName, generation: u32) -> Self {
        let mut text = match purchase {
            PurchaseId::Session(id) => format!("Stripe session {id}"),
            PurchaseId::Subscription(id) => format!("Stripe sub {id}"),
            PurchaseId::Manual(id) => format!("Grant {id}"),
        };
        if !name.is_main() {
            text.push_str(" #");
            text.push_str(name.as_str());
        }
        if generation > 1 {
            text.push_str(" ~");
            text.push_str(&generation.to_string());
        }
        Self(text)
    }

    /// The label's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Which license a label names, if it is one of ours.
    pub fn read(text: &str) -> Option<(PurchaseId, LicenseName, u32)> {
        let rest =
            ["Stripe session ", "Stripe sub ", "Grant "].iter().find_map(|words| text.strip_prefix(words))?;
        let (rest, generation) = match rest.rsplit_once(" ~") {
            Some((rest, generation)) => (rest, generation.parse().ok().filter(|generation| *generation > 1)?),
            None => (rest, 1),
        };
        let (id, name) = match rest.split_once(" #") {
            Some((id, name)) => (id, LicenseName::parse(name).filter(|name| !name.is_main())?),
            None => (rest, LicenseName::main()),
        };
        let purchase = PurchaseId::parse(id).ok()?;
        (Self::new(&purchase, &name, generation).as_str() == text).then_some((purchase, name, generation))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_license_has_the_guides_own_label() {
        let label = |id: &str, name: &str, generation| {
            let purchase = PurchaseId::parse(id).expect("purchase");
            Label::new(&purchase, &LicenseName::parse(name).expect("name"), generation).to_string()
        };
        assert_eq!(label("cs_test_1", "main", 1), "Stripe session cs_test_1");
        assert_eq!(label("sub_1", "main", 1), "Stripe sub sub_1");
        assert_eq!(label("default/press-17", "main", 1), "Grant default/press-17");
        assert_eq!(label("cs_test_1", "2", 1), "Stripe session cs_test_1 #2");
        assert_eq!(label("cs_test_1", "2", 3), "Stripe session cs_test_1 #2 ~3");
    }

    #[test]
    fn foreign_labels_are_not_ours() {
        for text in [
            "",
            "VIP",
            "Stripe session ",
            "Stripe session cs_1 #main",
            "Stripe sub cs_1",
            "Grant default",
            "Grant cs_1",
            "Stripe session cs_1 ~1",
        ] {
            assert_eq!(Label::read(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn labels_are_short_plain_and_read_back(
            id in "(cs|sub)_[A-Za-z0-9_]{1,92}|[a-z0-9-]{1,32}/[A-Za-z0-9._:/-]{1,72}", name in "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", generation in 1u32..1000,
        ) {
            let purchase = PurchaseId::parse(&id).expect("purchase");
            let name = LicenseName::parse(&name).expect("name");
            let label = Label::new(&purchase, &name, generation);
            prop_assert!(label.as_str().is_ascii());
            // The longest id, name and generation together stay within the limit.
            prop_assert!(label.as_str().len() <= Label::LONGEST);
            prop_assert_eq!(Label::read(label.as_str()), Some((purchase, name, generation)));
        }

        #[test]
        fn any_text_can_be_read(text in ".*") {
            let _ = Label::read(&text);
        }
    }
}
