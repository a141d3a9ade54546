//! Why a step has no result.

use std::error::Error;
use std::fmt;

use crate::store::StoreError;

/// A step has no result: it failed, or the layer did not run or record it.
///
/// ```
/// use tower_idempotency::steps::{StepError, StepFault};
///
/// /// The error of an application's handlers.
/// enum ShopError {
///     CardDeclined,
///     Step(StepFault),
/// }
///
/// impl From<StepFault> for ShopError {
///     fn from(fault: StepFault) -> Self {
///         Self::Step(fault)
///     }
/// }
///
/// let declined = StepError::Failed(ShopError::CardDeclined);
/// assert!(matches!(declined.flatten(), ShopError::CardDeclined));
/// ```
#[derive(Debug)]
pub enum StepError<E> {
    /// The step's closure returned this error. Nothing is recorded: the step runs again when the
    /// handler asks for it again, in this attempt or a later one.
    Failed(E),
    /// The layer did not run the step, or did not record its result.
    Fault(StepFault),
}

impl<E> StepError<E> {
    /// Returns the fault, unless the closure failed.
    #[must_use]
    pub fn fault(&self) -> Option<&StepFault> {
        match self {
            Self::Failed(_) => None,
            Self::Fault(fault) => Some(fault),
        }
    }

    /// Makes one error of the two, for handlers whose own error can hold a [`StepFault`].
    #[must_use]
    pub fn flatten(self) -> E
    where
        E: From<StepFault>,
    {
        match self {
            Self::Failed(error) => error,
            Self::Fault(fault) => fault.into(),
        }
    }
}

impl<E> From<StepFault> for StepError<E> {
    fn from(fault: StepFault) -> Self {
        Self::Fault(fault)
    }
}

impl<E> fmt::Display for StepError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(_) => f.write_str("the step failed"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl<E: Error + 'static> Error for StepError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Fault(fault) => fault.source(),
        }
    }
}

/// What is wrong with a step that the layer did not run or did not record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepFaultKind {
    /// The step's route has no steps: [`RouteOptions::steps`](crate::RouteOptions::steps) is off.
    Off,
    /// The step was begun inside another step of the operation.
    Nested,
    /// This attempt has asked for a step of this name already, and the step is running, is done, or
    /// may have been recorded.
    NameInUse,
    /// The operation has ended: its handler has responded, or has committed its claim.
    Ended,
    /// The operation has [`max_steps`](crate::RouteOptions::max_steps) steps already.
    TooMany,
    /// The name and the result have more bytes than
    /// [`max_step_bytes`](crate::RouteOptions::max_step_bytes), or all steps of the operation more
    /// than [`max_steps_bytes`](crate::RouteOptions::max_steps_bytes).
    TooLarge,
    /// Another attempt has taken the operation over, so that this one records no step and its
    /// response will be discarded.
    Lost,
    /// An earlier attempt recorded the step, and its result is not of the type that the handler asks
    /// for, or can't be decrypted.
    Unreadable,
    /// The result can't be written as JSON.
    Unwritable,
    /// The store has not recorded the step within `store_timeout`, as far as is known.
    Store,
}

/// The layer did not run a step, or did not record its result: why, and whether its closure ran.
///
/// Neither the name nor the result of the step is in the texts of this error.
///
/// As a response (feature `axum`) the error is a 503 for [`Store`](StepFaultKind::Store) and
/// [`Lost`](StepFaultKind::Lost), and a 500 otherwise. Neither is recorded: a retry of the client
/// goes on after the last step that is.
#[derive(Debug)]
pub struct StepFault {
    kind: StepFaultKind,
    has_run: bool,
    source: Option<StoreError>,
}

impl StepFault {
    /// A fault of a step whose closure did not run.
    pub(crate) fn before(kind: StepFaultKind) -> Self {
        Self {
            kind,
            has_run: false,
            source: None,
        }
    }

    /// A fault of a step whose closure has run.
    pub(crate) fn after(kind: StepFaultKind) -> Self {
        Self {
            kind,
            has_run: true,
            source: None,
        }
    }

    pub(crate) fn store(error: StoreError) -> Self {
        Self {
            kind: StepFaultKind::Store,
            has_run: true,
            source: Some(error),
        }
    }

    /// A fault of a step whose transaction was certainly rolled back.
    #[cfg(feature = "_sql")]
    pub(crate) fn not_committed(error: StoreError) -> Self {
        Self {
            has_run: false,
            ..Self::store(error)
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> StepFaultKind {
        self.kind
    }

    /// Whether the step's closure ran to its end in this attempt. Its effects have then happened, and a
    /// later attempt runs it again: under the same [`key`](crate::steps::Step::key).
    #[must_use]
    pub fn has_run(&self) -> bool {
        self.has_run
    }
}

impl fmt::Display for StepFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StepFaultKind::Off => "the route has no steps: turn its option `steps` on (not with `exactly_once` in_transaction)",
            StepFaultKind::Nested => {
                "a step was begun inside another one: a step is recorded as a whole, so begin the \
                 second one when the first is done"
            }
            StepFaultKind::NameInUse => {
                "the handler has asked for a step of this name already: give each step of an \
                 operation a name of its own"
            }
            StepFaultKind::Ended => {
                "the operation has ended, and no later attempt would be given this step: run it \
                 before the handler responds or commits its claim"
            }
            StepFaultKind::TooMany => {
                "the operation has as many steps as `max_steps` allows: raise it, or do more in one \
                 step"
            }
            StepFaultKind::TooLarge => {
                "the result is larger than `max_step_bytes`, or all results of the operation are \
                 larger than `max_steps_bytes`: return less from the step, or raise them"
            }
            StepFaultKind::Lost => {
                "another attempt has taken the operation over: the step is not recorded, and the \
                 response of this attempt will be discarded"
            }
            StepFaultKind::Unreadable => {
                "an earlier attempt recorded this step, and its result can't be read as what the \
                 handler asks for: give a step whose type changes another name"
            }
            StepFaultKind::Unwritable => {
                "the result of the step can't be written as JSON: the keys of its maps must be \
                 strings"
            }
            StepFaultKind::Store => "the store did not record the step",
        })
    }
}

impl Error for StepFault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[cfg(feature = "axum")]
mod response {
    use axum::response::{IntoResponse, Response};
    use http::StatusCode;
    use tracing::error;

    use super::{StepError, StepFault, StepFaultKind};
    use crate::error::cause;
    use crate::options::recording::Recording;

    impl IntoResponse for StepFault {
        fn into_response(self) -> Response {
            error!(error = cause(&self), "a step was not run or not recorded");
            let status = match self.kind() {
                StepFaultKind::Store | StepFaultKind::Lost => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let mut response = status.into_response();
            response.extensions_mut().insert(Recording::Skip);
            response
        }
    }

    impl<E: IntoResponse> IntoResponse for StepError<E> {
        fn into_response(self) -> Response {
            match self {
                Self::Failed(error) => error.into_response(),
                Self::Fault(fault) => fault.into_response(),
            }
        }
    }
}
