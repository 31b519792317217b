//! Random operations on marks, tickets and decisions, compared with a model of a few lines.

use std::collections::BTreeMap;

use grantsmith_core::Reason;
use grantsmith_service::store::{Decision, EventState, Object, Store, Ticket};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::Harness;
use crate::build::{at, decision, due_at, event, payment, session, stripe};

/// Three sessions, each with one payment of the same number.
const SESSIONS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// An event about the session, or about its payment.
    Tell { session: usize, payment: bool },
    /// A mark for later or earlier.
    Mark { session: usize, due: i64 },
    /// A look begins.
    Look { session: usize },
    /// One of the looks that have begun is decided. It may know the payment, and may have seen it.
    Decide { look: usize, linked: Option<bool>, again: Option<i64> },
    /// One of them has failed.
    Fail { look: usize, due: i64 },
    /// The process is killed and started anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..SESSIONS;
    prop_oneof![
        4 => (session.clone(), any::<bool>()).prop_map(|(session, payment)| Step::Tell { session, payment }),
        1 => (session.clone(), 0..100_i64).prop_map(|(session, due)| Step::Mark { session, due }),
        4 => session.prop_map(|session| Step::Look { session }),
        4 => (0..8_usize, proptest::option::of(any::<bool>()), proptest::option::of(200..300_i64))
            .prop_map(|(look, linked, again)| Step::Decide { look, linked, again }),
        1 => (0..8_usize, 100..200_i64).prop_map(|(look, due)| Step::Fail { look, due }),
        1 => Just(Step::Restart),
    ]
}

/// What the record must say, in plain terms: time is the number of the step.
#[derive(Debug, Default)]
struct Model {
    steps: u64,
    /// By session: when it was marked last, and when to look.
    marks: BTreeMap<usize, (u64, i64)>,
    /// By session: the step of the look behind its snapshot.
    seen: BTreeMap<usize, u64>,
    /// Sessions whose payment is known to be theirs.
    linked: BTreeMap<usize, bool>,
    /// Events that wait: the session, whether they tell of its payment, and from which step on a look takes them in.
    waiting: BTreeMap<String, (usize, bool, u64)>,
    /// Looks that have begun: the session, the step, and the ticket.
    looks: Vec<(usize, u64, Ticket)>,
}

impl Model {
    fn mark(&mut self, session: usize, due: i64) {
        let mark = self.marks.entry(session).or_insert((0, due));
        *mark = (self.steps, mark.1.min(due));
    }

    fn tell(&mut self, id: String, session: usize, payment: bool) {
        if !payment || self.linked.contains_key(&session) {
            self.mark(session, 0);
        }
        self.waiting.insert(id, (session, payment, self.steps));
    }

    fn decide(&mut self, session: usize, begun: u64, linked: Option<bool>, again: Option<i64>) -> bool {
        if self.seen.get(&session).is_some_and(|seen| *seen > begun) {
            return false;
        }
        self.seen.insert(session, begun);
        let mut joined = false;
        if let Some(seen) = linked
            && self.linked.insert(session, true).is_none()
        {
            let steps = self.steps;
            let orphans = self.waiting.values_mut().filter(|(of, payment, _)| *of == session && *payment);
            for (_, _, since) in orphans.filter(|(_, _, since)| !seen || *since > begun) {
                *since = steps;
                joined = true;
            }
        }
        let known = self.linked.contains_key(&session);
        self.waiting.retain(|_, (of, payment, since)| {
            let taken_in = *of == session && (!*payment || known) && *since < begun;
            !taken_in
        });
        match (self.marks.get_mut(&session), again) {
            (Some((mark, due)), Some(again)) if *mark > begun => *due = again.min(*due),
            (Some((mark, _)), None) if *mark > begun => {}
            (_, Some(again)) => {
                self.marks.insert(session, (begun, again));
            }
            (_, None) => {
                self.marks.remove(&session);
            }
        }
        if joined {
            self.mark(session, 0);
        }
        true
    }

    fn fail(&mut self, session: usize, begun: u64, due: i64) {
        if let Some((mark, at)) = self.marks.get_mut(&session)
            && *mark <= begun
        {
            *at = due;
        }
    }
}

fn session_of(n: usize) -> Object {
    session(&format!("cs_{n}"))
}

fn payment_of(n: usize) -> Object {
    payment(&format!("pi_{n}"))
}

async fn compare(store: &dyn Store, model: &Model) {
    for now in [0, 99, 199, 299] {
        let mut dirty: Vec<Object> =
            due_at(store, at(now), 100).await.objects.into_iter().map(|dirty| dirty.object).collect();
        dirty.sort_by(|a, b| a.id.cmp(&b.id));
        let due = model.marks.iter().filter(|(_, (_, due))| *due <= now).map(|(n, _)| session_of(*n));
        assert_eq!(dirty, due.collect::<Vec<_>>(), "at {now}: {model:?}");
    }
    let filter =
        grantsmith_service::store::EventFilter { state: Some(EventState::Pending), ..Default::default() };
    let pending = store.events(&filter, None, 1_000).await.expect("lists");
    let mut pending: Vec<_> = pending.into_iter().map(|event| event.id).collect();
    pending.sort();
    assert_eq!(pending, model.waiting.keys().cloned().collect::<Vec<_>>(), "{model:?}");
}

async fn play<H: Harness>(steps: Vec<Step>) {
    let harness = H::fresh().await;
    let mut store = harness.open().await;
    let mut model = Model::default();
    for (n, step) in steps.into_iter().enumerate() {
        model.steps += 1;
        match step {
            Step::Tell { session, payment } => {
                let id = format!("evt_{n:03}");
                let object = if payment { payment_of(session) } else { session_of(session) };
                store.record_event(event(&id, 0, &object)).await.expect("records");
                model.tell(id, session, payment);
            }
            Step::Mark { session, due } => {
                store.mark_dirty(&session_of(session), at(due)).await.expect("marks");
                model.mark(session, due);
            }
            Step::Look { session } => {
                let ticket = store.ticket().await.expect("ticket");
                assert!(model.looks.iter().all(|(_, _, earlier)| *earlier < ticket));
                model.looks.push((session, model.steps, ticket));
            }
            Step::Decide { look, linked, again } => {
                let Some((session, begun, ticket)) = model.looks.get(look).copied() else { continue };
                let payment = stripe(&format!("pi_{session}"));
                let decided = Decision {
                    links: linked.map(|_| payment.clone()).into_iter().collect(),
                    seen: linked.filter(|seen| *seen).map(|_| payment).into_iter().collect(),
                    look_again: again.map(at),
                    ..decision(&format!("cs_{session}"), ticket, 1, 0)
                };
                let written = store.decide(decided).await.expect("decides");
                assert_eq!(written, model.decide(session, begun, linked, again), "{model:?}");
            }
            Step::Fail { look, due } => {
                let Some((session, begun, ticket)) = model.looks.get(look).copied() else { continue };
                let object = session_of(session);
                let failed = store.look_failed(&object, ticket, at(due), Reason::StripeUnavailable, at(0));
                failed.await.expect("writes");
                model.fail(session, begun, due);
            }
            Step::Restart => {
                drop(store);
                store = harness.open().await;
            }
        }
        compare(&*store, &model).await;
    }
}

pub(crate) async fn random_looks_agree_with_a_model<H: Harness>(_: H) {
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
        let steps = proptest::collection::vec(step(), 1..60);
        TestRunner::new(config).run(&steps, |steps| {
            runtime.block_on(play::<H>(steps));
            Ok(())
        })
    };
    tokio::task::spawn_blocking(run).await.expect("ends").expect("the record agrees with the model");
}
