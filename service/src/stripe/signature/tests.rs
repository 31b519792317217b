use proptest::prelude::*;

use super::*;

/// Fixed vectors, computed with another implementation of HMAC-SHA256.
const AT: i64 = 1_700_000_000;
const BODY: &[u8] = br#"{"id":"evt_1"}"#;
const GOOD: &str = "c6014fd4b390b4bc9c887a309c78277b7c4c562fbe61a9e713bfc5da054789da";
const OLD_SECRET: &str = "ef1b1b7e4b312671a75ef2a03e10529f7834a6528a49db77ad6568c8c8017843";
const NOT_UTF8: &str = "c35248cf7cfc043ce35065ecb3aea1046ad39b1120c7911236e22f7364845ac5";
const WITH_BOM: &str = "f26232d2e406a97b34604a516d283dcf95828c708d830e4f462f5e6181b4821c";
const WRONG: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn secret(value: &str) -> Secret {
    Secret::new(Mode::Live, value).expect("not blank")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("in range")
}

fn check_at(now: i64, header: &str, body: &[u8]) -> Result<Verified, Error> {
    verify(header.as_bytes(), body, &[secret("whsec_vector")], DEFAULT_TOLERANCE, at(now))
}

fn check(header: &str) -> Result<Verified, Error> {
    check_at(AT, header, BODY)
}

const OK: Result<Verified, Error> = Ok(Verified { secret: 0, mode: Mode::Live });

#[test]
fn a_vector_of_another_implementation_verifies() {
    assert_eq!(check(&format!("t={AT},v1={GOOD}")), OK);
    assert_eq!(sign(&secret("whsec_vector"), at(AT), BODY), format!("t={AT},v1={GOOD}"));
}

/// One case for each row of the table of what Stripe's libraries do at the edges.
#[test]
fn edges_are_decided_on_the_strict_side() {
    let cases: &[(&str, String, Result<Verified, Error>)] = &[
        ("several v1, the good one first", format!("t={AT},v1={GOOD},v1={WRONG}"), OK),
        ("several v1, the good one last", format!("t={AT},v1={WRONG},v1={GOOD}"), OK),
        ("several v1, the good one between", format!("v1={WRONG},t={AT},v1={GOOD},v1={WRONG}"), OK),
        ("order of the parts is free", format!("v1={GOOD},t={AT}"), OK),
        ("a decoy v0 beside it", format!("t={AT},v1={GOOD},v0={WRONG}"), OK),
        ("v0 alone counts for nothing", format!("t={AT},v0={GOOD}"), Err(Error::NoSignature)),
        ("v2 alone counts for nothing", format!("t={AT},v2={GOOD}"), Err(Error::NoSignature)),
        ("non-hex beside a good one", format!("t={AT},v1=zzzz,v1={GOOD}"), OK),
        ("non-hex of the right length", format!("t={AT},v1={},v1={GOOD}", "z".repeat(64)), OK),
        ("upper-case hex", format!("t={AT},v1={}", GOOD.to_uppercase()), Err(Error::NoMatch)),
        ("an element without '='", format!("t={AT},odd,v1={GOOD}"), OK),
        ("a trailing comma", format!("t={AT},v1={GOOD},"), OK),
        ("a value with a second '='", format!("t={AT},v1={GOOD}=x"), Err(Error::NoMatch)),
        ("a space after the comma", format!("t={AT}, v1={GOOD}"), Err(Error::NoSignature)),
        ("two t, the same", format!("t={AT},t={AT},v1={GOOD}"), Err(Error::TwoTimestamps)),
        ("two t, different", format!("t=1,t={AT},v1={GOOD}"), Err(Error::TwoTimestamps)),
        ("t with trailing letters", format!("t={AT}s,v1={GOOD}"), Err(Error::BadTimestamp)),
        ("t with a sign", format!("t=+{AT},v1={GOOD}"), Err(Error::BadTimestamp)),
        ("t with a fraction", format!("t={AT}.0,v1={GOOD}"), Err(Error::BadTimestamp)),
        ("t beyond 64 bits", format!("t={}0000000000,v1={GOOD}", i64::MAX), Err(Error::BadTimestamp)),
        ("t printed anew is not what was signed", format!("t=0{AT},v1={GOOD}"), Err(Error::NoMatch)),
        ("empty t", format!("t=,v1={GOOD}"), Err(Error::BadTimestamp)),
        ("no t", format!("v1={GOOD}"), Err(Error::NoTimestamp)),
        ("no v1", format!("t={AT}"), Err(Error::NoSignature)),
        ("an empty v1", format!("t={AT},v1="), Err(Error::NoMatch)),
        ("an empty header", String::new(), Err(Error::NoTimestamp)),
        ("half a digest", format!("t={AT},v1={}", &GOOD[..32]), Err(Error::NoMatch)),
        ("another secret's signature", format!("t={AT},v1={OLD_SECRET}"), Err(Error::NoMatch)),
    ];
    for (what, header, expected) in cases {
        assert_eq!(check(header), *expected, "{what}");
    }
}

#[test]
fn age_counts_both_ways_and_after_the_signature() {
    let header = format!("t={AT},v1={GOOD}");
    for now in [AT, AT + 300, AT - 300] {
        assert_eq!(check_at(now, &header, BODY), OK);
    }
    assert_eq!(check_at(AT + 301, &header, BODY), Err(Error::TooOld { seconds: 301 }));
    assert_eq!(check_at(AT - 301, &header, BODY), Err(Error::TooNew { seconds: 301 }));
    let forged = format!("t={AT},v1={WRONG}");
    assert_eq!(check_at(AT + 301, &forged, BODY), Err(Error::NoMatch));
    let far = format!("t={},v1={GOOD}", i64::MAX);
    assert_eq!(check(&far), Err(Error::NoMatch));
}

#[test]
fn bodies_are_bytes_not_text() {
    assert_eq!(check_at(AT, &format!("t={AT},v1={NOT_UTF8}"), b"\xff\xfe{"), OK);
    assert_eq!(check_at(AT, &format!("t={AT},v1={WITH_BOM}"), b"\xef\xbb\xbf{\"id\":\"evt_1\"}"), OK);
    assert_eq!(check_at(AT, &format!("t={AT},v1={WITH_BOM}"), BODY), Err(Error::NoMatch));
    assert_eq!(check_at(AT, &format!("t={AT},v1={GOOD}"), b"{\"id\":\"evt_1\"}\n"), Err(Error::NoMatch));
}

#[test]
fn while_a_secret_is_rolled_either_one_verifies_and_says_whose_mode_it_is() {
    let secrets = [secret("whsec_vector"), Secret::new(Mode::Test, "whsec_old").expect("not blank")];
    let run = |header: String| verify(header.as_bytes(), BODY, &secrets, DEFAULT_TOLERANCE, at(AT));
    assert_eq!(run(format!("t={AT},v1={GOOD},v1={OLD_SECRET}")), OK);
    assert_eq!(run(format!("t={AT},v1={OLD_SECRET}")), Ok(Verified { secret: 1, mode: Mode::Test }));
}

#[test]
fn nothing_verifies_without_a_secret_and_no_secret_is_blank() {
    let header = format!("t={AT},v1={GOOD}");
    let verified = verify(header.as_bytes(), BODY, &[], DEFAULT_TOLERANCE, at(AT));
    assert_eq!(verified, Err(Error::NoMatch));
    for blank in ["", " ", "\n"] {
        assert!(Secret::new(Mode::Live, blank).is_none(), "{blank:?}");
    }
}

#[test]
fn ten_thousand_candidates_are_refused_by_length_alone() {
    let flood = format!("t={AT},v1={GOOD}{}", format!(",v1={WRONG}").repeat(10_000));
    assert_eq!(check(&flood), Err(Error::HeaderTooLong));
    let fill = |wrong: usize| format!("t={AT}{},v1={GOOD}", format!(",v1={WRONG}").repeat(wrong));
    assert_eq!(check(&fill(100)), OK);
    assert_eq!(check(&fill(200)), Err(Error::HeaderTooLong));
    let longest = format!("t={AT},v1={GOOD},");
    let longest = format!("{longest}{}", "x".repeat(LONGEST_HEADER - longest.len()));
    assert_eq!(check(&longest), OK);
    assert_eq!(check(&format!("{longest}x")), Err(Error::HeaderTooLong));
}

#[test]
fn a_tolerance_of_nothing_still_checks() {
    let header = format!("t={AT},v1={GOOD}");
    let run = |now| verify(header.as_bytes(), BODY, &[secret("whsec_vector")], Duration::ZERO, at(now));
    assert_eq!(run(AT), OK);
    assert_eq!(run(AT + 1), Err(Error::TooOld { seconds: 1 }));
}

proptest! {
    #[test]
    fn rubbish_never_panics_and_never_verifies(header: Vec<u8>, body: Vec<u8>, now in 0_i64..4_000_000_000) {
        let secrets = [secret("whsec_vector")];
        prop_assert!(verify(&header, &body, &secrets, DEFAULT_TOLERANCE, at(now)).is_err());
    }

    #[test]
    fn near_misses_never_verify(header in "(t=[0-9]{0,12},?){0,2}((v[0-2]=)?[0-9a-f]{0,64},?){0,3}", body: Vec<u8>) {
        prop_assert!(check_at(AT, &header, &body).is_err());
    }

    #[test]
    fn signed_bodies_always_verify(body: Vec<u8>, value in "[!-~]{1,80}", now in 0_i64..4_000_000_000) {
        let secret = secret(&value);
        let header = sign(&secret, at(now), &body);
        prop_assert!(verify(header.as_bytes(), &body, &[secret], DEFAULT_TOLERANCE, at(now)).is_ok());
    }

    #[test]
    fn any_flipped_bit_is_noticed(body in prop::collection::vec(any::<u8>(), 1..200), pick: prop::sample::Index, bit in 0_u8..8) {
        let secret = [secret("whsec_vector")];
        let header = sign(&secret[0], at(AT), &body);
        let mut forged = body.clone();
        forged[pick.index(body.len())] ^= 1 << bit;
        let verified = verify(header.as_bytes(), &forged, &secret, DEFAULT_TOLERANCE, at(AT));
        prop_assert_eq!(verified, Err(Error::NoMatch));
        let mut forged = header.into_bytes();
        let place = pick.index(forged.len());
        forged[place] ^= 1 << bit;
        prop_assert!(verify(&forged, &body, &secret, DEFAULT_TOLERANCE, at(AT)).is_err());
    }
}
