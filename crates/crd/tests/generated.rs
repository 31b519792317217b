//! The committed definition is what the types say, and takes every object that a released one took.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps, JSONSchemaPropsOrArray,
};

#[path = "../examples/gen.rs"]
mod codegen;

/// The first state; from the first release on, the newest that was released.
const RELEASED: &str = include_str!("../released/v1alpha1.yaml");

#[test]
fn the_definition_in_the_chart_is_fresh() {
    let committed = std::fs::read_to_string(codegen::path()).unwrap_or_default();
    let fresh = codegen::generate().expect("YAML");
    assert!(
        committed == fresh,
        "the chart's definition is stale; run `make generate` and commit what it writes"
    );
}

#[test]
fn what_a_released_definition_took_is_still_taken() {
    let released: CustomResourceDefinition = serde_saphyr::from_str(RELEASED).expect("a definition");
    let fresh = grantsmith_crd::definition();
    assert_eq!((&released.spec.group, &released.spec.scope), (&fresh.spec.group, &fresh.spec.scope));
    assert_eq!(released.spec.names, fresh.spec.names);
    for old in &released.spec.versions {
        let new = fresh.spec.versions.iter().find(|new| new.name == old.name && new.served);
        let new = new.unwrap_or_else(|| panic!("{} is still served", old.name));
        let narrowed = narrowed(&schema(old), &schema(new), &old.name);
        assert!(narrowed.is_empty(), "objects that exist would be refused or cut: {narrowed:#?}");
    }
}

fn schema(version: &CustomResourceDefinitionVersion) -> JSONSchemaProps {
    version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.clone()).expect("a schema")
}

/// What `old` takes and `new` does not.
fn narrowed(old: &JSONSchemaProps, new: &JSONSchemaProps, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |fine: bool, what: &str| {
        if !fine {
            found.push(format!("{path}: {what}"));
        }
    };
    check(old.type_ == new.type_ && old.format == new.format, "another type");
    check(old.pattern == new.pattern, "another pattern");
    check(old.default == new.default, "another default");
    check(
        old.x_kubernetes_list_type == new.x_kubernetes_list_type
            && old.x_kubernetes_list_map_keys == new.x_kubernetes_list_map_keys,
        "another kind of list",
    );
    check(!above(old.max_length, new.max_length), "maxLength is less");
    check(!above(old.max_items, new.max_items), "maxItems is less");
    check(!above(old.maximum, new.maximum), "maximum is less");
    check(!below(old.min_length, new.min_length), "minLength is more");
    check(!below(old.min_items, new.min_items), "minItems is more");
    check(!below(old.minimum, new.minimum), "minimum is more");
    let words = |schema: &JSONSchemaProps| -> Option<BTreeSet<String>> {
        schema.enum_.as_ref().map(|words| words.iter().map(|word| word.0.to_string()).collect())
    };
    check(words(new).is_none_or(|new| words(old).is_some_and(|old| old.is_subset(&new))), "a word is gone");
    let required = |schema: &JSONSchemaProps| -> BTreeSet<String> {
        schema.required.iter().flatten().cloned().collect()
    };
    check(required(new).is_subset(&required(old)), "a field has become required");
    let rules = |schema: &JSONSchemaProps| -> BTreeSet<String> {
        schema.x_kubernetes_validations.iter().flatten().map(|rule| rule.rule.clone()).collect()
    };
    // An old rule with a way out takes more than it did.
    let old_rules = rules(old);
    let known = |rule: &String| {
        old_rules.contains(rule) || old_rules.iter().any(|old| rule.ends_with(&format!(" || ({old})")))
    };
    check(rules(new).iter().all(known), "a rule is new");
    for (name, field) in old.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        match new.properties.as_ref().and_then(|fields| fields.get(name)) {
            Some(new) => found.extend(narrowed(field, new, &path)),
            None => found.push(format!("{path}: is gone")),
        }
    }
    if let (Some(JSONSchemaPropsOrArray::Schema(old)), Some(JSONSchemaPropsOrArray::Schema(new))) =
        (&old.items, &new.items)
    {
        found.extend(narrowed(old, new, &format!("{path}[]")));
    }
    found
}

/// Whether a limit from above has come down; none is no limit.
fn above<T: PartialOrd>(old: Option<T>, new: Option<T>) -> bool {
    new.is_some_and(|new| old.is_none_or(|old| new < old))
}

/// Whether a limit from below has gone up.
fn below<T: PartialOrd>(old: Option<T>, new: Option<T>) -> bool {
    new.is_some_and(|new| old.is_none_or(|old| new > old))
}

#[test]
fn a_removed_or_tightened_field_is_seen() {
    let released: CustomResourceDefinition = serde_saphyr::from_str(RELEASED).expect("a definition");
    let old = schema(&released.spec.versions[0]);
    let purchase = |schema: &mut JSONSchemaProps, change: fn(&mut JSONSchemaProps)| {
        let spec = schema.properties.as_mut().and_then(|fields| fields.get_mut("spec")).expect("a spec");
        change(spec.properties.as_mut().and_then(|fields| fields.get_mut("purchase")).expect("a purchase"));
    };
    let field = |schema: &mut JSONSchemaProps, name: &str, change: fn(&mut JSONSchemaProps)| {
        change(schema.properties.as_mut().and_then(|fields| fields.get_mut(name)).expect("a field"));
    };
    let tightenings: [fn(&mut JSONSchemaProps); 6] = [
        |purchase| drop(purchase.properties.as_mut().and_then(|fields| fields.remove("paidAt"))),
        |purchase| purchase.required.get_or_insert_default().push("paidAt".to_owned()),
        |purchase| purchase.type_ = Some("string".to_owned()),
        |purchase| purchase.max_length = Some(3),
        |purchase| {
            let provider = purchase.properties.as_mut().and_then(|fields| fields.get_mut("provider"));
            drop(provider.and_then(|provider| provider.enum_.as_mut()?.pop()));
        },
        |purchase| {
            let rules = purchase.x_kubernetes_validations.as_mut().expect("rules");
            rules[0].rule = "false".to_owned();
        },
    ];
    for tightening in tightenings {
        let mut new = old.clone();
        purchase(&mut new, tightening);
        assert_eq!(narrowed(&old, &new, "v1alpha1").len(), 1);
    }
    let mut new = old.clone();
    purchase(&mut new, |purchase| {
        let note = JSONSchemaProps { type_: Some("string".to_owned()), ..JSONSchemaProps::default() };
        purchase.properties.get_or_insert_default().insert("note".to_owned(), note);
    });
    field(&mut new, "spec", |spec| spec.required = None);
    assert_eq!(narrowed(&old, &new, "v1alpha1"), [""; 0], "what is added or loosened is fine");
}
