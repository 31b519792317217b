//! Whose turn it is: buyers first, of those that wait alike the newest, each grant at one place at a time.
//!
//! The newest first, because after an outage those that have waited for an hour can wait for another second, and who has
//! just paid is looking at a page. A queue that is served in the order of arrival makes everybody wait.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grantsmith_core::port::{Clock, Moment, Priority};
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::index::{Place, Turn};

/// Timers stand still while the machine sleeps and core's clock does not, so no wait is trusted for longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

type Rank = (Priority, Reverse<Timestamp>, Place);

#[derive(Debug)]
enum Stand {
    Ready(Rank),
    Later(Moment, Turn),
    Running { again: Option<Turn> },
}

#[derive(Debug, Default)]
struct State {
    stands: HashMap<Place, Stand>,
    ready: BTreeSet<Rank>,
    later: BTreeSet<(Moment, Place)>,
}

/// The grants that are to be worked on.
pub struct Queue {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Notify,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl Queue {
    /// An empty one.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are ready.
    pub fn waiting(&self) -> usize {
        self.lock().ready.len()
    }

    /// A grant is ready. One that is being worked on is taken up again afterwards.
    pub fn push(&self, turn: Turn) {
        self.lock().ready(turn);
        self.changed.notify_one();
    }

    /// A grant is ready in a while, unless it is ready or waits for less already.
    pub fn push_later(&self, turn: Turn, wait: Duration) {
        let at = self.clock.now().moment.plus(wait);
        self.lock().wait(turn, at);
        self.changed.notify_one();
    }

    /// The next grant; it is at nobody else's until [`Self::done`].
    pub async fn next(&self) -> Place {
        loop {
            let wait = {
                let now = self.clock.now().moment;
                let mut state = self.lock();
                state.ripen(now);
                if let Some((_, _, place)) = state.ready.pop_first() {
                    state.stands.insert(place.clone(), Stand::Running { again: None });
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return place;
                }
                state.later.first().map_or(LONGEST_SLEEP, |(at, _)| at.since(now))
            };
            // Either way the state is looked at anew; an elapsed wait is no error.
            drop(
                tokio::time::timeout(
                    wait.clamp(Duration::from_millis(1), LONGEST_SLEEP),
                    self.changed.notified(),
                )
                .await,
            );
        }
    }

    /// A grant was worked on; `next` says when it is due again, by itself.
    pub fn done(&self, place: &Place, next: Option<(Turn, Duration)>) {
        let mut state = self.lock();
        let stand = state.stands.remove(place);
        if let Some(Stand::Running { again: Some(turn) }) = stand {
            state.ready(turn);
        } else if let Some((turn, wait)) = next {
            let at = self.clock.now().moment.plus(wait);
            state.wait(turn, at);
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl State {
    fn ready(&mut self, turn: Turn) {
        let rank = (turn.priority, Reverse(turn.created), turn.place.clone());
        match self.stands.get_mut(&turn.place) {
            Some(Stand::Running { again }) => {
                *again = Some(turn);
                return;
            }
            Some(Stand::Ready(old)) => {
                self.ready.remove(old);
            }
            Some(Stand::Later(at, _)) => {
                self.later.remove(&(*at, turn.place.clone()));
            }
            None => {}
        }
        self.ready.insert(rank.clone());
        self.stands.insert(turn.place, Stand::Ready(rank));
    }

    fn wait(&mut self, turn: Turn, at: Moment) {
        match self.stands.get(&turn.place) {
            Some(Stand::Running { .. } | Stand::Ready(_)) => return,
            Some(Stand::Later(known, _)) if *known <= at => return,
            Some(Stand::Later(known, _)) => {
                self.later.remove(&(*known, turn.place.clone()));
            }
            None => {}
        }
        self.later.insert((at, turn.place.clone()));
        self.stands.insert(turn.place.clone(), Stand::Later(at, turn));
    }

    fn ripen(&mut self, now: Moment) {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, place)) = self.later.pop_first() else { return };
            if let Some(Stand::Later(_, turn)) = self.stands.remove(&place) {
                self.ready(turn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grantsmith_core::testing::ManualClock;

    fn turn(name: &str, priority: Priority, created: i64) -> Turn {
        let place = Place { namespace: "licenses".into(), name: name.into() };
        Turn { place, priority, created: Timestamp::from_second(created).expect("a time") }
    }

    async fn take(queue: &Queue) -> String {
        queue.next().await.name.to_string()
    }

    #[tokio::test]
    async fn buyers_go_first_and_the_newest_of_them() {
        let queue = Queue::new(Arc::new(ManualClock::default()));
        queue.push(turn("renewal", Priority::Renewal, 9));
        queue.push(turn("old", Priority::Buyer, 1));
        queue.push(turn("new", Priority::Buyer, 2));
        queue.push(turn("refund", Priority::Refund, 3));
        for name in ["new", "old", "refund", "renewal"] {
            assert_eq!(take(&queue).await, name);
        }
    }

    #[tokio::test]
    async fn a_grant_is_worked_on_by_one_at_a_time_and_taken_up_again() {
        let queue = Queue::new(Arc::new(ManualClock::default()));
        queue.push(turn("a", Priority::Buyer, 1));
        assert_eq!(take(&queue).await, "a");
        queue.push(turn("a", Priority::Buyer, 1));
        queue.push(turn("b", Priority::Audit, 1));
        assert_eq!(take(&queue).await, "b", "a is at somebody's");
        let a = turn("a", Priority::Buyer, 1);
        queue.done(&a.place, Some((a.clone(), Duration::from_secs(60))));
        assert_eq!(take(&queue).await, "a", "what came meanwhile goes before what it wished itself");
    }

    #[tokio::test]
    async fn who_waits_is_ready_in_time_and_not_before() {
        let clock = ManualClock::default();
        let queue = Queue::new(Arc::new(clock.clone()));
        queue.push_later(turn("later", Priority::Buyer, 1), Duration::from_secs(60));
        queue.push_later(turn("later", Priority::Buyer, 1), Duration::from_secs(90));
        queue.push(turn("now", Priority::Audit, 1));
        assert_eq!(take(&queue).await, "now");
        clock.advance(Duration::from_secs(61));
        assert_eq!(take(&queue).await, "later", "the earlier wish counts");
    }
}
