//! Page tokens: opaque, bound to their filter, and good after a restart, because they are nothing but a place.

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use super::status::{CallReason, plain};
use crate::store::Cursor;

/// The most rows of a page.
const MOST: i32 = 500;
/// The rows of a page that asked for no number.
const DEFAULT: u32 = 50;

/// How many rows a request wants.
pub(super) fn page_size(asked: i32) -> Result<u32, Status> {
    match u32::try_from(asked.min(MOST)) {
        Ok(0) => Ok(DEFAULT),
        Ok(size) => Ok(size),
        Err(_) => Err(plain(
            Code::InvalidArgument,
            CallReason::BadArgument,
            "page_size is negative; leave it out for 50",
        )),
    }
}

/// The token of the page after `cursor`.
pub(super) fn write(cursor: &Cursor, filter: &str) -> String {
    let text = format!("1.{}.{}.{}", bind(filter), cursor.at.as_millisecond(), cursor.id);
    BASE64URL_NOPAD.encode(text.as_bytes())
}

/// The place that a token names; none for the first page.
pub(super) fn read(token: &str, filter: &str) -> Result<Option<Cursor>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let bad = |text: &str| plain(Code::InvalidArgument, CallReason::BadArgument, text);
    let parsed =
        BASE64URL_NOPAD.decode(token.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let fields = parsed.as_deref().map(|text| text.splitn(4, '.').collect::<Vec<_>>());
    match fields.as_deref() {
        Some(["1", bound, at, id]) => {
            if *bound != bind(filter) {
                return Err(bad("page_token belongs to another filter; begin again without it"));
            }
            let at = at.parse().ok().and_then(|at| Timestamp::from_millisecond(at).ok());
            let at = at.ok_or_else(|| bad("page_token is damaged; begin again without it"))?;
            Ok(Some(Cursor { at, id: (*id).to_owned() }))
        }
        _ => Err(bad("page_token is not one that this server gave; begin again without it")),
    }
}

fn bind(filter: &str) -> String {
    let hash = Sha256::digest(filter.as_bytes());
    BASE64URL_NOPAD.encode(hash.get(..6).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_filter_only() {
        let cursor = Cursor {
            at: Timestamp::from_millisecond(1_795_000_000_123).expect("time"),
            id: "evt_1.2".to_owned(),
        };
        let token = write(&cursor, "state = \"READY\"");
        assert_eq!(read(&token, "state = \"READY\"").expect("read"), Some(cursor));
        assert_eq!(read("", "anything").expect("read"), None);
        for (token, filter) in
            [(token.as_str(), ""), ("?", ""), ("AAAA", ""), (&token[1..], "state = \"READY\"")]
        {
            assert_eq!(read(token, filter).expect_err("refused").code(), Code::InvalidArgument);
        }
        assert_eq!(
            (page_size(0).ok(), page_size(7).ok(), page_size(9_999).ok()),
            (Some(50), Some(7), Some(500))
        );
        assert!(page_size(-1).is_err());
    }
}
