//! Callers that show a Kubernetes service-account token: the cluster says whose it is, the settings what that account may do.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};
use kube::core::ObjectMeta;
use moka::future::Cache;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use super::status::{CallReason, plain};
use super::tokens::Role;

/// For how long the cluster's word on a token counts: a deleted account can call that much longer.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// For how long it counts while the cluster cannot be asked: purchases are recorded meanwhile, and accounts that are deleted
/// then cannot be deleted either.
const REMEMBERED_ALONE_FOR: Duration = Duration::from_secs(24 * 3_600);
/// How many tokens are remembered.
const REMEMBERED: u64 = 4_096;
/// The cluster says it within this, or counts as one that cannot be asked: the webhook does not wait longer for all of it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// What one service account may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    namespace: String,
    name: String,
    roles: Vec<Role>,
}

impl FromStr for Account {
    type Err = String;

    /// Reads `NAMESPACE/NAME=ROLE,ROLE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write NAMESPACE/NAME=ROLE,ROLE, such as billing/invoices=read,manage".to_owned();
        let (account, roles) = text.split_once('=').ok_or_else(form)?;
        let (namespace, name) = account.split_once('/').ok_or_else(form)?;
        let plain = |word: &str| {
            !word.is_empty()
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        if !plain(namespace) || !plain(name) {
            return Err(form());
        }
        let role = |word: &str| {
            word.parse().map_err(|()| {
                format!("there is no role '{word}'; there are ingest, read, manage, reveal and storefront")
            })
        };
        let roles = roles.split(',').map(role).collect::<Result<_, _>>()?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), roles })
    }
}

impl Account {
    fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

/// Whom the cluster knows.
pub struct Accounts {
    reviews: Api<TokenReview>,
    audience: String,
    callers: Vec<Account>,
    /// By the token's hash: whose it is, if anybody's.
    known: Cache<[u8; 32], Option<Arc<str>>>,
    /// The same of those that are somebody's, for when the cluster cannot be asked.
    last: Cache<[u8; 32], Arc<str>>,
}

/// Why the cluster did not say whose a token is.
#[derive(Debug, thiserror::Error)]
enum Silent {
    #[error("the cluster did not answer in time")]
    Late,
    #[error("the cluster could not be asked")]
    Failed(#[from] kube::Error),
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("callers", &self.callers).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Tokens for this audience, of these accounts, judged by this cluster.
    pub fn new(client: kube::Client, audience: String, callers: Vec<Account>) -> Self {
        let known = Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build();
        let last = Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_ALONE_FOR).build();
        Self { reviews: Api::all(client), audience, callers, known, last }
    }

    /// Whether a token may be one of a service account: all of them are JSON Web Tokens.
    pub(super) fn may_know(token: &str) -> bool {
        token.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Lets a call pass whose account has the role; gives the account's name.
    pub(super) async fn check(&self, token: &str, role: Role) -> Result<String, Status> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        // One review for all who come with the same token at the same time.
        let user = self.known.try_get_with(hash, self.whose(hash, token)).await.map_err(|error| {
            tracing::warn!(error = crate::app::chain(&*error), "a caller's token could not be reviewed");
            let text = "the cluster cannot be asked whose the token is; try again";
            plain(Code::Unavailable, CallReason::TokenReviewUnavailable, text)
        })?;
        let Some(user) = user else {
            let text = format!(
                "the token is neither in the server's tokens file nor a service account's for the audience '{}'; ask for one \
                 with that audience, and see that it has not expired",
                self.audience
            );
            return Err(plain(Code::Unauthenticated, CallReason::TokenUnknown, text));
        };
        let mut roles = self.callers.iter().filter(|account| account.user() == *user);
        let Some(account) = roles.find(|account| account.roles.contains(&role)) else {
            let role = role.as_str();
            let text = format!("{user} lacks the role {role}; add it to the server's --grpc-service-account");
            return Err(plain(Code::PermissionDenied, CallReason::RoleMissing, text));
        };
        Ok(format!("{}/{}", account.namespace, account.name))
    }

    /// Whose a token is, as the cluster says or said last.
    async fn whose(&self, hash: [u8; 32], token: &str) -> Result<Option<Arc<str>>, Silent> {
        let answer = tokio::time::timeout(ANSWERED_WITHIN, self.review(token)).await;
        match answer.map_err(|_| Silent::Late).and_then(|answer| Ok(answer?)) {
            Ok(Some(user)) => {
                self.last.insert(hash, user.clone()).await;
                Ok(Some(user))
            }
            Ok(None) => {
                self.last.invalidate(&hash).await;
                Ok(None)
            }
            Err(silent) => {
                let user = self.last.get(&hash).await.ok_or(silent)?;
                tracing::info!(
                    user = &*user,
                    "the cluster cannot be asked whose a token is; what it said last counts"
                );
                Ok(Some(user))
            }
        }
    }

    async fn review(&self, token: &str) -> Result<Option<Arc<str>>, kube::Error> {
        let spec =
            TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![self.audience.clone()]) };
        let review = TokenReview { metadata: ObjectMeta::default(), spec, status: None };
        let status = self.reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        // A cluster that does not know of audiences leaves them out, and has not compared them.
        let ours = status.audiences.is_some_and(|audiences| audiences.contains(&self.audience));
        let user = status.user.and_then(|user| user.username);
        Ok(user.filter(|_| status.authenticated == Some(true) && ours).map(Arc::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_written_as_namespace_name_and_roles() {
        let account: Account = "billing/invoices=read,manage".parse().expect("an account");
        assert_eq!(account.user(), "system:serviceaccount:billing:invoices");
        assert_eq!(account.roles, [Role::Read, Role::Manage]);
        for (wrong, says) in [
            ("billing/invoices", "NAMESPACE/NAME=ROLE"),
            ("billing=read", "NAMESPACE/NAME=ROLE"),
            ("/invoices=read", "NAMESPACE/NAME=ROLE"),
            ("billing/in voices=read", "NAMESPACE/NAME=ROLE"),
            ("billing/invoices=", "there is no role ''"),
            ("billing/invoices=read,everything", "there is no role 'everything'"),
        ] {
            let error = wrong.parse::<Account>().expect_err("no account");
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn only_what_looks_like_a_web_token_is_shown_to_the_cluster() {
        assert!(Accounts::may_know("aaa.bbb.ccc"));
        assert!(!Accounts::may_know("0123456789abcdef0123"));
    }
}
