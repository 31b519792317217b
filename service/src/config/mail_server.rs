//! The address of the mail server, which may hold a password.

use std::ffi::OsStr;
use std::fmt;

use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, Command, Error};
use url::Url;

/// The mail server as it was given.
#[derive(Clone)]
pub struct MailServer {
    url: Url,
    source: ValueSource,
}

impl MailServer {
    /// Its address.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Whether there is a password in it where every process on this machine can read it.
    pub(super) fn shows_password(&self) -> bool {
        self.url.password().is_some() && self.source == ValueSource::CommandLine
    }
}

impl fmt::Debug for MailServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MailServer(..)")
    }
}

/// Reads it. What clap says of a value that it cannot use has the value in it, so this says it itself.
#[derive(Debug, Clone)]
pub(super) struct Parser;

impl TypedValueParser for Parser {
    type Value = MailServer;

    fn parse_ref(&self, cmd: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<MailServer, Error> {
        self.parse_ref_(cmd, arg, value, ValueSource::CommandLine)
    }

    fn parse_ref_(
        &self,
        cmd: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<MailServer, Error> {
        let url = value.to_str().and_then(|text| Url::parse(text).ok());
        url.map(|url| MailServer { url, source }).ok_or_else(|| {
            let text = "--smtp-url is not an address such as smtps://USER@mail.example:465; in a user or password, write '/', \
                        '#', '?', '@' and '%' percent-encoded, as %2F, %23, %3F, %40 and %25\n";
            let mut error = Error::raw(ErrorKind::ValueValidation, text).with_cmd(cmd);
            if let (Some(arg), true) = (arg, value.is_empty()) {
                error.insert(ContextKind::InvalidArg, ContextValue::String(arg.to_string()));
                error.insert(ContextKind::InvalidValue, ContextValue::String(String::new()));
            }
            error
        })
    }
}
