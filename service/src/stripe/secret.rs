//! Webhook signing secrets, and how they are read from a file or the environment (Stripe, webhooks).

use std::fmt;

use zeroize::Zeroizing;

use super::Mode;

/// Why a text yields no secrets. It tells where, never what stood there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing stands there at all.
    #[error("no webhook secret is given; put one 'whsec_...' on a line")]
    Empty,
    /// A `live:` or `test:` with nothing behind it, or a secret of white space.
    #[error("webhook secret {entry} is blank; write the 'whsec_...' of the endpoint, or remove the entry")]
    Blank {
        /// Which entry, counted from 1.
        entry: usize,
    },
    /// It has white space inside, or characters that no secret has.
    #[error("webhook secret {entry} has white space or odd characters inside; copy it again from Stripe")]
    Malformed {
        /// Which entry, counted from 1.
        entry: usize,
    },
    /// It is another of Stripe's texts, such as an API key, which has no business in a process that faces the internet.
    #[error("webhook secret {entry} is not a signing secret; use the one that begins with 'whsec_'")]
    OtherKind {
        /// Which entry, counted from 1.
        entry: usize,
    },
    /// One secret stands there for both modes, so it would not tell them apart.
    #[error("webhook secret {entry} is given for live and for test mode; an endpoint belongs to one of them")]
    BothModes {
        /// Which entry, counted from 1.
        entry: usize,
    },
}

/// Something odd that was put right, to be told once at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// White space around the secret was dropped, as mounted files and shells like to add it.
    WhiteSpace {
        /// Which entry, counted from 1.
        entry: usize,
    },
    /// It does not begin with `whsec_`, as all of Stripe's do.
    UnusualPrefix {
        /// Which entry, counted from 1.
        entry: usize,
    },
    /// It stands there twice.
    Repeated {
        /// Which entry, counted from 1.
        entry: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WhiteSpace { entry } => write!(f, "white space around webhook secret {entry} was dropped"),
            Self::UnusualPrefix { entry } => {
                write!(f, "webhook secret {entry} does not begin with 'whsec_', as those of Stripe do")
            }
            Self::Repeated { entry } => write!(f, "webhook secret {entry} is given twice"),
        }
    }
}

/// The signing secret of one webhook endpoint. Its `Debug` shows nothing, and its memory is wiped when it goes.
#[derive(Clone)]
pub struct Secret {
    mode: Mode,
    value: Zeroizing<String>,
}

impl Secret {
    /// Takes a secret as it stands; `None` when it is blank, because anybody could sign with that.
    pub fn new(mode: Mode, value: &str) -> Option<Self> {
        (!value.trim().is_empty()).then(|| Self { mode, value: Zeroizing::new(value.to_owned()) })
    }

    /// The mode of the endpoint that signs with it.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The secret text, `whsec_` included: that is the key, as it stands.
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, ..)", self.mode)
    }
}

/// The secrets that may sign: several while one is rolled, or when both modes come to one URL.
#[derive(Debug, Clone)]
pub struct Secrets {
    list: Vec<Secret>,
    warnings: Vec<Warning>,
}

impl Secrets {
    /// Reads a secrets file: one a line, each with `live:` or `test:` before it or else of `default_mode`.
    ///
    /// Line ends of both kinds, blank lines and lines that begin with `#` are as good as none; white space around a secret is dropped with a warning.
    pub fn parse(text: &str, default_mode: Mode) -> Result<Self, Error> {
        let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
        // A comment counts as a blank line, so that entries keep the numbers of their lines.
        let entries = lines.map(|line| if line.trim_start().starts_with('#') { "" } else { line });
        Self::read(entries, default_mode)
    }

    /// Reads the environment form: as [`Secrets::parse`], with commas for line ends.
    pub fn parse_list(text: &str, default_mode: Mode) -> Result<Self, Error> {
        Self::read(text.split(','), default_mode)
    }

    fn read<'t>(entries: impl Iterator<Item = &'t str>, default_mode: Mode) -> Result<Self, Error> {
        let mut secrets = Self { list: Vec::new(), warnings: Vec::new() };
        for (index, text) in entries.enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            secrets.add(index + 1, text, default_mode)?;
        }
        if secrets.list.is_empty() { Err(Error::Empty) } else { Ok(secrets) }
    }

    fn add(&mut self, entry: usize, text: &str, default_mode: Mode) -> Result<(), Error> {
        let bare = text.trim();
        let (mode, value) = match bare.split_once(':') {
            Some(("live", rest)) => (Mode::Live, rest),
            Some(("test", rest)) => (Mode::Test, rest),
            _ => (default_mode, bare),
        };
        let trimmed = value.trim();
        let secret = Secret::new(mode, trimmed).ok_or(Error::Blank { entry })?;
        // A comma or colon is a second secret or an unknown mode: one that could never sign, and nobody would know why.
        if !trimmed.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b':' | b'#')) {
            return Err(Error::Malformed { entry });
        }
        if ["sk_", "rk_", "pk_", "we_", "evt_"].iter().any(|prefix| trimmed.starts_with(prefix)) {
            return Err(Error::OtherKind { entry });
        }
        if let Some(twin) = self.list.iter().find(|known| known.expose() == trimmed) {
            return if twin.mode == mode {
                self.warnings.push(Warning::Repeated { entry });
                Ok(())
            } else {
                Err(Error::BothModes { entry })
            };
        }
        if bare.len() != text.len() || trimmed.len() != value.len() {
            self.warnings.push(Warning::WhiteSpace { entry });
        }
        if !trimmed.starts_with("whsec_") {
            self.warnings.push(Warning::UnusualPrefix { entry });
        }
        self.list.push(secret);
        Ok(())
    }

    /// The secrets, in the order given; never none.
    pub fn as_slice(&self) -> &[Secret] {
        &self.list
    }

    /// What was put right while reading.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(Mode, String)>, Error> {
        let secrets = Secrets::parse(text, Mode::Live)?;
        Ok(secrets.as_slice().iter().map(|s| (s.mode(), s.expose().to_owned())).collect())
    }

    #[test]
    fn each_line_is_a_secret_of_its_own_mode() {
        let expected = vec![
            (Mode::Live, "whsec_a".to_owned()),
            (Mode::Test, "whsec_b".to_owned()),
            (Mode::Live, "whsec_c".to_owned()),
        ];
        assert_eq!(read("whsec_a\ntest:whsec_b\nlive:whsec_c\n"), Ok(expected.clone()));
        assert_eq!(read("# old\nwhsec_a\n  # whsec_x\ntest:whsec_b\nlive:whsec_c\n"), Ok(expected.clone()));
        assert_eq!(read("whsec_a\r\ntest:whsec_b\r\n\r\nlive:whsec_c"), Ok(expected.clone()));
        let listed =
            Secrets::parse_list("whsec_a,test:whsec_b,live:whsec_c", Mode::Live).expect("three secrets");
        let listed: Vec<_> = listed.as_slice().iter().map(|s| (s.mode(), s.expose().to_owned())).collect();
        assert_eq!(listed, expected);
    }

    #[test]
    fn line_ends_are_no_part_of_a_secret_and_other_white_space_warns() {
        let warnings = |text| Secrets::parse(text, Mode::Test).expect("one secret").warnings().to_vec();
        assert_eq!(warnings("whsec_a\n"), []);
        assert_eq!(warnings("whsec_a\r\n"), []);
        assert_eq!(warnings("\u{feff}whsec_a\n"), []);
        assert_eq!(warnings(" whsec_a\t\n"), [Warning::WhiteSpace { entry: 1 }]);
        assert_eq!(warnings("test: whsec_a"), [Warning::WhiteSpace { entry: 1 }]);
        assert_eq!(warnings("plain"), [Warning::UnusualPrefix { entry: 1 }]);
        assert_eq!(warnings("whsec_a\ntest:whsec_a"), [Warning::Repeated { entry: 2 }]);
        let listed = Secrets::parse_list("whsec_a,whsec_b\n", Mode::Test).expect("two secrets");
        assert_eq!(listed.warnings(), [Warning::WhiteSpace { entry: 2 }]);
    }

    #[test]
    fn unusable_secrets_stop_the_start() {
        for empty in ["", "\n", " \r\n\t", "# none yet\n"] {
            assert_eq!(read(empty), Err(Error::Empty), "{empty:?}");
        }
        assert_eq!(read("whsec_a\nlive:\n"), Err(Error::Blank { entry: 2 }));
        assert_eq!(read("# one\nwhsec_a b\n"), Err(Error::Malformed { entry: 2 }));
        assert_eq!(read("test: "), Err(Error::Blank { entry: 1 }));
        assert_eq!(read("whsec_a b"), Err(Error::Malformed { entry: 1 }));
        for odd in ["whsec_\u{e9}", "whsec_a,whsec_b", "prod:whsec_a", "whsec_a # old", "whsec_a#b"] {
            assert_eq!(read(odd), Err(Error::Malformed { entry: 1 }), "{odd:?}");
        }
        assert_eq!(read("rk_live_1"), Err(Error::OtherKind { entry: 1 }));
        assert_eq!(read("we_1"), Err(Error::OtherKind { entry: 1 }));
        assert_eq!(read("live:whsec_a\ntest:whsec_a"), Err(Error::BothModes { entry: 2 }));
    }

    #[test]
    fn nothing_tells_a_secret() {
        let secrets = Secrets::parse("whsec_topsecret x", Mode::Live).expect_err("malformed");
        assert!(!secrets.to_string().contains("topsecret"));
        let secrets = Secrets::parse("whsec_topsecret", Mode::Live).expect("a secret");
        assert!(!format!("{secrets:?}").contains("topsecret"));
    }
}
