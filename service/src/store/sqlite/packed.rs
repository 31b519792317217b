//! Bodies as they are stored: each compressed by itself, as far as it differs from what Stripe's bodies have in common.
//!
//! Field names make up most of a body. With these in a dictionary, several bodies fit on a page of the file where each alone
//! took one; and pages are what a commit is paid by.

use bytes::Bytes;
use lz4_flex::block::{
    compress_prepend_size_with_dict, decompress_size_prepended, decompress_size_prepended_with_dict,
};
use rusqlite::Row;

use super::failure::Failure;
use super::rows::{self, Columns};

/// An event of a subscription and one of a Checkout session, with the values that most have and no one's data (Stripe,
/// subscriptions/object, checkout/sessions/object). What comes last is found best. Never edited once released: bodies
/// compressed with it can be read with nothing else. A better one takes another name, and this one stays beside it.
const DICTIONARY: &[u8] = include_bytes!("packed-1.dict");

const PLAIN: &str = "plain";
/// Without a dictionary. Only read: files written before there was one have it.
const LZ4: &str = "lz4";
const LZ4_DICTIONARY: &str = "lz4-1";

/// A body as it is stored.
pub(super) struct Packed {
    pub(super) encoding: &'static str,
    pub(super) bytes: Bytes,
}

impl Packed {
    /// Compresses a body, unless that gains nothing. Done by the caller's task: the writer has better things to do.
    pub(super) fn new(body: &Bytes) -> Self {
        let packed = compress_prepend_size_with_dict(body, DICTIONARY);
        if packed.len() < body.len() {
            Self { encoding: LZ4_DICTIONARY, bytes: packed.into() }
        } else {
            Self { encoding: PLAIN, bytes: body.clone() }
        }
    }

    /// Reads `encoding` and `body` of a row; none where the body is NULL.
    pub(super) fn read(row: &Row<'_>) -> Result<Option<Bytes>, Failure> {
        let Some(bytes) = row.value::<Option<Vec<u8>>>("body")? else { return Ok(None) };
        unpack(&row.value::<String>("encoding")?, bytes).map(Some)
    }
}

fn unpack(encoding: &str, bytes: Vec<u8>) -> Result<Bytes, Failure> {
    let unpacked = match encoding {
        PLAIN => return Ok(bytes.into()),
        LZ4 => decompress_size_prepended(&bytes),
        LZ4_DICTIONARY => decompress_size_prepended_with_dict(&bytes, DICTIONARY),
        _ => return Err(rows::unreadable("encoding")),
    };
    unpacked.map(Bytes::from).map_err(|_| Failure::damaged("a compressed body cannot be unpacked"))
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::stripe::Mode;
    use crate::stripe::fake::{Purchase, Rendering, World};

    fn bodies() -> Vec<Bytes> {
        let at = "2026-01-02T03:04:05Z".parse().expect("a time");
        let events = World::new(Mode::Test, 7).buy(Purchase::of("price_pro"), at).events;
        events.iter().map(|event| event.body(Rendering::Endive).into()).collect()
    }

    proptest! {
        #[test]
        fn whatever_is_packed_is_unpacked(
            mut body in prop::collection::vec(any::<u8>(), 0..512),
            from in 0..DICTIONARY.len(),
            like in any::<bool>(),
        ) {
            if like {
                body.extend_from_slice(&DICTIONARY[from..]);
            }
            let packed = Packed::new(&body.clone().into());
            prop_assert_eq!(unpack(packed.encoding, packed.bytes.into()).ok(), Some(Bytes::from(body)));
        }

        #[test]
        fn damage_breaks_nothing(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            // The size that it claims is believed, so it is kept small here.
            let claimed = [&[200, 0, 0, 0], &bytes[..]].concat();
            for encoding in [LZ4, LZ4_DICTIONARY] {
                let _ = unpack(encoding, claimed.clone());
            }
            prop_assert!(unpack("zip", claimed).is_err());
        }
    }

    #[test]
    fn the_dictionary_is_what_it_was() {
        let hash = HEXLOWER.encode(&Sha256::digest(DICTIONARY));
        assert_eq!(hash, "dadaeb088f48b2b36b11e42a4490e920ee53f398eeb502cfec60151d57fac3b7");
    }

    #[test]
    fn four_completed_sessions_fit_on_a_page() {
        for body in bodies() {
            let packed = Packed::new(&body);
            assert!(packed.bytes.len() < 1_024, "{} of {}", packed.bytes.len(), body.len());
        }
    }

    #[test]
    fn bodies_packed_without_a_dictionary_are_read() {
        for body in bodies() {
            let old = lz4_flex::block::compress_prepend_size(&body);
            assert_eq!(unpack("lz4", old).expect("is read"), body);
        }
    }
}
