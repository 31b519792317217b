//! Who may call what: static tokens, each with roles. Only their hashes are kept in memory.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use rand::RngExt;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use super::status::{CallReason, plain};

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Record events.
    Ingest,
    /// Read grants and events, without keys.
    Read,
    /// Change things.
    Manage,
    /// Read keys.
    Reveal,
    /// Ask for one exact success page.
    Storefront,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Ingest, Self::Read, Self::Manage, Self::Reveal, Self::Storefront];

    /// The role's name in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Manage => "manage",
            Self::Reveal => "reveal",
            Self::Storefront => "storefront",
        }
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(())
    }
}

/// Why a tokens file cannot be used. Never with a token in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line has another form.
    #[error("line {0} is not NAME ROLES TOKEN")]
    Form(usize),
    /// A role is unknown.
    #[error("line {0} names an unknown role; there are ingest, read, manage, reveal and storefront")]
    Role(usize),
    /// A hash is malformed.
    #[error("line {0} has a sha256: that is not 64 hex digits")]
    Hash(usize),
    /// A token is so short that it can be guessed.
    #[error("line {0} has a token of fewer than 16 characters")]
    Short(usize),
    /// Nothing is in it.
    #[error("there is no token in it")]
    Empty,
    /// A client has no token for a call.
    #[error("no token for the role {0}; name a tokens file with --token-file")]
    Lacking(&'static str),
}

/// The server's side: hashes and roles.
#[derive(Clone)]
pub struct Tokens(Vec<Entry>);

#[derive(Clone)]
struct Entry {
    name: String,
    hash: [u8; 32],
    roles: Vec<Role>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

struct Line<'a> {
    number: usize,
    name: &'a str,
    roles: Vec<Role>,
    token: &'a str,
}

fn lines(text: &str) -> impl Iterator<Item = Result<Line<'_>, Error>> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(number, line)| {
        let mut words = line.split_whitespace();
        let (Some(name), Some(roles), Some(token), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Error::Form(number));
        };
        let roles =
            roles.split(',').map(str::parse).collect::<Result<_, ()>>().map_err(|()| Error::Role(number))?;
        Ok(Line { number, name, roles, token })
    })
}

impl Tokens {
    /// Reads a tokens file.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let read = |line: Result<Line<'_>, Error>| {
            let Line { number, name, roles, token } = line?;
            let hash = match token.strip_prefix("sha256:") {
                Some(hex) => {
                    let bytes =
                        HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| Error::Hash(number))?;
                    bytes.try_into().map_err(|_| Error::Hash(number))?
                }
                None if token.len() < 16 => return Err(Error::Short(number)),
                None => Sha256::digest(token.as_bytes()).into(),
            };
            Ok(Entry { name: name.to_owned(), hash, roles })
        };
        let tokens = lines(text).map(read).collect::<Result<Vec<_>, _>>()?;
        if tokens.is_empty() { Err(Error::Empty) } else { Ok(Self(tokens)) }
    }

    /// Lets a call pass whose token has the role; gives the token's name.
    pub fn check(&self, token: &str, role: Role) -> Result<String, Status> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        // Every entry is compared, so that time tells nothing of which matched.
        let mut found: Option<&Entry> = None;
        for entry in &self.0 {
            if bool::from(entry.hash.ct_eq(&hash)) {
                found = Some(entry);
            }
        }
        match found {
            None => Err(plain(
                Code::Unauthenticated,
                CallReason::TokenUnknown,
                "the token is not in the server's tokens file",
            )),
            Some(entry) if entry.roles.contains(&role) => Ok(entry.name.clone()),
            Some(_) => {
                let text = format!(
                    "the token lacks the role {}; use one whose line in the tokens file has it",
                    role.as_str()
                );
                Err(plain(Code::PermissionDenied, CallReason::RoleMissing, text))
            }
        }
    }
}

/// The token that a call carries.
pub fn bearer(metadata: &MetadataMap) -> Result<&str, Status> {
    let bearer = metadata.get("authorization").and_then(|value| value.to_str().ok());
    bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim).ok_or_else(|| {
        let text = "the call has no token; send 'authorization: Bearer TOKEN' from the server's tokens file";
        plain(Code::Unauthenticated, CallReason::TokenMissing, text)
    })
}

/// Writes a tokens file with one token for each role, readable by its owner only; leaves one that is there alone. The file is
/// there whole or not at all.
pub fn write_once(path: &Path) -> std::io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let mut text =
        Zeroizing::new(String::from("# NAME ROLES TOKEN; roles joined by commas; TOKEN may be sha256:HEX\n"));
    for role in Role::ALL {
        let token: [u8; 24] = rand::rng().random();
        let encoded = Zeroizing::new(BASE64URL_NOPAD.encode(&token));
        for word in [role.as_str(), " ", role.as_str(), " ", encoded.as_str(), "\n"] {
            text.push_str(word);
        }
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(failed) if failed.error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed.error),
        // Whoever was faster has written one as good.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A client's side: a token for each role that it has.
pub struct TokenFile(Vec<(Vec<Role>, Zeroizing<String>)>);

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenFile(..)")
    }
}

impl TokenFile {
    /// Reads a file that holds one bare token, or lines NAME ROLES TOKEN.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bare = text.trim();
        if !bare.is_empty() && !bare.contains(char::is_whitespace) {
            return Ok(Self(vec![(Role::ALL.to_vec(), Zeroizing::new(bare.to_owned()))]));
        }
        let usable = |line: &Line<'_>| !line.token.starts_with("sha256:");
        let tokens = lines(text)
            .filter(|line| line.as_ref().map_or(true, usable))
            .map(|line| line.map(|line| (line.roles, Zeroizing::new(line.token.to_owned()))))
            .collect::<Result<Vec<_>, _>>()?;
        if tokens.is_empty() { Err(Error::Empty) } else { Ok(Self(tokens)) }
    }

    /// No token at all, for servers that are asked for nothing but health.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// A request that carries the token for a role.
    pub fn authorize<T>(&self, role: Role, message: T) -> Result<Request<T>, Error> {
        let lacking = Error::Lacking(role.as_str());
        let token = self
            .0
            .iter()
            .find(|(roles, _)| roles.contains(&role))
            .map(|(_, token)| token)
            .ok_or(lacking.clone())?;
        let mut request = Request::new(message);
        let mut value: tonic::metadata::MetadataValue<_> =
            Zeroizing::new(format!("Bearer {}", token.as_str())).parse().map_err(|_| lacking)?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# who may what\nhook ingest,storefront 0123456789abcdef0123\nops read,manage sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n";

    fn call(token: Option<&str>, role: Role) -> Result<String, Code> {
        let mut request = Request::new(());
        if let Some(token) = token {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        }
        let token = bearer(request.metadata());
        let name = token.and_then(|token| Tokens::parse(FILE).expect("a file").check(token, role));
        name.map_err(|status| status.code())
    }

    #[test]
    fn a_token_opens_what_its_roles_name_and_nothing_else() {
        assert_eq!(call(Some("0123456789abcdef0123"), Role::Ingest), Ok("hook".to_owned()));
        assert_eq!(call(Some("0123456789abcdef0123"), Role::Storefront), Ok("hook".to_owned()));
        assert_eq!(call(Some("0123456789abcdef0123"), Role::Reveal), Err(Code::PermissionDenied));
        assert_eq!(call(Some("test"), Role::Manage), Ok("ops".to_owned()), "by its hash");
        assert_eq!(call(Some("0123456789abcdef0124"), Role::Ingest), Err(Code::Unauthenticated));
        assert_eq!(call(None, Role::Read), Err(Code::Unauthenticated));
    }

    #[test]
    fn a_file_that_cannot_be_used_says_which_line() {
        let problem = |text| Tokens::parse(text).map(|_| ()).expect_err("unusable");
        assert_eq!(problem(""), Error::Empty);
        assert_eq!(problem("\n a b"), Error::Form(2));
        assert_eq!(problem("a everything 0123456789abcdef0123"), Error::Role(1));
        assert_eq!(problem("a read sha256:00"), Error::Hash(1));
        assert_eq!(problem("a read short"), Error::Short(1));
    }

    #[test]
    fn the_first_file_has_a_token_for_each_role_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        write_once(&path).expect("written");
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let (server, client) =
            (Tokens::parse(&text).expect("usable"), TokenFile::parse(&text).expect("usable"));
        for role in Role::ALL {
            let request = client.authorize(role, ()).expect("a token");
            let token = bearer(request.metadata()).expect("a token");
            assert!(server.check(token, role).is_ok());
        }
        write_once(&path).expect("left alone");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
    }

    #[test]
    fn whoever_sees_the_first_file_sees_all_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        for round in 0..100 {
            let path = folder.path().join(round.to_string());
            std::thread::scope(|scope| {
                let writers = [scope.spawn(|| write_once(&path)), scope.spawn(|| write_once(&path))];
                let text = std::iter::repeat_with(|| std::fs::read_to_string(&path)).find_map(Result::ok);
                assert!(Tokens::parse(&text.expect("it comes")).is_ok(), "not half of it");
                for writer in writers {
                    writer.join().expect("it ends").expect("written");
                }
            });
        }
        let files = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(files, 100, "and nothing else is left");
    }
}
