//! Random bytes, signed: whoever has the secret is not thereby right.

use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::completed;

/// Bytes out of thin air, or an event with some damage.
fn body(dice: &mut StdRng, event: &[u8]) -> Vec<u8> {
    if dice.random_ratio(1, 4) {
        let mut bytes = vec![0; dice.random_range(0..5_000)];
        dice.fill_bytes(&mut bytes);
        return bytes;
    }
    let mut bytes = event.to_vec();
    for _ in 0..dice.random_range(1..6) {
        let at = dice.random_range(0..bytes.len());
        let to = (at + dice.random_range(1..40)).min(bytes.len());
        match dice.random_range(0..4) {
            0 => bytes[at] ^= 1 << dice.random_range(0..8),
            1 => bytes[at] = *b"{}[]\",:0-et\\".get(dice.random_range(0..12)).expect("a byte"),
            2 => drop(bytes.drain(at..to)),
            _ => {
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_signed_is_answered_and_stops_nothing() {
    let seed: u64 = rand::random();
    let mut dice = StdRng::seed_from_u64(seed);
    for plan in [
        Stack::plan(Shape::Standalone),
        Stack::plan(Shape::Split),
        Stack::plan(Shape::Standalone).events_only(),
    ] {
        let stack = plan.without_mail().start().await;
        let mut statuses = [0; 2];
        for _ in 0..200 {
            let (_, event) = completed(&stack);
            let answer = stack.post(body(&mut dice, &event)).await.expect("an answer");
            match answer.status {
                200 => statuses[0] += 1,
                400 => statuses[1] += 1,
                other => panic!("seed {seed}: {other} {}", answer.body),
            }
        }
        assert!(!statuses.contains(&0), "seed {seed}: both happened, {statuses:?}");
        let bought = stack.buy(order()).await;
        assert_eq!(stack.keys(&bought.session).await.len(), 1, "seed {seed}");
        assert_eq!(stack.ready().await, 200);
    }
}
