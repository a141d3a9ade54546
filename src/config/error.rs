//! The error of a file that can't be a configuration.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file that can't be a configuration: the place, the option, and what is allowed there.
///
/// ```
/// use tower_idempotency::config::Config;
///
/// let error = Config::from_toml("[idempotency]\nlease = 30\n").unwrap_err();
/// assert_eq!((error.line(), error.column()), (Some(2), Some(1)));
/// assert_eq!(error.option(), Some("idempotency.lease"));
/// assert_eq!(
///     error.to_string(),
///     "2:1: `idempotency.lease` must be a duration such as \"300ms\", \"30s\", \"10m\", \"24h\" \
///      or \"7d\", at most \"36500d\""
/// );
/// ```
///
/// It never holds a credential: of `store`, `secrets` and `authorize` no part is shown.
#[derive(Debug)]
pub struct FileError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    file: Option<PathBuf>,
    place: Option<(usize, usize)>,
    option: Option<String>,
    message: String,
    source: Option<io::Error>,
}

impl FileError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            file: None,
            place: None,
            option: None,
            message: message.into(),
            source: None,
        }))
    }

    pub(super) fn unreadable(file: &Path, source: io::Error) -> Self {
        let mut error = Self::new("can't be read").in_file(Some(file));
        error.0.source = Some(source);
        error
    }

    /// `place` is a line and a column.
    pub(super) fn at(mut self, place: Option<(usize, usize)>) -> Self {
        self.0.place = place;
        self
    }

    pub(super) fn on(mut self, path: &str) -> Self {
        // A name may have any characters, among them those that would break the line.
        self.0.option = (!path.is_empty()).then(|| path.escape_debug().to_string());
        self
    }

    pub(super) fn in_file(mut self, file: Option<&Path>) -> Self {
        self.0.file = file.map(Path::to_path_buf);
        self
    }

    /// The file, if it was read from one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The line, from 1. `None` if the file could not be read, and for an entry of a JSON
    /// file, of which only [`option`](Self::option) is known.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.0.place.map(|(line, _)| line)
    }

    /// The column, from 1, in characters: where the option's name begins. `None` where there is no
    /// line.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.0.place.map(|(_, column)| column)
    }

    /// The path of the option, such as `idempotency.lease` or `route[0].match`; `None` if it
    /// is not one option that is wrong.
    #[must_use]
    pub fn option(&self) -> Option<&str> {
        self.0.option.as_deref()
    }
}

/// Begins with `idempotency.toml:14:1: `, which editors can open.
impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            file,
            place,
            option,
            message,
            ..
        } = &*self.0;
        if let Some(file) = file {
            write!(f, "{}:", file.display())?;
        }
        if let Some((line, column)) = place {
            write!(f, "{line}:{column}:")?;
        }
        if file.is_some() || place.is_some() {
            f.write_str(" ")?;
        }
        if let Some(option) = option {
            write!(f, "`{option}` ")?;
        }
        f.write_str(message)
    }
}

impl Error for FileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}
