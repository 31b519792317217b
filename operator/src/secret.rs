//! The Secret that holds a grant's keys: made by its grant, owned by it, and the only place where they are.
//!
//! Beside each key it carries what was known when the key was kept, in an annotation without secrets. So a crash between the
//! Secret and the status costs one look at the Secret, and no call.

use std::collections::BTreeMap;
use std::fmt;

use grantsmith_core::LicenseKey;
use grantsmith_core::license::Fingerprint;
use grantsmith_crd::{LicenseGrant, LicenseStatus};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Resource as _, ResourceExt as _};

/// What Secrets of ours are labeled with, so that no others need be listed.
pub const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "grantsmith-operator");

/// What was known of each key when it was kept.
const RECORD: &str = "grantsmith.dev/licenses";

/// The keys of a grant, and what was known of them when they were kept.
#[derive(Clone, Default)]
pub struct Keys {
    texts: BTreeMap<Fingerprint, LicenseKey>,
    born: Vec<LicenseStatus>,
    /// Whose write comes next: none if there is no Secret yet.
    version: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("version", &self.version).finish_non_exhaustive()
    }
}

/// What there is under the name of a grant's Secret.
#[derive(Debug)]
pub enum Found {
    /// Its keys, perhaps none yet.
    Keys(Keys),
    /// Something that is not the grant's.
    Taken,
}

impl Keys {
    /// The key of a fingerprint.
    pub fn get(&self, fingerprint: &Fingerprint) -> Option<&LicenseKey> {
        self.texts.get(fingerprint)
    }

    /// The licenses that were kept.
    pub fn born(&self) -> &[LicenseStatus] {
        &self.born
    }

    /// The Secret's version, if there is one.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether there is another key in the place of a license.
    pub fn has_another(&self, license: &LicenseStatus) -> bool {
        let same =
            |other: &LicenseStatus| other.name == license.name && other.generation == license.generation;
        self.born.iter().any(|other| same(other) && other.fingerprint != license.fingerprint)
    }

    /// Adds a key; one that is there already changes nothing.
    pub fn add(&mut self, license: LicenseStatus, key: LicenseKey) {
        if self.texts.insert(key.fingerprint(), key).is_none() {
            self.born.retain(|known| known.fingerprint != license.fingerprint);
            self.born.push(license);
        }
    }

    fn read(secret: &Secret) -> Self {
        let values = secret.data.iter().flatten();
        let keys = values.filter_map(|(_, value)| std::str::from_utf8(&value.0).ok()).map(LicenseKey::new);
        let record = secret.annotations().get(RECORD);
        let born: Vec<LicenseStatus> =
            record.and_then(|record| serde_json::from_str(record).ok()).unwrap_or_default();
        Self {
            texts: keys.map(|key| (key.fingerprint(), key)).collect(),
            born,
            version: secret.resource_version(),
        }
    }

    /// The Secret. The newest key of a name is under that name, older ones carry their generation.
    fn secret(&self, grant: &LicenseGrant) -> Result<Secret, serde_json::Error> {
        let newest = |name: &str| {
            self.born.iter().filter(|other| other.name == name).map(|other| other.generation).max()
        };
        let entry = |license: &LicenseStatus| {
            let key = self.texts.get(&Fingerprint::from_hex(license.fingerprint.clone()))?;
            let name = if newest(&license.name) == Some(license.generation) {
                license.name.clone()
            } else {
                format!("{}.{}", license.name, license.generation)
            };
            Some((name, ByteString(key.expose().as_bytes().to_vec())))
        };
        let owner = OwnerReference {
            api_version: LicenseGrant::api_version(&()).into_owned(),
            kind: LicenseGrant::kind(&()).into_owned(),
            name: grant.name_any(),
            uid: grant.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        let metadata = ObjectMeta {
            name: Some(grant.secret_name()),
            namespace: grant.namespace(),
            labels: Some(BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())])),
            annotations: Some(BTreeMap::from([(RECORD.to_owned(), serde_json::to_string(&self.born)?)])),
            owner_references: Some(vec![owner]),
            resource_version: self.version.clone(),
            ..ObjectMeta::default()
        };
        let data = self.born.iter().filter_map(entry).collect();
        Ok(Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() })
    }
}

/// Whose a Secret is.
#[derive(Debug, PartialEq, Eq)]
enum Ownership {
    Ours,
    /// Of a grant of the same name that is no more. Kubernetes will remove it some time; until then it stands in the way of a
    /// grant that was deleted and applied again.
    Leftover,
    Another,
}

fn ownership(secret: &Secret, grant: &LicenseGrant) -> Ownership {
    let (uid, name) = (grant.uid().unwrap_or_default(), grant.name_any());
    let owners = secret.owner_references();
    let ours = secret.labels().get(LABEL.0).is_some_and(|value| value == LABEL.1);
    let namesake = |owner: &OwnerReference| {
        owner.kind == LicenseGrant::kind(&())
            && owner.api_version == LicenseGrant::api_version(&())
            && owner.name == name
    };
    if owners.iter().any(|owner| owner.uid == uid) {
        Ownership::Ours
    } else if ours && !owners.is_empty() && owners.iter().all(namesake) {
        Ownership::Leftover
    } else {
        Ownership::Another
    }
}

/// The Secrets of one cluster.
#[derive(Clone)]
pub struct Secrets {
    client: Client,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// Why a Secret could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has written it meanwhile.
    #[error("the Secret has changed meanwhile")]
    Conflict,
    /// What is to be remembered beside the keys cannot be written.
    #[error("could not write what is known of the keys")]
    Record(#[source] serde_json::Error),
    /// The API server.
    #[error("could not use the Secret")]
    Server(#[source] kube::Error),
}

impl Secrets {
    /// The Secrets that a client may use.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn api(&self, grant: &LicenseGrant) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &grant.namespace().unwrap_or_default())
    }

    /// Reads a grant's Secret.
    pub async fn read(&self, grant: &LicenseGrant) -> Result<Found, kube::Error> {
        let Some(secret) = self.api(grant).get_opt(&grant.secret_name()).await? else {
            return Ok(Found::Keys(Keys::default()));
        };
        Ok(match ownership(&secret, grant) {
            Ownership::Ours => Found::Keys(Keys::read(&secret)),
            Ownership::Leftover => {
                Found::Keys(Keys { version: secret.resource_version(), ..Keys::default() })
            }
            Ownership::Another => Found::Taken,
        })
    }

    /// Writes a grant's Secret, if it is still as it was read.
    pub async fn write(&self, grant: &LicenseGrant, keys: &mut Keys) -> Result<(), Error> {
        let secret = keys.secret(grant).map_err(Error::Record)?;
        let api = self.api(grant);
        let written = match &keys.version {
            None => api.create(&PostParams::default(), &secret).await,
            Some(_) => api.replace(&grant.secret_name(), &PostParams::default(), &secret).await,
        };
        match written {
            Ok(secret) => {
                keys.version = secret.resource_version();
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() || status.is_conflict() => {
                Err(Error::Conflict)
            }
            // It is gone: whoever reads it next finds none.
            Err(kube::Error::Api(status)) if status.is_not_found() && keys.version.is_some() => {
                Err(Error::Conflict)
            }
            Err(error) => Err(Error::Server(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grantsmith_crd::KeptState;
    use jiff::Timestamp;
    use serde_json::json;

    fn grant() -> LicenseGrant {
        serde_json::from_value(json!({
            "apiVersion": "grantsmith.dev/v1alpha1",
            "kind": "LicenseGrant",
            "metadata": {"name": "g", "namespace": "licenses", "uid": "u-1"},
            "spec": {"purchase": {"provider": "stripe", "id": "cs_1"}, "licenses": [{"name": "main", "appId": "a"}]},
        }))
        .expect("a grant")
    }

    fn license(key: &LicenseKey, generation: i32) -> LicenseStatus {
        LicenseStatus {
            name: "main".to_owned(),
            generation,
            state: KeptState::Live,
            key: key.masked(),
            fingerprint: key.fingerprint().to_string(),
            app_id: "a".to_owned(),
            max_hwid_slots: None,
            unlimited_hwid_slots: None,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
            attempt: None,
            revoked_at: None,
            cause: None,
            duplicated: None,
            refused: None,
            refused_expiry: None,
            drift: None,
            devices_reset_at: None,
            devices_reset: None,
        }
    }

    #[test]
    fn only_a_dead_namesakes_secret_is_taken_over() {
        let ours = Keys::default().secret(&grant()).expect("a Secret");
        let changed = |change: fn(&mut Secret)| {
            let mut secret = ours.clone();
            change(&mut secret);
            ownership(&secret, &grant())
        };
        let owner = |secret: &mut Secret, change: fn(&mut OwnerReference)| {
            secret.metadata.owner_references.iter_mut().flatten().for_each(change);
        };
        assert_eq!(ownership(&ours, &grant()), Ownership::Ours);
        let dead = |secret: &mut Secret| owner(secret, |owner| owner.uid = "u-0".to_owned());
        let mut leftover = ours.clone();
        dead(&mut leftover);
        assert_eq!(ownership(&leftover, &grant()), Ownership::Leftover);
        leftover.metadata.labels = None;
        assert_eq!(ownership(&leftover, &grant()), Ownership::Another, "somebody else wrote it");
        assert_eq!(changed(|secret| secret.metadata.owner_references = None), Ownership::Another);
        let mut other = ours.clone();
        owner(&mut other, |owner| (owner.uid, owner.name) = ("u-0".to_owned(), "other".to_owned()));
        assert_eq!(ownership(&other, &grant()), Ownership::Another, "the other one may live");
    }

    #[test]
    fn the_newest_key_has_the_name_and_all_are_read_back() {
        let (old, new) = (LicenseKey::new("AAAA-AAAA-AAAA-AAAA"), LicenseKey::new("BBBB-BBBB-BBBB-BBBB"));
        let mut keys = Keys::default();
        keys.add(license(&old, 1), old.clone());
        keys.add(license(&new, 2), new.clone());
        let secret = keys.secret(&grant()).expect("a Secret");
        let data = secret.data.as_ref().expect("data");
        assert_eq!(data["main"].0, new.expose().as_bytes());
        assert_eq!(data["main.1"].0, old.expose().as_bytes());
        let read = Keys::read(&secret);
        assert_eq!(read.get(&old.fingerprint()), Some(&old));
        assert_eq!(read.get(&new.fingerprint()), Some(&new));
        assert_eq!(read.born().len(), 2);
        let told = serde_json::to_string(&secret.metadata).expect("JSON");
        assert!(!told.contains("AAAA-AAAA") && !told.contains("BBBB-BBBB"), "metadata holds no key");
    }
}
