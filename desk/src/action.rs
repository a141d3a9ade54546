//! What a person does to one record: seal it, give it a response, forget it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use tower_idempotency::store::{
    Completion, Forgotten, Outcome, RecordId, RecordVersion, StoreError,
};
use tower_idempotency::{Audit, IdempotencyLayer, Resolved};

use crate::fields::Fields;
use crate::pages::Problem;

/// For how long an outcome that a person gives is kept.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// One decision about one record.
pub(crate) struct Action {
    pub(crate) id: RecordId,
    /// The version of the record when it was shown.
    pub(crate) seen: RecordVersion,
    pub(crate) what: What,
    pub(crate) who: String,
    pub(crate) why: String,
    audit: Audit,
}

pub(crate) enum What {
    /// The operation happened, and there is no response for retries.
    Seal,
    /// The operation happened, and retries get this response.
    Answer(Answer),
    /// The operation did not happen: a retry executes.
    Free,
    /// The outcome is given up: a retry executes.
    Forget,
    /// A retry executes, beside an owner that may be alive.
    Force,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) body: String,
}

/// What came of an action.
pub(crate) enum Done {
    Resolved,
    Forgotten,
    /// There is no such record.
    Absent,
    /// The record has another version than it had when it was shown.
    Moved,
    /// The operation is in flight, or it had an outcome already.
    NotFitting,
}

impl What {
    /// The value of the field `action`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Answer(_) => "answer",
            Self::Free => "free",
            Self::Forget => "forget",
            Self::Force => "force",
        }
    }

    fn read(fields: &Fields) -> Result<Self, Problem> {
        match fields.get("action") {
            "seal" => Ok(Self::Seal),
            "answer" => Answer::read(fields).map(Self::Answer),
            "free" => Ok(Self::Free),
            "forget" => Ok(Self::Forget),
            "force" => Ok(Self::Force),
            _ => Err(wrong(
                "No decision was chosen",
                "Choose what is to be done with the record.",
            )),
        }
    }
}

impl Answer {
    fn read(fields: &Fields) -> Result<Self, Problem> {
        let status = fields.get("status").trim();
        let status = StatusCode::from_bytes(status.as_bytes()).ok();
        // A final status: 1xx ends no response.
        let status = status.filter(|status| (200..=599).contains(&status.as_u16()));
        let status = status.ok_or_else(|| {
            wrong(
                "The status is none",
                "Write the status of the response, from 200 to 599.",
            )
        })?;
        let content_type = match fields.get("content_type").trim() {
            "" => None,
            text => Some(HeaderValue::from_str(text).map_err(|_| {
                wrong(
                    "The content type is none",
                    "Write one such as `application/json`.",
                )
            })?),
        };
        let body = fields.get("body").to_owned();
        Ok(Self {
            status,
            content_type,
            body,
        })
    }

    fn completion(&self) -> Completion {
        let body = Bytes::from(self.body.clone());
        let mut completion = Completion::new(self.status, body, SystemTime::now());
        completion.retention = RETENTION;
        if let Some(content_type) = &self.content_type {
            completion
                .headers
                .insert(CONTENT_TYPE, content_type.clone());
        }
        completion
    }
}

impl Action {
    pub(crate) fn read(fields: &Fields) -> Result<Self, Problem> {
        let seen: RecordVersion = fields.get("seen").parse().map_err(|_| {
            wrong(
                "The form does not say which version of the record it is about",
                "Open the record again, and use the form there.",
            )
        })?;
        let [who, why] = ["who", "why"].map(|name| fields.get(name).trim().to_owned());
        let audit = Audit::new(&who, &why).map_err(|error| {
            let title = format!("Who decides and why must be told: {error}");
            wrong(
                &title,
                "Go back, and write who you are and how you know what became of the operation.",
            )
        })?;
        Ok(Self {
            id: id(fields)?,
            seen,
            what: What::read(fields)?,
            audit: audit.seen(seen),
            who,
            why,
        })
    }

    /// Does what was decided, unless the record has moved on. The layer writes it to the log.
    pub(crate) async fn apply(&self, layer: &IdempotencyLayer) -> Result<Done, StoreError> {
        let (records, id, audit) = (layer.records(), &self.id, &self.audit);
        let resolved = match &self.what {
            What::Seal => {
                let retention = RETENTION;
                records
                    .resolve(id, &Outcome::Sealed { retention }, audit)
                    .await?
            }
            What::Answer(answer) => {
                let outcome = Outcome::Completed(Arc::new(answer.completion()));
                records.resolve(id, &outcome, audit).await?
            }
            What::Free => records.free(id, audit).await?,
            What::Forget => return records.forget(id, audit).await.map(Done::of_forgotten),
            What::Force => {
                return records
                    .forget_forced(id, audit)
                    .await
                    .map(Done::of_forgotten);
            }
        };
        Ok(match resolved {
            Resolved::Recorded => Done::Resolved,
            Resolved::Freed => Done::Forgotten,
            Resolved::Absent => Done::Absent,
            Resolved::Moved => Done::Moved,
            _ => Done::NotFitting,
        })
    }
}

impl Done {
    fn of_forgotten(forgotten: Forgotten) -> Self {
        match forgotten {
            Forgotten::Gone => Self::Forgotten,
            Forgotten::Absent => Self::Absent,
            Forgotten::Moved => Self::Moved,
            _ => Self::NotFitting,
        }
    }
}

/// The id of a record, in the field or in the query's parameter `id`.
pub(crate) fn id(fields: &Fields) -> Result<RecordId, Problem> {
    RecordId::from_hex(fields.get("id").trim()).ok_or_else(|| {
        wrong(
            "This is no id of a record",
            "An id has 64 hexadecimal digits. Search by caller and key instead.",
        )
    })
}

fn wrong(what: &str, todo: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, what, todo)
}
