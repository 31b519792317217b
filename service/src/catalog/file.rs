//! How a catalog is written: YAML, of which every part is checked and every mistake has a line and a column.

use grantsmith_core::license::Slots;
use grantsmith_core::terms::{
    Duration, FailureAction, Follow, LicenseTerms, OnCancel, OnDispute, OnPaymentFailure, OnPlanChange,
    OnRefund, RefundAction, Rules,
};
use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::words::{self, App, Grace, Lasts, Locale, Name, Since, SlotCount, Span, Word};
use super::{Catalog, Checkout, Key, Mistake, Plan};

/// The JSON schema of a catalog, for editors and other programs.
pub fn schema() -> Schema {
    schemars::schema_for!(File)
}

/// What Grantsmith sells, by the prices, lookup keys and products of Stripe.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Grantsmith's catalog")]
struct File {
    /// The plan of `create-checkout` where a request names none; needed only when there are several.
    #[schemars(with = "Option<String>")]
    default_plan: Option<Spanned<String>>,
    /// What is sold. Entries of one name or price with different `from` follow each other in time.
    #[schemars(with = "Vec<Entry>")]
    plans: Spanned<Vec<Spanned<Entry>>>,
}

/// One plan. Exactly one of `price`, `lookup_key` and `product` says what it is sold by.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["price"]}, {"required": ["lookup_key"]}, {"required": ["product"]}]))]
struct Entry {
    /// How requests and people call it.
    #[schemars(with = "Name")]
    name: Spanned<Name>,
    /// The id of the price at Stripe, `price_…`.
    #[schemars(with = "Option<Word>")]
    price: Option<Spanned<Word>>,
    /// The lookup key of the price at Stripe; it may move to another price.
    #[schemars(with = "Option<Word>")]
    lookup_key: Option<Spanned<Word>>,
    /// The product at Stripe, `prod_…`: any price of it.
    #[schemars(with = "Option<Word>")]
    product: Option<Spanned<Word>>,
    /// The AuthForge app.
    #[schemars(with = "App", required)]
    app_id: Option<App>,
    /// How long a license lasts from its payment: `365d`, `lifetime`, or `subscription`, as long as that.
    #[schemars(with = "Lasts")]
    duration: Spanned<Lasts>,
    /// On how many devices it may be used; 1 if neither this nor `unlimited_hwid_slots` is said.
    #[schemars(with = "Option<SlotCount>")]
    max_hwid_slots: Option<Spanned<SlotCount>>,
    /// On any number of devices.
    #[serde(default)]
    unlimited_hwid_slots: bool,
    /// Which time of a subscription the expiry follows: the current period's end, or that of what was paid for.
    #[serde(default)]
    #[schemars(schema_with = "words::follow")]
    follow: Follow,
    /// Added to that time: Stripe collects a renewal about an hour after the period's end.
    #[serde(default)]
    buffer: Span,
    /// What a failed payment of a subscription does.
    #[serde(default)]
    on_payment_failure: Failure,
    /// What a refund does. Kept with each sale; refunds are not handled yet.
    #[serde(default)]
    on_refund: Refund,
    /// What a dispute does. Kept with each sale; disputes are not handled yet.
    #[serde(default)]
    #[schemars(schema_with = "words::on_dispute")]
    on_dispute: OnDispute,
    /// What the end of a subscription does.
    #[serde(default)]
    #[schemars(schema_with = "words::on_cancel")]
    on_cancel: OnCancel,
    /// What a change to another plan does. Kept with each sale; such changes are not handled yet.
    #[serde(default)]
    #[schemars(schema_with = "words::on_plan_change")]
    on_plan_change: OnPlanChange,
    /// Holds for purchases since then: a day in UTC, or RFC 3339. Earlier entries stay in the file.
    from: Option<Since>,
    /// How the plan is bought through `create-checkout`.
    #[serde(default)]
    checkout: Till,
    /// Not there yet.
    #[schemars(skip)]
    #[serde(default, rename = "mail")]
    _mail: NotYet,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Failure {
    /// `warn` tells the buyer; `ignore` does nothing until Stripe gives up; `revoke` ends the license at once.
    #[schemars(schema_with = "words::failure_action")]
    action: FailureAction,
    /// How long the license stays after the first failure: a time such as `72h`, at most 21 days.
    grace: Grace,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Refund {
    /// All of the money goes back.
    #[schemars(schema_with = "words::refund_action")]
    full: RefundAction,
    /// Some of it does.
    #[schemars(schema_with = "words::refund_action")]
    partial: RefundAction,
}

impl Default for Refund {
    fn default() -> Self {
        let OnRefund { full, partial } = OnRefund::default();
        Self { full, partial }
    }
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Till {
    /// Follows from `duration` where it is left out.
    #[schemars(with = "Option<Mode>")]
    mode: Option<Spanned<Mode>>,
    /// Stripe computes the tax (`automatic_tax.enabled`).
    automatic_tax: bool,
    /// The buyer may enter a promotion code.
    allow_promotion_codes: bool,
    /// The buyer may enter a tax id (`tax_id_collection.enabled`).
    tax_id_collection: bool,
    /// The language of the page: `auto`, or one of Stripe's, such as `de` or `pt-BR`.
    locale: Option<Locale>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Payment,
    Subscription,
}

/// A field that a later version takes: refused by its name, so that nobody believes it heard.
#[derive(Default)]
struct NotYet;

impl<'de> Deserialize<'de> for NotYet {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("mail templates of a plan are not there yet; leave 'mail' out"))
    }
}

/// Reads and checks.
pub(super) fn parse(text: &str) -> Result<Catalog, Mistake> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| unreadable(&error))?;
    if file.plans.value.is_empty() {
        return Err(mistake(file.plans.referenced, "there is no plan; a catalog needs one"));
    }
    let mut placed: Vec<Placed> = Vec::with_capacity(file.plans.value.len());
    for entry in file.plans.value {
        let plan = plan(entry)?;
        agrees(&plan, &placed)?;
        placed.push(plan);
    }
    let plans: Vec<Plan> = placed.into_iter().map(|placed| placed.plan).collect();
    let named = |name: &str| plans.iter().any(|plan| plan.name == name);
    let default = match (file.default_plan, plans.as_slice()) {
        (Some(name), _) if !named(&name.value) => {
            return Err(mistake(name.referenced, format!("no plan is called '{}'", name.value)));
        }
        (Some(name), _) => Some(name.value),
        (None, [first, rest @ ..]) if rest.iter().all(|plan| plan.name == first.name) => {
            Some(first.name.clone())
        }
        (None, _) => None,
    };
    Ok(Catalog { plans, default })
}

fn unreadable(error: &serde_saphyr::Error) -> Mistake {
    let error = error.without_snippet();
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    let text = match error {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("'{key}' is written twice; keep one of the two")
        }
        error => error.to_string(),
    };
    // The place stands in front.
    let what = text.strip_suffix(&format!(" at line {line}, column {column}")).unwrap_or(&text).to_owned();
    Mistake { line, column, what }
}

fn mistake(at: Location, what: impl Into<String>) -> Mistake {
    Mistake { line: at.line(), column: at.column(), what: what.into() }
}

/// A plan, and where its name and key stand.
struct Placed {
    plan: Plan,
    name: Location,
    key: Location,
}

fn plan(entry: Spanned<Entry>) -> Result<Placed, Mistake> {
    let (place, entry) = (entry.referenced, entry.value);
    let Some(App(app_id)) = entry.app_id else {
        return Err(mistake(place, "the plan has no app; add the app_id of AuthForge's dashboard"));
    };
    let keys = [
        entry.price.map(|key| (Key::Price(key.value.0), key.referenced)),
        entry.lookup_key.map(|key| (Key::LookupKey(key.value.0), key.referenced)),
        entry.product.map(|key| (Key::Product(key.value.0), key.referenced)),
    ];
    let mut keys = keys.into_iter().flatten();
    let Some((key, keyed)) = keys.next() else {
        return Err(mistake(place, "the plan is sold by nothing; add one of price, lookup_key and product"));
    };
    if let Some((_, second)) = keys.next() {
        return Err(mistake(
            second,
            "a plan is sold by one of price, lookup_key and product; make two plans of it",
        ));
    }
    if let Some(kind) = mistaken(&key) {
        return Err(mistake(
            keyed,
            format!("{} is to be the id of a {kind}, and '{}' is not", key.field(), key.text()),
        ));
    }
    let slots = match (entry.max_hwid_slots, entry.unlimited_hwid_slots) {
        (Some(count), true) => {
            return Err(mistake(
                count.referenced,
                "max_hwid_slots contradicts unlimited_hwid_slots; leave out one",
            ));
        }
        (Some(count), false) => Slots::Limited(count.value.0),
        (None, true) => Slots::Unlimited,
        (None, false) => Slots::Limited(1),
    };
    let duration = entry.duration.value.0;
    let recurs = duration == Duration::Subscription;
    if let Some(mode) = &entry.checkout.mode
        && (mode.value == Mode::Subscription) != recurs
    {
        let what = "the mode contradicts the duration; subscriptions have 'duration: subscription', and nothing else has";
        return Err(mistake(mode.referenced, what));
    }
    let Failure { action, grace } = entry.on_payment_failure;
    let rules = Rules {
        follow: entry.follow,
        buffer: entry.buffer.0,
        on_payment_failure: OnPaymentFailure { action, grace: grace.0 },
        on_cancel: entry.on_cancel,
        on_refund: OnRefund { full: entry.on_refund.full, partial: entry.on_refund.partial },
        on_dispute: entry.on_dispute,
        on_plan_change: entry.on_plan_change,
    };
    let Till { automatic_tax, allow_promotion_codes, tax_id_collection, locale, .. } = entry.checkout;
    let locale = locale.map(|locale| locale.0);
    let plan = Plan {
        name: entry.name.value.0,
        key,
        terms: LicenseTerms { app_id, duration, slots, rules },
        from: entry.from.map(|from| from.0),
        checkout: Checkout { automatic_tax, allow_promotion_codes, tax_id_collection, locale },
    };
    Ok(Placed { plan, name: entry.name.referenced, key: keyed })
}

/// What a key is to be the id of, if it is the id of something else at Stripe. Ids that sellers chose have no prefix, so
/// only those are refused that are known to be wrong.
fn mistaken(key: &Key) -> Option<&'static str> {
    let other = ["sub_", "si_", "cs_", "in_", "pi_", "ch_", "cus_", "plink_"];
    let (kind, sibling) = match key {
        Key::Price(_) => ("price", "prod_"),
        Key::Product(_) => ("product", "price_"),
        Key::LookupKey(_) => return None,
    };
    other.into_iter().chain([sibling]).any(|prefix| key.text().starts_with(prefix)).then_some(kind)
}

/// Checks a plan against those before it.
fn agrees(new: &Placed, before: &[Placed]) -> Result<(), Mistake> {
    let same_time = || before.iter().filter(|other| other.plan.from == new.plan.from);
    let later = "give the later of the two a later 'from'";
    if let Some(other) = same_time().find(|other| other.plan.key == new.plan.key) {
        let (field, text) = (new.plan.key.field(), new.plan.key.text());
        let (name, line) = (&other.plan.name, other.key.line());
        let what = format!(
            "{field} '{text}' is in two plans of one time, here and in '{name}' on line {line}; {later}"
        );
        return Err(mistake(new.key, what));
    }
    if let Some(other) = same_time().find(|other| other.plan.name == new.plan.name) {
        let (name, line) = (&new.plan.name, other.name.line());
        let what = format!("two plans of one time are called '{name}', here and on line {line}; {later}");
        return Err(mistake(new.name, what));
    }
    Ok(())
}
