use grantsmith_core::license::Slots;
use grantsmith_core::terms::{FailureAction, Follow, OnCancel, OnDispute, OnPlanChange, RefundAction};

use super::*;

fn price(id: &str, lookup_key: &str, product: &str) -> Price {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Price { id: id.to_owned(), lookup_key: some(lookup_key), product: some(product), recurring: false }
}

fn day(text: &str) -> Timestamp {
    format!("{text}T00:00:00Z").parse().expect("a time")
}

fn app_of(catalog: &Catalog, price: &Price, at: &str) -> Option<String> {
    catalog.terms(price, day(at)).map(|terms| terms.app_id.to_string())
}

/// An app for each plan.
fn app(name: &str) -> String {
    let hex = data_encoding::HEXLOWER.encode(name.as_bytes());
    format!("7d9f6a9e-0000-4000-8000-{hex:0>12}")
}

/// A catalog of plans given as `name, what it is sold by, further fields`.
fn catalog(plans: &[(&str, &str, &str)]) -> Catalog {
    Catalog::parse(&yaml(plans)).expect("a catalog")
}

fn yaml(plans: &[(&str, &str, &str)]) -> String {
    let plan = |(name, key, more): &(&str, &str, &str)| {
        format!("  - {{name: {name}, {key}, app_id: {}, duration: 30d{more}}}\n", app(name))
    };
    format!("plans:\n{}", plans.iter().map(plan).collect::<String>())
}

#[test]
fn every_field_is_read() {
    let text = "
default_plan: pro
plans:
  - name: pro
    price: price_1Abc
    app_id: 7d9f6a9e-0000-4000-8000-000000000001
    duration: subscription
    max_hwid_slots: 2
    follow: paid_through
    buffer: 24h
    on_payment_failure: {action: revoke, grace: 72h}
    on_refund: {full: ignore, partial: revoke}
    on_dispute: ignore
    on_cancel: at_period_end
    on_plan_change: keep
    from: 2026-01-01
    checkout: {mode: subscription, automatic_tax: true, allow_promotion_codes: true, tax_id_collection: true, locale: pt-BR}
";
    let catalog = Catalog::parse(text).expect("a catalog");
    let plan = catalog.plan(None, day("2026-01-01")).expect("the default plan");
    let rules = &plan.terms.rules;
    assert_eq!((&plan.key, plan.terms.slots), (&Key::Price("price_1Abc".to_owned()), Slots::Limited(2)));
    assert_eq!((plan.terms.duration, plan.recurs()), (Duration::Subscription, true));
    assert_eq!((rules.follow, rules.buffer), (Follow::PaidThrough, 86_400));
    assert_eq!(rules.on_payment_failure.action, FailureAction::Revoke);
    assert_eq!(rules.on_payment_failure.grace, Some(3 * 86_400));
    assert_eq!((rules.on_refund.full, rules.on_refund.partial), (RefundAction::Ignore, RefundAction::Revoke));
    assert_eq!(rules.on_dispute, OnDispute::Ignore);
    assert_eq!((rules.on_cancel, rules.on_plan_change), (OnCancel::AtPeriodEnd, OnPlanChange::Keep));
    let checkout = &plan.checkout;
    assert!(checkout.automatic_tax && checkout.allow_promotion_codes && checkout.tax_id_collection);
    assert_eq!(checkout.locale.as_deref(), Some("pt-BR"));
}

#[test]
fn what_is_left_out_is_as_in_the_guide() {
    let catalog = catalog(&[("pro", "price: p", "")]);
    let plan = catalog.plan(None, day("2026-01-01")).expect("one plan is the default");
    assert_eq!(plan.terms.slots, Slots::Limited(1));
    assert_eq!(plan.terms.rules, grantsmith_core::terms::Rules::default());
    assert_eq!(plan.checkout, Checkout::default());
}

#[test]
fn the_exact_price_outranks_its_lookup_key_and_that_the_product() {
    let catalog = catalog(&[("c", "product: prod_1", ""), ("b", "lookup_key: k", ""), ("a", "price: p", "")]);
    let sold = |price| app_of(&catalog, &price, "2026-01-01");
    assert_eq!(sold(price("p", "k", "prod_1")), Some(app("a")));
    assert_eq!(sold(price("q", "k", "prod_1")), Some(app("b")));
    assert_eq!(sold(price("q", "", "prod_1")), Some(app("c")));
    assert_eq!(sold(price("q", "", "prod_2")), None);
}

#[test]
fn a_purchase_has_the_terms_of_its_time() {
    let catalog = catalog(&[
        ("new", "price: p", ", from: 2026-06-01"),
        ("old", "price: p", ""),
        ("late", "price: q", ", from: 2026-06-01T12:00:00Z"),
    ]);
    let at = |id, day| app_of(&catalog, &price(id, "", "prod_1"), day);
    assert_eq!(at("p", "2026-05-31"), Some(app("old")));
    assert_eq!(at("p", "2026-06-01"), Some(app("new")));
    assert_eq!(at("q", "2026-06-01"), None, "not sold before noon");
    assert_eq!(at("q", "2026-06-02"), Some(app("late")));
}

#[test]
fn a_name_is_the_newest_of_its_plans_and_only_what_is_sold_can_be_named() {
    let catalog = catalog(&[
        ("pro", "price: p", ""),
        ("pro", "price: q", ", from: 2026-06-01"),
        ("next", "price: r", ", from: 2027-01-01"),
    ]);
    let key = |name, at| catalog.plan(name, day(at)).map(|plan| plan.key.text().to_owned());
    assert_eq!(key(Some("pro"), "2026-05-31"), Ok("p".to_owned()));
    assert_eq!(key(Some("pro"), "2026-06-01"), Ok("q".to_owned()));
    assert_eq!(key(Some("next"), "2026-06-01"), Err(NoPlan::Unknown("pro".to_owned())));
    assert_eq!(key(None, "2027-01-01"), Err(NoPlan::Unnamed("pro, next".to_owned())));
}

#[test]
fn every_mistake_has_its_place() {
    let two = |first, second| yaml(&[("a", first, ""), ("b", second, "")]);
    let lines = "plans:\n  - name: a\n    price: p\n    app_id: 7d9f6a9e-0000-4000-8000-000000000001\n    duration: 30d\n";
    for (text, place, words) in [
        (format!("{lines}    colour: red\n"), (6, 5), "unknown field `colour`"),
        (format!("{lines}    checkout: {{color: red}}\n"), (6, 16), "unknown field `color`"),
        (format!("{lines}    mail: {{template: pro}}\n"), (6, 11), "not there yet"),
        (format!("{lines}default: a\n"), (6, 1), "unknown field `default`"),
        (format!("{lines}    follow: money\n"), (6, 13), "unknown variant `money`"),
        (format!("{lines}    on_refund: {{full: maybe}}\n"), (6, 23), "unknown variant `maybe`"),
        (format!("{lines}    on_payment_failure: {{grace: soon}}\n"), (6, 33), "until_stripe_gives_up"),
        (format!("{lines}    buffer: 24\n"), (6, 13), "24h"),
        (format!("{lines}    max_hwid_slots: 17\n"), (6, 21), "from 1 to 16"),
        (format!("{lines}    max_hwid_slots: 0\n"), (6, 21), "from 1 to 16"),
        (format!("{lines}    max_hwid_slots: 3\n    unlimited_hwid_slots: true\n"), (6, 21), "leave out one"),
        (format!("{lines}    from: soon\n"), (6, 11), "2026-01-01"),
        (format!("{lines}    checkout: {{mode: subscription}}\n"), (6, 22), "contradicts the duration"),
        (format!("{lines}    checkout: {{locale: English}}\n"), (6, 24), "auto"),
        (format!("{lines}    product: prod_1\n"), (6, 14), "make two plans"),
        (lines.replace("    price: p\n", ""), (2, 5), "sold by nothing"),
        (lines.replace("    app_id: 7d9f6a9e-0000-4000-8000-000000000001\n", ""), (2, 5), "no app"),
        (lines.replace("7d9f6a9e-0000-4000-8000-000000000001", "not an app"), (4, 13), "UUID"),
        (lines.replace("price: p", "price: sub_1"), (3, 12), "the id of a price"),
        (lines.replace("price: p", "product: price_1"), (3, 14), "the id of a product"),
        (lines.replace("30d", "30"), (5, 15), "1d to 36500d"),
        (lines.replace("30d", "0d"), (5, 15), "1d to 36500d"),
        (lines.replace("30d", "+5d"), (5, 15), "1d to 36500d"),
        (lines.replace("name: a", "name: a b"), (2, 11), "a name has"),
        (two("price: p", "price: p"), (3, 22), "two plans of one time, here and in 'a' on line 2"),
        (two("product: p", "product: p"), (3, 24), "product 'p' is in two plans"),
        (yaml(&[("a", "price: p", ""), ("a", "price: q", "")]), (3, 12), "are called 'a'"),
        (format!("default_plan: b\n{lines}"), (1, 15), "no plan is called 'b'"),
        (format!("{lines}    name: b\n"), (6, 5), "'name' is written twice"),
        (format!("{lines}    from: [1]\n"), (6, 11), "expected"),
        ("plans: []\n".to_owned(), (1, 8), "there is no plan"),
        ("plans: [\n".to_owned(), (1, 8), "bracket"),
        (String::new(), (1, 1), "end of input"),
    ] {
        let mistake = Catalog::parse(&text).expect_err(&text);
        assert!(mistake.what.contains(words), "{text}\n{mistake}");
        assert_eq!((mistake.line, mistake.column), place, "{text}\n{mistake}");
    }
}
