//! Which license is which unit: (purchase, app, ordinal).
//!
//! A name belongs to an app for ever. Lines that grow take new names, lines that shrink give the newest back.

use crate::grant::{Declared, LicenseName, Standing};
use crate::license::AppId;
use crate::purchase::LineItem;
use crate::reason::Reason;
use crate::terms::{LicenseTerms, Terms};

use super::MOST_UNITS;

/// A line that sells licenses.
#[derive(Debug, Clone)]
pub(super) struct Sold<'a, L> {
    /// What a unit is.
    pub(super) terms: &'a LicenseTerms,
    /// How many.
    pub(super) units: u64,
    /// What the caller knows about the line.
    pub(super) line: L,
}

/// The lines that sell licenses, and how many each.
pub(super) fn sold<'a, L>(
    lines: impl IntoIterator<Item = (&'a LineItem, L)>,
    terms: &'a Terms,
) -> Vec<Sold<'a, L>> {
    let price = |item: &'a LineItem| item.price.as_ref().map(|price| price.id.as_str());
    let one = |(item, line): (&'a LineItem, L)| {
        terms.of(price(item)).map(|terms| Sold { terms, units: item.units(), line })
    };
    lines.into_iter().filter_map(one).collect()
}

/// Names for all units, those of the declared ones first; and the declared ones that are sold no longer.
pub(super) struct Named<'a, L> {
    pub(super) units: Vec<(LicenseName, Sold<'a, L>)>,
    pub(super) left: Vec<&'a Declared>,
}

/// Gives each unit its name. Of `declared`, units of the same app keep theirs, oldest first. If lines `may_grow` no more
/// than they did, no unit is added.
pub(super) fn named<'a, L: Clone>(
    sold: &[Sold<'a, L>],
    declared: &'a [Declared],
    may_grow: bool,
) -> Result<Named<'a, L>, Standing> {
    let total = sold.iter().fold(0u64, |sum, line| sum.saturating_add(line.units));
    if total == 0 && declared.is_empty() {
        return Err(Standing::NotOurs("the purchase's lines add up to no license".to_owned()));
    }
    if total > MOST_UNITS {
        let fix = format!("{total} units in one purchase; at most {MOST_UNITS} are issued without a person");
        return Err(Standing::Parked(Reason::TooManyUnits, fix));
    }
    let mut left: Vec<&Declared> = declared.iter().collect();
    let mut next = declared.iter().filter_map(|declared| declared.name.ordinal()).max().unwrap_or(0);
    let mut units = Vec::new();
    for line in sold {
        for _ in 0..line.units {
            let name = match take(&mut left, &line.terms.app_id) {
                Some(name) => name,
                None if may_grow || declared.is_empty() => {
                    next = next.saturating_add(1);
                    LicenseName::of_unit(next)
                }
                None => continue,
            };
            units.push((name, line.clone()));
        }
    }
    Ok(Named { units, left })
}

fn take(left: &mut Vec<&Declared>, app: &AppId) -> Option<LicenseName> {
    let place = left.iter().position(|declared| declared.app_id == *app)?;
    Some(left.remove(place).name.clone())
}
