//! What the chart takes, what it refuses, and in which words.

use serde_json::Value;

use crate::{MINIMAL, read, rendered};

/// Each with a part of what whoever tries it reads.
const REFUSED: &[(&str, &str)] = &[
    ("server.replicas=2", "at '/server/replicas': value must be 1"),
    ("webhook.replicas=0", "at '/webhook/replicas': minimum: got 0, want 1"),
    ("stripe.mode=prod", "at '/stripe/mode': value must be one of 'live', 'test'"),
    ("sever.replicas=1", "at '': additional properties 'sever' not allowed"),
    ("stripe.apiKey=sk_live_1", "at '/stripe': additional properties 'apiKey' not allowed"),
    ("webhook.replica=3", "at '/webhook': additional properties 'replica' not allowed"),
    ("authforge.rate=fast", "at '/authforge/rate': got string, want integer"),
    ("authforge.rate=0", "at '/authforge/rate': minimum: got 0, want 1"),
    ("installation=Shop EU", "at '/installation': 'Shop EU' does not match pattern"),
    ("publicUrl=licenses.example.com", "at '/publicUrl': 'licenses.example.com' does not match pattern"),
    ("smtp.url=smtp://me:secret@mail", "at '/smtp/url': 'smtp://me:secret@mail' does not match pattern"),
    ("server.persistence.size=lots", "at '/server/persistence/size': 'lots' does not match pattern"),
    ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
    ("operator.driftPolicy=fix", "at '/operator/driftPolicy': value must be one of 'report', 'repair'"),
    (
        "server.auth.serviceAccounts[0].namespace=a,server.auth.serviceAccounts[0].name=b,server.auth.serviceAccounts[0].roles[0]=root",
        "at '/server/auth/serviceAccounts/0/roles/0': value must be one of 'read', 'manage', 'reveal', 'ingest', 'storefront'",
    ),
    (
        "server.auth.serviceAccounts[0].name=b",
        "at '/server/auth/serviceAccounts/0': missing properties 'namespace', 'roles'",
    ),
    ("networkPolicy.egressPorts[0]=https", "at '/networkPolicy/egressPorts/0': got string, want integer"),
    ("publicUrl=", "publicUrl is missing: set it to the https:// address that buyers will see"),
    (
        "stripe.apiKeySecret.name=",
        "stripe.apiKeySecret.name is missing: make a Secret with Stripe's API key and name it, or set stripe.eventsOnly: true",
    ),
    ("stripe.eventsOnly=true", "stripe.eventsOnly contradicts stripe.apiKeySecret.name"),
    ("stripe.webhookSecretsSecret.name=", "stripe.webhookSecretsSecret.name is missing"),
    ("authforge.apiKeySecret.name=", "authforge.apiKeySecret.name is missing"),
    ("server.tls.secretName=", "server.tls: set exactly one of certManager.enabled: true"),
    ("server.tls.insecure=true", "server.tls: set exactly one of certManager.enabled: true"),
    (
        "server.tls.secretName=,server.tls.certManager.enabled=true",
        "server.tls.certManager.issuerRef.name is missing",
    ),
    ("server.auth.tokenReview=false", "name the Secrets of fixed tokens in server.auth.tokensSecret.name"),
    ("webhook.tokenSecret.name=t", "webhook.tokenSecret.name needs server.auth.tokensSecret.name"),
    ("catalog=plans: [],catalogConfigMap=plans", "catalog contradicts catalogConfigMap"),
    ("smtp.url=smtp://mail", "mail.from is missing: smtp.url needs a sender of the mails"),
    (
        "smtp.url=smtp://mail,mail.from=a@b.example,publicUrl=http://a.example",
        "publicUrl must begin with https://: mails to real buyers link to it",
    ),
    ("templates.configMap=letters", "templates.configMap needs templates.items"),
    ("ca.secretName=a,ca.configMap=b", "ca.secretName contradicts ca.configMap"),
    ("grants.namespace=shop", "grants.namespace must not be the release's own"),
    ("httpRoute.enabled=true", "httpRoute.parentRefs is missing"),
    ("metrics.prometheusRule.enabled=true", "metrics.prometheusRule.runbookUrl is missing"),
];

#[test]
fn wrong_values_are_refused_in_words_that_say_which() {
    for (set, expected) in REFUSED {
        let told = rendered(MINIMAL, &["--set", set]).expect_err(set);
        assert!(told.contains(expected), "{set}: {told}");
    }
}

#[test]
fn all_that_is_missing_is_told_at_once() {
    let nothing = rendered("/dev/null", &[]).expect_err("nothing was said");
    for missing in
        ["publicUrl", "webhookSecretsSecret", "stripe.apiKeySecret", "authforge.apiKeySecret", "server.tls"]
    {
        assert!(nothing.contains(&format!("- {missing}")) || nothing.contains(missing), "{nothing}");
    }
}

fn schema() -> Value {
    serde_json::from_str(&read("charts/grantsmith/values.schema.json")).expect("a schema")
}

/// What stands at a place, with references followed.
fn at<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    match schema["$ref"].as_str() {
        Some(place) => root.pointer(place.trim_start_matches('#')).expect("a definition"),
        None => schema,
    }
}

fn unknown(root: &Value, schema: &Value, values: &Value, path: &str, found: &mut Vec<String>) {
    let schema = at(root, schema);
    let (Some(known), Some(values)) = (schema["properties"].as_object(), values.as_object()) else { return };
    for (name, value) in values {
        let path = format!("{path}.{name}");
        match known.get(name) {
            Some(schema) => unknown(root, schema, value, &path, found),
            None => found.push(path),
        }
    }
    // The other way round: what the schema takes has a default, and so a text.
    for name in known.keys().filter(|name| !values.contains_key(*name) && *name != "global") {
        // Of what is empty by default the parts are Kubernetes' own, or a list's.
        if !values.is_empty() {
            found.push(format!("{path}.{name} (in the schema alone)"));
        }
    }
}

#[test]
fn schema_and_values_tell_of_the_same_keys() {
    let values: Value = serde_saphyr::from_str(&read("charts/grantsmith/values.yaml")).expect("values");
    let schema = schema();
    let mut found = Vec::new();
    unknown(&schema, &schema, &values, "", &mut found);
    // What pods and claims may ask for besides is not ours to list.
    found.retain(|path| !path.contains("resources."));
    assert!(found.is_empty(), "{found:#?}");
}

fn open(schema: &Value, path: &str, found: &mut Vec<String>) {
    if schema["properties"].is_object() && schema["additionalProperties"] != Value::Bool(false) {
        found.push(path.to_owned());
    }
    match schema {
        Value::Object(fields) => {
            for (name, field) in fields {
                open(field, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(entries) => entries.iter().for_each(|entry| open(entry, path, found)),
        _ => {}
    }
}

#[test]
fn no_object_of_the_schema_takes_unknown_keys() {
    let mut found = Vec::new();
    open(&schema(), "", &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_value_has_a_text() {
    let text = read("charts/grantsmith/values.yaml");
    let mut before = "";
    let mut bare = Vec::new();
    for line in text.lines() {
        let key = line.trim_start();
        let leaf = key.split_once(": ").is_some_and(|(name, _)| !name.starts_with('#'));
        if leaf && !before.trim_start().starts_with("# ") {
            bare.push(line);
        }
        before = line;
    }
    assert!(bare.is_empty(), "values without a comment above: {bare:#?}");
}
