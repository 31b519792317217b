//! A place in an object from Stripe, which knows its own path, so that complaints can name it.

use grantsmith_core::purchase::StripeId;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Error;

/// A value and where it stands. `null` counts as absent everywhere, as Stripe uses the two alike.
#[derive(Debug)]
pub(super) struct Node<'v> {
    value: &'v Value,
    path: String,
}

impl<'v> Node<'v> {
    /// Any value, at the top.
    pub(super) fn new(value: &'v Value) -> Self {
        Self { value, path: String::new() }
    }

    /// An object, at the top.
    pub(super) fn root(value: &'v Value) -> Result<Self, Error> {
        let node = Self::new(value);
        node.fields()?;
        Ok(node)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn wrong(&self, expected: &'static str) -> Error {
        let path = if self.path.is_empty() { "(top)".to_owned() } else { self.path.clone() };
        Error::WrongType { path, expected }
    }

    /// The complaint that a field is absent.
    pub(super) fn missing(&self, key: &str) -> Error {
        Error::Missing { path: self.path_of(key) }
    }

    /// Whether it is an object, where a bare id might stand as well.
    pub(super) fn is_expanded(&self) -> bool {
        self.value.is_object()
    }

    pub(super) fn fields(&self) -> Result<&'v Map<String, Value>, Error> {
        self.value.as_object().ok_or_else(|| self.wrong("an object"))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Self>, Error> {
        let value = self.fields()?.get(key).filter(|value| !value.is_null());
        Ok(value.map(|value| Self { value, path: self.path_of(key) }))
    }

    pub(super) fn required(&self, key: &str) -> Result<Self, Error> {
        self.get(key)?.ok_or_else(|| self.missing(key))
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(node) = self.get(key)? else { return Ok(None) };
        read(node.value).map(Some).ok_or_else(|| node.wrong(expected))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'v str>, Error> {
        self.read(key, "a text", Value::as_str)
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<u64>, Error> {
        self.read(key, "a whole number", Value::as_u64)
    }

    pub(super) fn seconds(&self, key: &str) -> Result<Option<Timestamp>, Error> {
        let time = |value: &Value| Timestamp::from_second(value.as_i64()?).ok();
        self.read(key, "a time in whole seconds", time)
    }

    pub(super) fn list(&self, key: &str) -> Result<Option<Vec<Self>>, Error> {
        let Some(list) = self.read(key, "a list", Value::as_array)? else { return Ok(None) };
        let path = self.path_of(key);
        let at = |(index, value)| Self { value, path: format!("{path}[{index}]") };
        Ok(Some(list.iter().enumerate().map(at).collect()))
    }

    /// The id as text, be it bare or inside its object.
    pub(super) fn id_text(&self) -> Result<&'v str, Error> {
        if let Some(id) = self.value.as_str() {
            return Ok(id);
        }
        if !self.is_expanded() {
            return Err(self.wrong("an id or an object"));
        }
        self.text("id")?.ok_or_else(|| self.missing("id"))
    }

    /// The id, be it bare or inside its object.
    pub(super) fn id(&self) -> Result<StripeId, Error> {
        let text = self.id_text()?;
        StripeId::parse(text).map_err(|_| self.wrong("a Stripe id"))
    }

    /// The id of this very object.
    pub(super) fn own_id(&self) -> Result<StripeId, Error> {
        self.required("id")?.id()
    }

    /// Checks `object`, which hand-made ones may lack.
    pub(super) fn expect_object(&self, expected: &'static str) -> Result<(), Error> {
        match self.text("object")? {
            Some(kind) if kind != expected => Err(Error::OtherObject { expected }),
            _ => Ok(()),
        }
    }
}
