//! Reads a dozen fields out of an event without building a tree of the rest.
//!
//! Written by hand rather than derived, for three reasons: a derived reader also takes lists for structs, fails on an optional
//! field of another type, and cannot read the id of an object that is sometimes expanded.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use jiff::Timestamp;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The fields that count, as far as they are there and of the expected type.
#[derive(Default)]
pub(super) struct Fields<'b> {
    pub(super) object: Option<Cow<'b, str>>,
    pub(super) id: Option<Cow<'b, str>>,
    pub(super) event_type: Option<Cow<'b, str>>,
    pub(super) created: Option<Timestamp>,
    pub(super) livemode: Option<bool>,
    pub(super) api_version: Option<Cow<'b, str>>,
    pub(super) account: Option<Cow<'b, str>>,
    pub(super) context: Option<Cow<'b, str>>,
    pub(super) request: Option<Cow<'b, str>>,
    pub(super) data: Data<'b>,
    pub(super) related: Name<'b>,
}

/// What is kept of the object inside, besides its name: of a session all that its snapshot is made of, of an invoice what names
/// its subscription.
const TOLD: [&str; 13] = [
    "mode",
    "status",
    "payment_status",
    "created",
    "livemode",
    "metadata",
    "customer",
    "customer_details",
    "customer_email",
    "payment_intent",
    "subscription",
    "parent",
    "line_items",
];

/// A field and the JSON of its value, as it stands in the body.
pub(super) type Told<'b> = (&'static str, &'b str);

/// `data`: the object inside, and which of its fields changed.
#[derive(Default)]
pub(super) struct Data<'b> {
    pub(super) object: Object<'b>,
    pub(super) changed: Vec<Cow<'b, str>>,
}

/// The object inside an event: its name, and what else of it counts before Stripe is answered.
#[derive(Default)]
pub(super) struct Object<'b> {
    pub(super) name: Name<'b>,
    pub(super) told: Vec<Told<'b>>,
}

/// What names an object: a bare id, or the few fields of an object that do.
#[derive(Default)]
pub(super) struct Name<'b> {
    pub(super) id: Option<Cow<'b, str>>,
    pub(super) object: Option<Cow<'b, str>>,
    pub(super) kind: Option<Cow<'b, str>>,
}

/// Reads a whole body: `None` where it is JSON, but no object.
pub(super) fn fields(text: &str) -> serde_json::Result<Option<Fields<'_>>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let Envelope(fields) = Seed::new().deserialize(&mut json)?;
    json.end()?;
    Ok(fields.map(|fields| *fields))
}

/// A value without parts. Lists are skipped and count as [`Scalar::Nothing`].
enum Scalar<'b> {
    Text(Cow<'b, str>),
    Number(i64),
    Bool(bool),
    Nothing,
}

/// Can be read from any JSON value whatever.
trait Lenient<'b>: Sized {
    fn scalar(value: Scalar<'b>) -> Self;

    fn map<A: MapAccess<'b>>(map: A) -> Result<Self, A::Error>;
}

struct Seed<T>(PhantomData<T>);

impl<T> Seed<T> {
    fn new() -> Self {
        Self(PhantomData)
    }
}

impl<'b, T: Lenient<'b>> DeserializeSeed<'b> for Seed<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'b>>(self, from: D) -> Result<T, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'b, T: Lenient<'b>> Visitor<'b> for Seed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_borrowed_str<E>(self, text: &'b str) -> Result<T, E> {
        Ok(T::scalar(Scalar::Text(Cow::Borrowed(text))))
    }

    /// A text with escapes, which cannot be borrowed.
    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::scalar(Scalar::Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_bool<E>(self, value: bool) -> Result<T, E> {
        Ok(T::scalar(Scalar::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<T, E> {
        Ok(T::scalar(Scalar::Number(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<T, E> {
        Ok(T::scalar(i64::try_from(value).map_or(Scalar::Nothing, Scalar::Number)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::scalar(Scalar::Nothing))
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::scalar(Scalar::Nothing))
    }

    fn visit_seq<A: SeqAccess<'b>>(self, mut list: A) -> Result<T, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(T::scalar(Scalar::Nothing))
    }

    fn visit_map<A: MapAccess<'b>>(self, map: A) -> Result<T, A::Error> {
        T::map(map)
    }
}

/// Skips what is left of an object.
fn skip<'b, A: MapAccess<'b>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Reads the value of a field that counts, once.
fn once<'b, T: Lenient<'b>, A: MapAccess<'b>>(
    slot: &mut Option<T>,
    name: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::duplicate_field(name));
    }
    *slot = Some(map.next_value_seed(Seed::new())?);
    Ok(())
}

fn key<'b, A: MapAccess<'b>>(map: &mut A) -> Result<Option<Cow<'b, str>>, A::Error> {
    Ok(map.next_key_seed(Seed::<Text<'b>>::new())?.map(|Text(key)| key.unwrap_or_default()))
}

struct Text<'b>(Option<Cow<'b, str>>);

impl<'b> Lenient<'b> for Text<'b> {
    fn scalar(value: Scalar<'b>) -> Self {
        match value {
            Scalar::Text(text) => Self(Some(text)),
            _ => Self(None),
        }
    }

    fn map<A: MapAccess<'b>>(map: A) -> Result<Self, A::Error> {
        skip(map).map(|()| Self(None))
    }
}

struct Bool(Option<bool>);

impl<'b> Lenient<'b> for Bool {
    fn scalar(value: Scalar<'b>) -> Self {
        match value {
            Scalar::Bool(value) => Self(Some(value)),
            _ => Self(None),
        }
    }

    fn map<A: MapAccess<'b>>(map: A) -> Result<Self, A::Error> {
        skip(map).map(|()| Self(None))
    }
}

/// Seconds in snapshots, RFC 3339 in thin events.
struct Time(Option<Timestamp>);

impl<'b> Lenient<'b> for Time {
    fn scalar(value: Scalar<'b>) -> Self {
        match value {
            Scalar::Number(seconds) => Self(Timestamp::from_second(seconds).ok()),
            Scalar::Text(text) => Self(text.parse().ok()),
            _ => Self(None),
        }
    }

    fn map<A: MapAccess<'b>>(map: A) -> Result<Self, A::Error> {
        skip(map).map(|()| Self(None))
    }
}

impl<'b> Lenient<'b> for Name<'b> {
    fn scalar(value: Scalar<'b>) -> Self {
        Self { id: Text::scalar(value).0, ..Self::default() }
    }

    fn map<A: MapAccess<'b>>(map: A) -> Result<Self, A::Error> {
        Self::read(map, |_, map| map.next_value::<IgnoredAny>().map(drop))
    }
}

impl<'b> Name<'b> {
    /// Reads an object: what names it, and every other field by `rest`.
    fn read<A: MapAccess<'b>>(
        mut map: A,
        mut rest: impl FnMut(&str, &mut A) -> Result<(), A::Error>,
    ) -> Result<Self, A::Error> {
        let (mut id, mut object, mut kind) = (None::<Text<'b>>, None::<Text<'b>>, None::<Text<'b>>);
        while let Some(key) = key(&mut map)? {
            match key.as_ref() {
                "id" => once(&mut id, "id", &mut map)?,
                "object" => once(&mut object, "object", &mut map)?,
                "type" => once(&mut kind, "type", &mut map)?,
                key => rest(key, &mut map)?,
            }
        }
        Ok(Self { id: id.and_then(|t| t.0), object: object.and_then(|t| t.0), kind: kind.and_then(|t| t.0) })
    }
}

impl<'b> Lenient<'b> for Object<'b> {
    fn scalar(value: Scalar<'b>) -> Self {
        Self { name: Name::scalar(value), told: Vec::new() }
    }

    fn map<A: MapAccess<'b>>(map: A) -> Result<Self, A::Error> {
        let mut told = Vec::with_capacity(TOLD.len());
        let name = Name::read(map, |key, map| {
            match TOLD.into_iter().find(|told| *told == key) {
                Some(key) => told.push((key, map.next_value::<&RawValue>()?.get())),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
            Ok(())
        })?;
        Ok(Self { name, told })
    }
}

/// The keys of an object.
struct Keys<'b>(Vec<Cow<'b, str>>);

impl<'b> Lenient<'b> for Keys<'b> {
    fn scalar(_: Scalar<'b>) -> Self {
        Self(Vec::new())
    }

    fn map<A: MapAccess<'b>>(mut map: A) -> Result<Self, A::Error> {
        let mut keys = Vec::new();
        while let Some(key) = key(&mut map)? {
            keys.push(key);
            map.next_value::<IgnoredAny>()?;
        }
        Ok(Self(keys))
    }
}

impl<'b> Lenient<'b> for Data<'b> {
    fn scalar(_: Scalar<'b>) -> Self {
        Self::default()
    }

    fn map<A: MapAccess<'b>>(mut map: A) -> Result<Self, A::Error> {
        let (mut object, mut previous) = (None::<Object<'b>>, None::<Keys<'b>>);
        while let Some(key) = key(&mut map)? {
            match key.as_ref() {
                "object" => once(&mut object, "object", &mut map)?,
                "previous_attributes" => once(&mut previous, "previous_attributes", &mut map)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Self {
            object: object.unwrap_or_default(),
            changed: previous.map(|keys| keys.0).unwrap_or_default(),
        })
    }
}

struct Envelope<'b>(Option<Box<Fields<'b>>>);

impl<'b> Lenient<'b> for Envelope<'b> {
    fn scalar(_: Scalar<'b>) -> Self {
        Self(None)
    }

    fn map<A: MapAccess<'b>>(mut map: A) -> Result<Self, A::Error> {
        let mut texts: [Option<Text<'b>>; 6] = [const { None }; 6];
        let [object, id, event_type, api_version, account, context] = &mut texts;
        let (mut created, mut livemode, mut request) = (None::<Time>, None::<Bool>, None::<Name<'b>>);
        let (mut data, mut related) = (None::<Data<'b>>, None::<Name<'b>>);
        while let Some(key) = key(&mut map)? {
            match key.as_ref() {
                "object" => once(object, "object", &mut map)?,
                "id" => once(id, "id", &mut map)?,
                "type" => once(event_type, "type", &mut map)?,
                "api_version" => once(api_version, "api_version", &mut map)?,
                "account" => once(account, "account", &mut map)?,
                "context" => once(context, "context", &mut map)?,
                "created" => once(&mut created, "created", &mut map)?,
                "livemode" => once(&mut livemode, "livemode", &mut map)?,
                "request" => once(&mut request, "request", &mut map)?,
                "data" => once(&mut data, "data", &mut map)?,
                "related_object" => once(&mut related, "related_object", &mut map)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let [object, id, event_type, api_version, account, context] =
            texts.map(|text| text.and_then(|t| t.0));
        Ok(Self(Some(Box::new(Fields {
            object,
            id,
            event_type,
            created: created.and_then(|time| time.0),
            livemode: livemode.and_then(|value| value.0),
            api_version,
            account,
            context,
            request: request.and_then(|name| name.id),
            data: data.unwrap_or_default(),
            related: related.unwrap_or_default(),
        }))))
    }
}
