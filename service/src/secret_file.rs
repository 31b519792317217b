//! Secrets from files or the environment, read again while the program runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How often a file is read again. Kubernetes takes a minute to update a mounted Secret, so this adds nothing to feel.
const REREAD: Duration = Duration::from_secs(1);

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither file nor environment names it.
    #[error("no {what}; give it with --{flag} FILE or in {env}")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// The flag that names a file.
        flag: &'static str,
        /// The variable.
        env: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read '{path}'", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It was read, and is not what it should be.
    #[error("{what}{place}: {problem}")]
    Malformed {
        /// Which secret.
        what: &'static str,
        /// From where, if that is one file.
        place: String,
        /// What is wrong, without the secret.
        problem: String,
    },
}

/// Where a secret comes from.
#[derive(Debug, Clone)]
pub struct Place {
    /// What it is, in messages.
    pub what: &'static str,
    /// The flag that names the file, without dashes.
    pub flag: &'static str,
    /// The environment variable that may hold the secret itself.
    pub env: &'static str,
    /// The file, if one is named. It outranks the environment.
    pub file: Option<PathBuf>,
}

impl Place {
    /// Whether there is anything at all.
    pub fn is_given(&self) -> bool {
        self.file.is_some() || std::env::var_os(self.env).is_some_and(|value| !value.is_empty())
    }

    fn read(&self) -> Result<Zeroizing<String>, Error> {
        match &self.file {
            Some(path) => read_file(path),
            None => match std::env::var(self.env) {
                Ok(text) if !text.is_empty() => Ok(Zeroizing::new(text)),
                _ => Err(Error::Missing { what: self.what, flag: self.flag, env: self.env }),
            },
        }
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    Ok(Zeroizing::new(text))
}

/// A secret that follows its file.
#[derive(Debug)]
pub struct Watched<T> {
    value: Arc<ArcSwap<T>>,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the secret now, and again while the program runs. `parse` gets the text as it is; an unreadable later version
    /// is warned about, and the last good one stays in force.
    pub fn open<E: std::fmt::Display>(
        place: Place,
        stop: CancellationToken,
        parse: impl Fn(&str) -> Result<T, E> + Send + 'static,
    ) -> Result<Self, Error> {
        let (what, file) = (place.what, place.file.clone());
        let name = file.as_ref().map(|file| format!(" in '{}'", file.display()));
        Self::follow(what, name.unwrap_or_default(), file.is_some(), stop, move || place.read(), parse)
    }

    /// The same for what stands in several files, one after the other in the text that `parse` gets.
    pub fn open_files<E: std::fmt::Display>(
        what: &'static str,
        files: Vec<PathBuf>,
        stop: CancellationToken,
        parse: impl Fn(&str) -> Result<T, E> + Send + 'static,
    ) -> Result<Self, Error> {
        let read = move || {
            let mut all = Zeroizing::new(String::new());
            for file in &files {
                all.push_str(&read_file(file)?);
                all.push('\n');
            }
            Ok(all)
        };
        Self::follow(what, String::new(), true, stop, read, parse)
    }

    fn follow<E: std::fmt::Display>(
        what: &'static str,
        place: String,
        changes: bool,
        stop: CancellationToken,
        read: impl Fn() -> Result<Zeroizing<String>, Error> + Send + 'static,
        parse: impl Fn(&str) -> Result<T, E> + Send + 'static,
    ) -> Result<Self, Error> {
        let mut text = read()?;
        let malformed = |problem: E| Error::Malformed { what, place, problem: problem.to_string() };
        let value = Arc::new(ArcSwap::from_pointee(parse(&text).map_err(malformed)?));
        if changes {
            let shared = value.clone();
            tokio::spawn(async move {
                while stop.run_until_cancelled(tokio::time::sleep(REREAD)).await.is_some() {
                    match read() {
                        Ok(fresh) if *fresh == *text => {}
                        Ok(fresh) => {
                            match parse(&fresh) {
                                Ok(parsed) => {
                                    shared.store(Arc::new(parsed));
                                    tracing::info!(secret = what, "read again, in force from now on");
                                }
                                Err(problem) => {
                                    tracing::warn!(secret = what, %problem, "the new version cannot be used; the old one stays in force");
                                }
                            }
                            text = fresh;
                        }
                        Err(error) => tracing::debug!(secret = what, %error, "not read again"),
                    }
                }
            });
        }
        Ok(Self { value })
    }

    /// The secret in force, shared.
    pub fn shared(&self) -> Arc<ArcSwap<T>> {
        self.value.clone()
    }
}
