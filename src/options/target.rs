//! The two readings of a request's target: as the client sent it, and as it is meant.
//!
//! A fingerprint is made of what was sent, so that two spellings of a path are two requests, whatever
//! the service takes them for. A route is found by what is meant, so that no spelling of a path evades
//! the options of its route. The types keep the two apart.

use http::{Extensions, Uri};

/// Which target of a request counts as sent: it is digested, and its path is matched with the routes'
/// patterns.
///
/// The two differ inside a nested axum router only, which strips its prefix from the request's
/// target: for `POST /v1/orders` inside `nest("/v1", ..)` the target as sent is `/v1/orders`, the
/// target as seen `/orders`.
///
/// Records are found again only by the same target: with another one, a key that was used before
/// is rejected with `key-reused`, or (with [`KeysPer::Route`](crate::options::KeysPer::Route)) its
/// operation runs again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The target that the client sent. Inside a nested axum router the layer finds it only with
    /// the feature `axum`; without that feature it is the same as [`AsSeen`](Self::AsSeen).
    #[default]
    AsSent,
    /// The target of the request as it reaches the layer.
    AsSeen,
}

impl Target {
    /// The target that counts as sent.
    ///
    /// axum strips the prefix of a nested router from the request's URI, and keeps the URI that the
    /// client sent in the extensions.
    #[cfg_attr(
        not(feature = "axum"),
        expect(
            clippy::unused_self,
            reason = "the two targets differ with `axum` only"
        )
    )]
    pub(crate) fn sent<'a>(self, uri: &'a Uri, extensions: &'a Extensions) -> SentTarget<'a> {
        #[cfg(feature = "axum")]
        if self == Self::AsSent
            && let Some(original) = extensions.get::<axum::extract::OriginalUri>()
        {
            return SentTarget(&original.0);
        }
        // Without the feature `axum` no extension has the target that the client sent.
        let _ = extensions;
        SentTarget(uri)
    }

    /// The path that is meant: the one that was sent, unless a proxy reads that one as another.
    pub(crate) fn meant<'a>(self, uri: &'a Uri, extensions: &'a Extensions) -> MeantPath<'a> {
        match extensions.get::<NormalPath>() {
            Some(NormalPath(path)) => MeantPath(path),
            None => MeantPath(self.sent(uri, extensions).0.path()),
        }
    }
}

/// The target of a request as the client sent it, for its fingerprint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentTarget<'a>(pub(crate) &'a Uri);

/// The path that a request is meant for: the routes' patterns are matched with it, and it is the
/// endpoint of a key per route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MeantPath<'a>(pub(crate) &'a str);

/// An extension of a request whose path is spelled in another way than the patterns are: the path
/// in their spelling.
#[derive(Clone, Debug)]
pub struct NormalPath(pub String);
