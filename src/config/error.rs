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
    /// The variable that the entry comes from, instead of a file.
    variable: Option<String>,
    others: Vec<FileError>,
}

impl FileError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            file: None,
            place: None,
            option: None,
            message: message.into(),
            source: None,
            variable: None,
            others: Vec::new(),
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
        if self.0.variable.is_none() {
            self.0.file = file.map(Path::to_path_buf);
        }
        let others = std::mem::take(&mut self.0.others).into_iter();
        self.0.others = others.map(|own| own.in_file(file)).collect();
        self
    }

    pub(super) fn of_variable(mut self, name: &str) -> Self {
        self.0.variable = Some(name.escape_debug().to_string());
        self.0.place = None;
        self.0.file = None;
        self
    }

    pub(super) fn and(mut self, mut other: Self) -> Self {
        let further = std::mem::take(&mut other.0.others);
        self.0.others.push(other);
        self.0.others.extend(further);
        self
    }

    /// One error of several, in the order of their places. `None` if there are none.
    pub(super) fn of_all(mut errors: Vec<Self>) -> Option<Self> {
        errors.sort_by_key(|own| (own.0.variable.clone(), own.0.place));
        errors.into_iter().reduce(Self::and)
    }

    pub(super) fn message(&self) -> &str {
        &self.0.message
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

    /// The environment variable that has set the option, if one has.
    #[must_use]
    pub fn variable(&self) -> Option<&str> {
        self.0.variable.as_deref()
    }

    /// The other errors of the same file.
    #[must_use]
    pub fn others(&self) -> &[FileError] {
        &self.0.others
    }

    /// The path of the option, such as `idempotency.lease` or `route[0].match`; `None` if it
    /// is not one option that is wrong.
    #[must_use]
    pub fn option(&self) -> Option<&str> {
        self.0.option.as_deref()
    }
}

/// Begins with `idempotency.toml:14:1: `, which editors can open. Each of the other errors has a line of
/// its own.
impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            file,
            place,
            option,
            message,
            variable,
            others,
            ..
        } = &*self.0;
        if let Some(variable) = variable {
            write!(f, "{variable}: ")?;
        }
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
        f.write_str(message)?;
        for other in others {
            write!(f, "\n{other}")?;
        }
        Ok(())
    }
}

impl Error for FileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}
