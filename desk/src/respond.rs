//! From a request to a page: who asks, what for, and what a page may do in a browser.

use std::error::Error;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use maud::Markup;
use tracing::warn;

use crate::Inner;
use crate::access::{Shut, Visit, is_own_form};
use crate::action::{Action, id};
use crate::fields::Fields;
use crate::pages::{self, Frame, Problem};
use crate::sessions::{Session, no_cookie};

const STYLE: &str = include_str!("style.css");
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; \
                      frame-ancestors 'none'; base-uri 'none'";

/// What a request gets.
pub(crate) enum Reply {
    Page(StatusCode, Markup),
    /// To another view of the desk. The location is relative: the desk does not know under which
    /// prefix it is nested, and a location that begins with `?` leads to the desk's own address.
    See(String),
}

pub(crate) async fn respond<B>(desk: &Inner, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let mut response = match routed(desk, &head, body).await {
        Ok(response) => response,
        Err(problem) => refused(&Frame::outside(), &problem),
    };
    harden(response.headers_mut());
    response
}

/// The first steps, before anybody is let in.
async fn routed<B>(desk: &Inner, head: &Parts, body: B) -> Result<Response<Full<Bytes>>, Problem>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let query = Fields::of_query(head)?;
    let view = query.get("view");
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    if view == "style" {
        return Ok(style());
    }
    if !desk.door.serves_host(head) {
        warn!("a request to the desk names another host than this machine");
        return Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "The desk is not served under this name",
            "Open it as `localhost` or by the loopback address. For other names the desk needs a token or \
             client certificates.",
        ));
    }
    if view == "login" && desk.door.has_token() {
        return log_in(desk, head, body).await;
    }
    let visit = desk.door.visit(head).await.map_err(shut)?;
    let frame = match &visit {
        Visit::Session(session) => Frame::of(&session.csrf, desk.door.has_token()),
        Visit::Program => Frame::of("", false),
        // The response is the same whatever was asked for: who has no credential learns nothing.
        Visit::Nobody if is_read => return Ok(see("?view=login")),
        Visit::Nobody => return Err(unknown()),
    };
    let reply = admitted(desk, head, body, &query, &visit, &frame).await;
    let leaves = view == "logout" && matches!(reply, Ok(Reply::See(_)));
    let mut response = match reply {
        Ok(Reply::Page(status, page)) => html(status, page),
        Ok(Reply::See(location)) => see(&location),
        Err(problem) => refused(&frame, &problem),
    };
    match &visit {
        Visit::Session(session) if leaves => {
            response.headers_mut().insert(SET_COOKIE, no_cookie());
            desk.door.log_out(session);
        }
        Visit::Session(session) if !session.is_known => {
            response.headers_mut().insert(SET_COOKIE, session.cookie());
        }
        _ => {}
    }
    Ok(response)
}

/// What somebody with the credential gets.
async fn admitted<B>(
    desk: &Inner,
    head: &Parts,
    body: B,
    query: &Fields,
    visit: &Visit,
    frame: &Frame<'_>,
) -> Result<Reply, Problem>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if !matches!(head.uri.path(), "" | "/") {
        let todo = "All pages of the desk have its own address. Take the last parts off the path.";
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "There is no such page",
            todo,
        ));
    }
    let layer = &desk.layer;
    let view = query.get("view");
    match (&head.method, view) {
        (&Method::GET | &Method::HEAD, _) => match view {
            "" => Ok(Reply::Page(
                StatusCode::OK,
                pages::overview(desk, frame, query).await,
            )),
            "list" => pages::list(desk, frame, query).await,
            "search" => Ok(Reply::Page(StatusCode::OK, pages::search(frame))),
            "record" => pages::record(desk, frame, &id(query)?).await,
            _ => Err(no_view()),
        },
        (&Method::POST, _) => {
            let form = own_form(head, body, visit).await?;
            match view {
                "logout" => Ok(Reply::See("?view=login".to_owned())),
                "search" => pages::found(layer, frame, &form).await,
                "confirm" => pages::confirm(layer, frame, &Action::read(&form)?).await,
                "apply" => pages::apply(layer, frame, &Action::read(&form)?).await,
                _ => Err(no_view()),
            }
        }
        _ => Err(Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "The desk knows GET and POST alone",
            "Use its links and forms.",
        )),
    }
}

/// The fields of a form, if the desk itself has served the form to this browser.
async fn own_form<B>(head: &Parts, body: B, visit: &Visit) -> Result<Fields, Problem>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let foreign = |why| {
        warn!(why, "a form that the desk has not served was refused");
        Problem::new(
            StatusCode::FORBIDDEN,
            "The form is not from this session of the desk",
            "Nothing was changed. Open the desk again, over https or on the machine itself, and use the \
             form there.",
        )
    };
    if !is_own_form(head) {
        return Err(foreign("it comes from another site"));
    }
    let form = Fields::of_form(head, body).await?;
    match visit {
        Visit::Session(session) if !session.has_sent(form.get("csrf")) => {
            Err(foreign("its token is not that of the session"))
        }
        _ => Ok(form),
    }
}

async fn log_in<B>(desk: &Inner, head: &Parts, body: B) -> Result<Response<Full<Bytes>>, Problem>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if head.method != Method::POST {
        return Ok(html(StatusCode::OK, pages::login()));
    }
    if !is_own_form(head) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "The token was sent from another page",
            "Open the desk over https, or on the machine itself, and log in there: a token that goes over \
             plain http can be read on the way.",
        ));
    }
    let form = Fields::of_form(head, body).await?;
    let session: Session = desk.door.log_in(form.get("token")).await.map_err(shut)?;
    let mut response = see("?");
    response.headers_mut().insert(SET_COOKIE, session.cookie());
    Ok(response)
}

fn shut(shut: Shut) -> Problem {
    match shut {
        Shut::Wrong => unknown(),
        Shut::Busy => Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "Too many wrong tokens were tried",
            "Wait a few seconds, and try again.",
        ),
    }
}

fn unknown() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "The desk does not know you",
        "Log in with the desk's token. The configuration of the desk names it.",
    )
}

fn no_view() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "There is no such page",
        "Begin again at the overview.",
    )
}

fn refused(frame: &Frame<'_>, problem: &Problem) -> Response<Full<Bytes>> {
    let mut response = html(problem.status, pages::problem(frame, problem));
    let headers = response.headers_mut();
    match problem.status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        _ => {}
    }
    response
}

fn html(status: StatusCode, page: Markup) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.into_string())));
    *response.status_mut() = status;
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}

fn see(location: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let location = HeaderValue::try_from(location).expect("a name of a view, or an id");
    response.headers_mut().insert(LOCATION, location);
    response
}

fn style() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(STYLE.as_bytes())));
    let css = HeaderValue::from_static("text/css; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, css);
    response
}

/// What a browser may do with a response of the desk.
fn harden(headers: &mut HeaderMap) {
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
