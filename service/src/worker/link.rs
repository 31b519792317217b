//! Wishes for a link to the portal are answered by mail, if the address has bought anything.
//!
//! The token is made here, right before its mail: it is in no request, and the record has its hash alone.

use std::time::Duration;

use metrics::counter;

use super::Worker;
use crate::fulfillment::portal::{TOKEN_FOR, Token};
use crate::mail::Outcome;
use crate::store::{Opens, Wish};

/// After a refusal for now. Whoever still waits then had better ask once more.
const WAITS: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];

impl Worker {
    pub(super) async fn invite(&self, wish: Wish) {
        let number = wish.number;
        let outcome = match self.answer(&wish).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(%error, "a portal link waits for the record");
                return tokio::time::sleep(super::BREATHER).await;
            }
        };
        let wait = usize::try_from(wish.tries).ok().and_then(|tries| WAITS.get(tries));
        let (outcome, again) = match (outcome, wait) {
            (Some(Outcome::Later(_)), Some(wait)) => ("later", Some(self.after(*wait))),
            (Some(Outcome::Sent), _) => ("sent", None),
            (Some(Outcome::Later(_) | Outcome::Refused(_)), _) => ("refused", None),
            (None, _) if self.observe => ("observed", None),
            (None, _) => ("unknown", None),
        };
        counter!("grantsmith_portal_links_total", "outcome" => outcome).increment(1);
        tracing::info!(outcome, "portal link");
        if let Err(error) = self.store.wish_tried(number, again).await {
            // The row stays due, so another link is mailed: each is good for one use.
            tracing::warn!(%error, "what became of a portal link was not written down");
            tokio::time::sleep(super::BREATHER).await;
        }
    }

    /// Mails a link; none where nobody is known by that address, or no mail is sent.
    async fn answer(&self, wish: &Wish) -> Result<Option<Outcome>, crate::store::Error> {
        let (Some(mailer), Some(email), false) = (&self.mailer, &wish.email, self.observe) else {
            return Ok(None);
        };
        let token = Token::random();
        self.store.issue_token(token.hash(), Opens::Portal, email, self.now() + TOKEN_FOR).await?;
        Ok(Some(mailer.send_link(&token, email).await))
    }
}
