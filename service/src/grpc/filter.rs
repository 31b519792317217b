//! Filters: the small part of AIP-160 that the lists understand, with errors that say which part.

use grantsmith_core::{AppId, Reason};
use jiff::Timestamp;
use tonic::{Code, Status};

use super::status::{CallReason, plain};
use crate::store::{EventFilter, EventState, GrantFilter, GrantState};

/// One `field op "value"`.
struct Term<'a> {
    field: &'a str,
    operator: &'a str,
    value: &'a str,
}

/// Reads terms joined by ` AND `.
fn terms(text: &str) -> Result<Vec<Term<'_>>, Status> {
    let mut rest = text.trim();
    let mut terms = Vec::new();
    while !rest.is_empty() {
        let (term, after) = term(rest)?;
        terms.push(term);
        rest = match after.trim_start() {
            "" => "",
            after => after.strip_prefix("AND ").ok_or_else(|| bad("terms are joined by AND"))?.trim_start(),
        };
        if rest.is_empty() && !after.trim().is_empty() {
            return Err(bad("a term must follow AND"));
        }
    }
    once(&terms)?;
    Ok(terms)
}

/// No row has two values of one field, so whoever wrote two means OR, which there is not. A time may have two bounds.
fn once(terms: &[Term<'_>]) -> Result<(), Status> {
    let same = |a: &Term<'_>, b: &Term<'_>| (a.field, a.operator) == (b.field, b.operator);
    let twice = |(place, term): (usize, &Term<'_>)| terms.iter().take(place).any(|before| same(before, term));
    match terms.iter().enumerate().find(|(place, term)| twice((*place, term))) {
        Some((_, term)) => {
            Err(bad(&format!("'{}' is named twice; there is no OR, so list once for each value", term.field)))
        }
        None => Ok(()),
    }
}

fn term(text: &str) -> Result<(Term<'_>, &str), Status> {
    let end = text.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(text.len());
    let (field, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let operator = ["<=", ">=", "=", "<", ">"].into_iter().find(|operator| rest.starts_with(operator));
    let operator =
        operator.filter(|_| !field.is_empty()).ok_or_else(|| bad("a term is FIELD = \"VALUE\""))?;
    let rest = rest.get(operator.len()..).unwrap_or_default().trim_start();
    if let Some(quoted) = rest.strip_prefix('"') {
        let (value, rest) =
            quoted.split_once('"').ok_or_else(|| bad("a quoted value lacks its closing quote"))?;
        return Ok((Term { field, operator, value }, rest));
    }
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (value, rest) = rest.split_at(end);
    if value.is_empty() {
        Err(bad("a term lacks its value"))
    } else {
        Ok((Term { field, operator, value }, rest))
    }
}

fn bad(text: &str) -> Status {
    plain(Code::InvalidArgument, CallReason::BadArgument, format!("filter: {text}"))
}

fn only_equal(term: &Term<'_>) -> Result<(), Status> {
    if term.operator == "=" { Ok(()) } else { Err(bad(&format!("'{}' is compared with = only", term.field))) }
}

/// Reads a filter of `ListLicenseGrants`.
pub(super) fn grants(text: &str) -> Result<GrantFilter, Status> {
    let mut filter = GrantFilter::default();
    for term in terms(text)? {
        if term.field != "create_time" {
            only_equal(&term)?;
        }
        match term.field {
            "state" => filter.state = Some(grant_state(term.value)?),
            "purchase" => filter.purchase = Some(term.value.to_owned()),
            "email" => filter.email = Some(term.value.to_owned()),
            "app_id" => {
                filter.app_id = Some(AppId::parse(term.value).ok_or_else(|| bad("app_id is not an app id"))?);
            }
            "create_time" => time(&mut filter, &term)?,
            other => {
                return Err(bad(&format!(
                    "no field is called '{other}'; there are state, purchase, email, app_id and create_time"
                )));
            }
        }
    }
    Ok(filter)
}

fn time(filter: &mut GrantFilter, term: &Term<'_>) -> Result<(), Status> {
    let at: Timestamp = term
        .value
        .parse()
        .map_err(|_| bad("create_time is compared with a time such as \"2026-11-01T00:00:00Z\""))?;
    match term.operator {
        ">=" => filter.created_from = Some(at),
        "<" => filter.created_before = Some(at),
        _ => return Err(bad("create_time is compared with >= and <")),
    }
    Ok(())
}

fn grant_state(text: &str) -> Result<GrantState, Status> {
    match text {
        "PENDING" => Ok(GrantState::Pending),
        "ISSUING" => Ok(GrantState::Issuing),
        "READY" => Ok(GrantState::Ready),
        "ENDED" => Ok(GrantState::Ended),
        "PARKED" => Ok(GrantState::Parked),
        "NOT_OURS" => Ok(GrantState::NotOurs),
        _ => Err(bad("state is one of PENDING, ISSUING, READY, ENDED, PARKED, NOT_OURS")),
    }
}

/// Reads a filter of `ListEvents`.
pub(super) fn events(text: &str) -> Result<EventFilter, Status> {
    let mut filter = EventFilter::default();
    for term in terms(text)? {
        only_equal(&term)?;
        match term.field {
            "state" => filter.state = Some(event_state(term.value)?),
            "reason" => {
                let unknown = |_| bad("reason is not one of the runbook's, such as BadMetadata");
                filter.reason = Some(term.value.parse::<Reason>().map_err(unknown)?);
            }
            "type" => filter.kind = Some(term.value.to_owned()),
            "purchase" => filter.purchase = Some(term.value.to_owned()),
            other => {
                return Err(bad(&format!(
                    "no field is called '{other}'; there are state, reason, type and purchase"
                )));
            }
        }
    }
    Ok(filter)
}

fn event_state(text: &str) -> Result<EventState, Status> {
    match text {
        "PENDING" => Ok(EventState::Pending),
        "HANDLED" => Ok(EventState::Handled),
        "PARKED" => Ok(EventState::Parked),
        "IGNORED" => Ok(EventState::Ignored),
        _ => Err(bad("state is one of PENDING, HANDLED, PARKED, IGNORED")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn terms_narrow_a_list() {
        let filter = grants(
            r#"state = "READY" AND email="a b@example.com" AND create_time >= "2026-11-01T00:00:00Z""#,
        );
        let filter = filter.expect("a filter");
        assert_eq!(filter.state, Some(GrantState::Ready));
        assert_eq!(filter.email.as_deref(), Some("a b@example.com"));
        assert!(filter.created_from.is_some() && filter.created_before.is_none());
        let filter = events("reason = BadMetadata AND state = PARKED").expect("a filter");
        assert_eq!((filter.reason, filter.state), (Some(Reason::BadMetadata), Some(EventState::Parked)));
        assert!(grants("").is_ok_and(|filter| filter.state.is_none()));
    }

    #[test]
    fn a_bad_filter_says_which_part() {
        for (text, part) in [
            ("state", "FIELD"),
            ("state = ", "value"),
            ("state = \"READY", "closing quote"),
            ("state = READY email = x", "AND"),
            ("state = READY AND ", "AND"),
            ("state = happy", "PENDING"),
            ("state > READY", "="),
            (r#"state = "READY" AND state = "PARKED""#, "'state' is named twice"),
            (
                r#"create_time < "2026-11-01T00:00:00Z" AND state = READY AND create_time < "2026-12-01T00:00:00Z""#,
                "'create_time' is named twice",
            ),
            ("colour = red", "colour"),
            ("create_time = \"2026-11-01T00:00:00Z\"", ">="),
            ("create_time >= yesterday", "2026"),
        ] {
            let status = grants(text).expect_err("refused");
            assert!(status.message().contains(part), "{text}: {}", status.message());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = grants(&text);
            let _ = events(&text);
        }
    }
}
