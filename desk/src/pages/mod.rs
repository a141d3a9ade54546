//! The pages, as HTML. Every value is escaped by `maud`.

mod confirm;
mod list;
mod overview;
mod record;
mod search;
mod traffic;

use http::StatusCode;
use maud::{DOCTYPE, Markup, html};

pub(crate) use confirm::{apply, confirm};
pub(crate) use list::list;
pub(crate) use overview::overview;
pub(crate) use record::record;
pub(crate) use search::{found, search};

use tower_idempotency::store::{StoreError, StoreErrorKind};

/// What stands around each page.
pub(crate) struct Frame<'a> {
    /// What each form carries; `None` where nobody is let in, and no link leads anywhere.
    csrf: Option<&'a str>,
    /// Whether the person can log out.
    can_leave: bool,
}

impl<'a> Frame<'a> {
    pub(crate) fn of(csrf: &'a str, can_leave: bool) -> Self {
        Self {
            csrf: Some(csrf),
            can_leave,
        }
    }

    pub(crate) fn outside() -> Self {
        Self {
            csrf: None,
            can_leave: false,
        }
    }

    /// The hidden field of each form.
    fn hidden(&self) -> Markup {
        html! { @if let Some(csrf) = self.csrf { input type="hidden" name="csrf" value=(csrf); } }
    }

    fn page(&self, title: &str, refresh: Option<u32>, main: Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    @if let Some(seconds) = refresh { meta http-equiv="refresh" content=(seconds); }
                    title { (title) " · Idempotency desk" }
                    link rel="stylesheet" href="?view=style";
                }
                body {
                    a.skip href="#main" { "Skip to the content" }
                    header {
                        strong { "Idempotency desk" }
                        @if self.csrf.is_some() {
                            nav aria-label="Desk" {
                                a href="?" { "Overview" }
                                a href="?view=list" { "Work list" }
                                a href="?view=search" { "Find a record" }
                                @if self.can_leave {
                                    form method="post" action="?view=logout" {
                                        (self.hidden())
                                        button.link type="submit" { "Log out" }
                                    }
                                }
                            }
                        }
                    }
                    main id="main" { h1 { (title) } (main) }
                }
            }
        }
    }
}

/// Why a request gets no page, and what to do.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    title: String,
    todo: String,
    /// The query of a view that helps.
    link: Option<(String, &'static str)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, title: &str, todo: &str) -> Self {
        Self {
            status,
            title: title.to_owned(),
            todo: todo.to_owned(),
            link: None,
        }
    }

    fn with_link(mut self, query: String, text: &'static str) -> Self {
        self.link = Some((query, text));
        self
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.kind() == StoreErrorKind::Unsupported {
            let todo = "Use the tools of the store itself.";
            return Self::new(StatusCode::NOT_IMPLEMENTED, "The store can't do this", todo);
        }
        if error.kind() == StoreErrorKind::InvalidCursor {
            return Self::new(
                StatusCode::BAD_REQUEST,
                "The page is none of this list",
                "Begin again at its first page.",
            )
            .with_link("?view=list".to_owned(), "To the list");
        }
        let error = &error as &(dyn std::error::Error + 'static);
        tracing::warn!(error, "the store gives the desk no answer");
        let title = "The store gives no usable answer";
        let todo = "It is not certain that nothing was changed. See the log of this process, look at the \
                    record again when the store is back, and then decide.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, title, todo)
    }
}

pub(crate) fn problem(frame: &Frame<'_>, problem: &Problem) -> Markup {
    let main = html! {
        p role="alert" { (problem.todo) }
        @if let Some((query, text)) = &problem.link { p { a href=(query) { (text) } } }
        @if problem.status == StatusCode::UNAUTHORIZED { p { a href="?view=login" { "Log in" } } }
    };
    frame.page(&problem.title, None, main)
}

pub(crate) fn login() -> Markup {
    let main = html! {
        form.tall method="post" action="?view=login" {
            label { "Token"
                input type="password" name="token" autocomplete="current-password" required autofocus;
            }
            button type="submit" { "Log in" }
        }
        p.hint { "The token is the one that the configuration of the desk names." }
    };
    Frame::outside().page("Log in", None, main)
}
