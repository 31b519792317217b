//! What is said about a grant in its events: transitions, and nothing that repeats itself.

use std::fmt;

use grantsmith_core::Reason;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::attempts::told;
use crate::status::{Weight, weight};

/// Says what happens to grants.
#[derive(Clone)]
pub struct Events(Recorder);

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// What was done when it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The grant was worked on.
    Reconcile,
    /// It was compared with AuthForge.
    Audit,
    /// It was deleted, and its keys left as they are.
    Retain,
    /// It was deleted, and its keys revoked.
    Revoke,
}

impl Events {
    /// Events by the replica that is called `instance`.
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter =
            Reporter { controller: "grantsmith-operator".to_owned(), instance: Some(instance.to_owned()) };
        Self(Recorder::new(client, reporter))
    }

    /// Says it. An event that cannot be written is lost: the status tells the same.
    pub async fn tell(&self, about: &ObjectReference, action: Action, reason: Reason, note: &str) {
        let type_ = if weight(reason) > Weight::Paused && reason != Reason::Issuing || action == Action::Audit
        {
            EventType::Warning
        } else {
            EventType::Normal
        };
        // The API server takes a kilobyte.
        let note = note.chars().take(500).collect();
        let action = match action {
            Action::Reconcile => "Reconcile",
            Action::Audit => "Audit",
            Action::Retain => "Retain",
            Action::Revoke => "Revoke",
        };
        let event = Event {
            type_,
            reason: reason.to_string(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.0.publish(&event, about).await {
            tracing::debug!(error = told(&error), "an event could not be written");
        }
    }
}
