//! AuthForge's JSON, read tolerantly: the vendor's reference does not say which fields stand where.
#![expect(clippy::option_option, reason = "a field left out and a field that is null say different things")]

use grantsmith_core::port::CreateLicense;
use grantsmith_core::{AppId, License, LicenseKey, LicenseStatus, Slots};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// The body of a create. `quantity` is left out: its default is the one that we want.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Order<'a> {
    app_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_hwid_slots: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unlimited_hwid_slots: Option<bool>,
    label: &'a str,
}

impl<'a> Order<'a> {
    pub(crate) fn of(order: &'a CreateLicense) -> Self {
        let (max_hwid_slots, unlimited_hwid_slots) = match order.slots {
            Slots::Limited(most) => (Some(most), None),
            Slots::Unlimited => (None, Some(true)),
        };
        Self {
            app_id: order.app_id.as_str(),
            expires_at: order.expires_at,
            max_hwid_slots,
            unlimited_hwid_slots,
            label: order.label.as_str(),
        }
    }
}

/// The body of a `PUT`: one action per call.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Action<'a> {
    pub(crate) action: &'a str,
    /// The outer option leaves the field out, the inner one writes `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<Option<Timestamp>>,
}

/// A license as some answer shows it. What the answer left out is `None`.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) key: LicenseKey,
    pub(crate) app_id: Option<AppId>,
    /// None also for a value that we do not know.
    pub(crate) status: Option<LicenseStatus>,
    pub(crate) expires_at: Option<Option<Timestamp>>,
    pub(crate) slots: Option<Slots>,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) label: Option<Option<String>>,
}

impl Row {
    /// Reads a license, bare or wrapped. None if it has no key, or a field whose value has no meaning that we know.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let value = value.get("license").unwrap_or(value);
        let key = value.get("licenseKey")?.as_str().filter(|key| !key.is_empty())?;
        Some(Self { key: LicenseKey::new(key), ..Self::read_fields(value)? })
    }

    /// Reads the fields of an answer that may show a part of a license or nothing of it.
    pub(crate) fn read_fields(value: &Value) -> Option<Self> {
        let value = value.get("license").unwrap_or(value);
        let app_id = match value.get("appId") {
            Some(id) => Some(AppId::parse(id.as_str()?)?),
            None => None,
        };
        let status = match value.get("status").and_then(Value::as_str) {
            Some("active") => Some(LicenseStatus::Active),
            Some("revoked") => Some(LicenseStatus::Revoked),
            _ => None,
        };
        let expires_at = match value.get("expiresAt") {
            Some(Value::Null) => Some(None),
            Some(at) => Some(Some(at.as_str()?.parse().ok()?)),
            None => None,
        };
        let slots = match (value.get("unlimitedHwidSlots"), value.get("maxHwidSlots")) {
            (Some(Value::Bool(true)), _) => Some(Slots::Unlimited),
            (_, Some(most)) => most
                .as_u64()
                .and_then(|most| u8::try_from(most).ok())
                .filter(|most| *most > 0)
                .map(Slots::Limited),
            _ => None,
        };
        let created_at = value.get("createdAt").and_then(Value::as_str).and_then(|at| at.parse().ok());
        let label = value.get("label").map(|label| label.as_str().map(str::to_owned));
        Some(Self { key: LicenseKey::new(""), app_id, status, expires_at, slots, created_at, label })
    }

    /// The license, if the row and `known` together tell all of it. An `expiresAt` that is left out is a lifetime license,
    /// as stores that drop null fields write it.
    pub(crate) fn into_license(self, app: &AppId, known: Known) -> Option<License> {
        Some(License {
            key: self.key,
            app_id: self.app_id.unwrap_or_else(|| app.clone()),
            status: self.status?,
            expires_at: self.expires_at.flatten(),
            slots: self.slots,
            created_at: self.created_at.or(known.created_at)?,
            label: self.label.or(known.label)?,
        })
    }

    /// Whether it belongs to another app than the one asked for.
    pub(crate) fn is_foreign(&self, app: &AppId) -> bool {
        self.app_id.as_ref().is_some_and(|id| !id.is_same(app))
    }
}

/// What is known of a license besides its row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) label: Option<Option<String>>,
    pub(crate) created_at: Option<Timestamp>,
}

/// One page of a listing.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    /// Whether every row could be read.
    pub(crate) whole: bool,
    /// None on the last page.
    pub(crate) cursor: Option<String>,
}

impl Page {
    /// Reads a page. None if it is no page at all.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let items = value.get("licenses")?.as_array()?;
        let rows: Vec<_> = items.iter().filter_map(Row::read).collect();
        let cursor = match value.get("cursor") {
            None | Some(Value::Null) => None,
            Some(cursor) => Some(cursor.as_str()?.to_owned()).filter(|cursor| !cursor.is_empty()),
        };
        Some(Self { whole: rows.len() == items.len(), rows, cursor })
    }
}

/// Reads the answer of a create: the one license, and nothing else.
pub(crate) fn read_created(body: &[u8]) -> Option<Row> {
    let value: Value = serde_json::from_slice(body).ok()?;
    match value.get("licenses") {
        Some(licenses) => match licenses.as_array()?.as_slice() {
            [license] => Row::read(license),
            // None or several: what was made is for a listing to tell.
            _ => None,
        },
        None => Row::read(&value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_license_reads_the_same_bare_and_wrapped() {
        for body in [include_str!("../fixtures/get.json"), include_str!("../fixtures/get-wrapped.json")] {
            let row = Row::read(&serde_json::from_str(body).expect("JSON")).expect("row");
            assert_eq!(row.key.expose(), "ABCD-EFGH-JKLM-NPQR");
            assert_eq!(row.status, Some(LicenseStatus::Active));
            assert_eq!(row.label, Some(Some("Stripe session cs_test_1".to_owned())));
            assert_eq!(row.slots, Some(Slots::Limited(2)));
        }
    }

    #[test]
    fn the_documented_create_answer_has_no_label() {
        let row = read_created(include_bytes!("../fixtures/create.json")).expect("row");
        assert_eq!(row.label, None);
        assert_eq!(row.created_at, Some("2026-04-01T12:00:00.123Z".parse().expect("time")));
    }

    #[test]
    fn a_create_answer_with_no_or_several_licenses_names_none() {
        for body in [
            r#"{"licenses":[]}"#,
            r#"{"licenses":[{"licenseKey":"A"},{"licenseKey":"B"}]}"#,
            "{}",
            "[]",
            "null",
            "",
            r#"{"licenses":[{"licenseKey":"A"#,
        ] {
            assert!(read_created(body.as_bytes()).is_none(), "{body}");
        }
    }

    #[test]
    fn an_unknown_status_spoils_its_row_and_no_other() {
        let page = Page::read(include_bytes!("../fixtures/list-odd.json")).expect("page");
        assert!(!page.whole, "a row without a key was in it");
        let statuses: Vec<_> = page.rows.iter().map(|row| row.status).collect();
        assert_eq!(statuses, [Some(LicenseStatus::Active), None, Some(LicenseStatus::Revoked)]);
        assert_eq!(page.cursor.as_deref(), Some("eyJrIjoiMyJ9"));
    }

    #[test]
    fn the_last_page_has_a_null_cursor_or_none() {
        for body in
            [r#"{"licenses":[],"cursor":null}"#, r#"{"licenses":[]}"#, r#"{"licenses":[],"cursor":""}"#]
        {
            assert!(Page::read(body.as_bytes()).is_some_and(|page| page.cursor.is_none()), "{body}");
        }
        for body in ["{}", r#"{"licenses":{}}"#, r#"{"licenses":[],"cursor":7}"#] {
            assert!(Page::read(body.as_bytes()).is_none(), "{body}");
        }
    }

    #[test]
    fn an_order_says_no_more_than_it_must() {
        let json = |slots, expires_at: Option<&str>| {
            let purchase = grantsmith_core::PurchaseId::parse("cs_test_1").expect("purchase");
            let order = CreateLicense {
                app_id: AppId::parse("app-1").expect("app"),
                label: grantsmith_core::Label::new(&purchase, &grantsmith_core::LicenseName::main(), 1),
                expires_at: expires_at.map(|at| at.parse().expect("time")),
                slots,
            };
            serde_json::to_string(&Order::of(&order)).expect("JSON")
        };
        assert_eq!(
            json(Slots::Limited(2), Some("2026-12-31T23:59:59Z")),
            r#"{"appId":"app-1","expiresAt":"2026-12-31T23:59:59Z","maxHwidSlots":2,"label":"Stripe session cs_test_1"}"#
        );
        assert_eq!(
            json(Slots::Unlimited, None),
            r#"{"appId":"app-1","unlimitedHwidSlots":true,"label":"Stripe session cs_test_1"}"#
        );
    }
}
