//! Posted forms, as far as strangers may be trusted to send them.

use std::convert::Infallible;
use std::time::Duration;

use axum::RequestExt;
use axum::extract::{DefaultBodyLimit, Form, FromRequest, Request};
use serde::de::DeserializeOwned;

/// The largest form: an address and a secret are far smaller.
const LARGEST: usize = 8 << 10;
/// One that has not arrived whole by then is given up.
const WITHIN: Duration = Duration::from_secs(30);

/// A posted form. One that cannot be read is the default, whose empty fields nobody accepts.
pub(super) struct Posted<T>(pub(super) T);

impl<T: DeserializeOwned + Default + 'static, S: Send + Sync> FromRequest<S> for Posted<T> {
    type Rejection = Infallible;

    async fn from_request(mut request: Request, _: &S) -> Result<Self, Infallible> {
        DefaultBodyLimit::max(LARGEST).apply(&mut request);
        let form = tokio::time::timeout(WITHIN, request.extract::<Form<T>, _>()).await;
        Ok(Self(form.ok().and_then(Result::ok).map(|Form(form)| form).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Fields {
        email: String,
    }

    async fn read(email: &str, kind: &str) -> String {
        let request = http::Request::post("/").header("content-type", kind);
        let request = request.body(Body::from(format!("email={email}"))).expect("a request");
        let Ok(Posted(Fields { email })) = Posted::from_request(request, &()).await;
        email
    }

    #[tokio::test]
    async fn a_form_is_read_and_anything_else_is_empty() {
        let form = "application/x-www-form-urlencoded";
        assert_eq!(read("jane%40example.com", form).await, "jane@example.com");
        assert_eq!(read("jane%40example.com", "text/plain").await, "", "another kind");
        assert_eq!(read("%ff", form).await.chars().filter(char::is_ascii_alphanumeric).count(), 0);
        assert_eq!(read(&"a".repeat(LARGEST - 6), form).await.len(), LARGEST - 6);
        assert_eq!(read(&"a".repeat(LARGEST - 5), form).await, "", "too large");
    }
}
