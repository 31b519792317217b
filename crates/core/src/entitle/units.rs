//! Which license is which unit: (purchase, app, ordinal).
//!
//! A name belongs to an app for ever. Lines that grow take new names, lines that shrink give the newest back.

use crate::grant::{Declared, Desired, LicenseName, Standing};
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

/// Names for all units, those of the declared ones first; and the declared ones that no unit stands behind.
pub(super) struct Named<'a, L> {
    pub(super) units: Vec<Unit<'a, L>>,
    /// Sold no longer.
    pub(super) left: Vec<&'a Declared>,
    /// Imported, and never seen to be sold: more keys were handed over than units were paid for.
    pub(super) extra: Vec<&'a Declared>,
    /// More are sold than are issued without a person: none was added.
    pub(super) too_many: bool,
}

/// A unit with its name.
pub(super) struct Unit<'a, L> {
    pub(super) name: LicenseName,
    pub(super) sold: Sold<'a, L>,
    /// The imported license that stands for it, of another app than the terms say.
    pub(super) instead: Option<&'a Declared>,
}

impl<L> Unit<'_, L> {
    /// A license that the terms declare for the unit, with what its imported key was handed over with.
    pub(super) fn own(&self, desired: Desired) -> Desired {
        match self.instead {
            Some(own) => Desired { app_id: own.app_id.clone(), slots: own.slots, imported: true, ..desired },
            None => desired,
        }
    }
}

/// Gives each unit its name. Of `declared`, units of the same app keep theirs, oldest first, and none takes the license of one that
/// was sold once for one that renews; an imported license of another app stands for a unit that has none. If lines `may_grow` no more than they did, no unit is added or brought back.
pub(super) fn named<'a, L: Clone>(
    sold: &[Sold<'a, L>],
    declared: &'a [Declared],
    may_grow: bool,
) -> Result<Named<'a, L>, Standing> {
    let total = sold.iter().fold(0u64, |sum, line| sum.saturating_add(line.units));
    if total == 0 && declared.is_empty() {
        return Err(Standing::NotOurs("the purchase's lines add up to no license".to_owned()));
    }
    let too_many = total > MOST_UNITS;
    if too_many && declared.is_empty() {
        let fix = format!("{total} units in one purchase; at most {MOST_UNITS} are issued without a person");
        return Err(Standing::Parked(Reason::TooManyUnits, fix));
    }
    let may_grow = (may_grow || declared.is_empty()) && !too_many;
    let mut left: Vec<&Declared> = declared.iter().collect();
    let mut next = declared.iter().filter_map(|declared| declared.name.ordinal()).max().unwrap_or(0);
    // Nobody knows how large a quantity is: beyond these none is added.
    let most = MOST_UNITS.saturating_add(declared.len() as u64);
    let each = sold.iter().flat_map(|line| (0..line.units.min(most)).map(move |_| line));
    let own = |line: &Sold<'a, L>, declared: &Declared| {
        declared.app_id == line.terms.app_id && (may_grow || !declared.withdrawn)
    };
    let alike: Vec<_> = each
        .map(|line| {
            let kind = line.terms.duration.expiry();
            // An import does not tell what it was sold as.
            let alike =
                |declared: &Declared| own(line, declared) && declared.expiry == kind && !declared.imported;
            (line, take(&mut left, alike))
        })
        .collect();
    let known: Vec<_> = alike
        .into_iter()
        .map(|(line, known)| (line, known.or_else(|| take(&mut left, |declared| own(line, declared)))))
        .collect();
    let mut units = Vec::new();
    for (sold, known) in known {
        let sold = sold.clone();
        let instead = if known.is_none() { take(&mut left, |declared| declared.imported) } else { None };
        let name = match known.or(instead) {
            Some(declared) => declared.name.clone(),
            None if may_grow => {
                next = next.saturating_add(1);
                LicenseName::of_unit(next)
            }
            None => continue,
        };
        units.push(Unit { name, sold, instead });
    }
    let (extra, left) = left.into_iter().partition(|declared| declared.imported);
    Ok(Named { units, left, extra, too_many })
}

fn take<'a>(left: &mut Vec<&'a Declared>, wanted: impl Fn(&Declared) -> bool) -> Option<&'a Declared> {
    let place = left.iter().position(|declared| wanted(declared))?;
    Some(left.remove(place))
}
