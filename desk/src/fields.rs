//! The fields of a form or of a query, within limits.

use std::error::Error;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Limited};
use tokio::time::timeout;

use crate::pages::Problem;

/// The largest form, in bytes.
const MAX_FORM: usize = 64 << 10;
/// The longest query, in bytes.
const MAX_QUERY: usize = 4 << 10;
/// How many fields a form or a query may have.
const MAX_FIELDS: usize = 32;
/// How long a form may take to arrive.
const WITHIN: Duration = Duration::from_secs(10);

/// Pairs of a name and a value.
#[derive(Debug)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// The value of this field; empty if there is none. Of a field that was sent twice the first counts.
    pub(crate) fn get(&self, name: &str) -> &str {
        let own = self.0.iter().find(|(own, _)| own == name);
        own.map_or("", |(_, value)| value)
    }

    pub(crate) fn of_query(head: &Parts) -> Result<Self, Problem> {
        let query = head.uri.query().unwrap_or_default();
        if query.len() > MAX_QUERY {
            return Err(Problem::new(
                StatusCode::URI_TOO_LONG,
                "The address is too long",
                "Begin again at the overview.",
            ));
        }
        Self::read(query.as_bytes())
    }

    pub(crate) async fn of_form<B>(head: &Parts, body: B) -> Result<Self, Problem>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if !is_form(&head.headers) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "This is not a form",
                "Send the fields as `application/x-www-form-urlencoded`, as a browser does.",
            ));
        }
        let body = timeout(WITHIN, Limited::new(body, MAX_FORM).collect()).await;
        match body {
            Ok(Ok(body)) => Self::read(&body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "The form is too large",
                "A form may have 64 KiB. A response that is larger can be recorded by a program, with \
                 `Records::resolve`.",
            )),
            Ok(Err(_)) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "The form broke off",
                "Nothing was changed. Send the form again.",
            )),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "The form took too long",
                "Nothing was changed. Send the form again.",
            )),
        }
    }

    fn read(text: &[u8]) -> Result<Self, Problem> {
        let mut pairs = form_urlencoded::parse(text);
        let fields = pairs.by_ref().take(MAX_FIELDS);
        let fields = fields.map(|(name, value)| (name.into_owned(), value.into_owned()));
        let fields = Self(fields.collect());
        if pairs.next().is_some() {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "There are too many fields",
                "Nothing was changed. Use the forms of the desk.",
            ));
        }
        Ok(fields)
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = value.and_then(|value| value.split(';').next());
    media_type.is_some_and(|own| {
        own.trim()
            .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    })
}
