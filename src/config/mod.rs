//! All options from a file, TOML or JSON (feature `config`).
//!
//! 1. The options have the names and the defaults of the methods of
//!    [`RouteOptions`](crate::RouteOptions) and [`IdempotencyLayerBuilder`].
//!    `docs/config.md` lists them all, [`Config::schema`] is the JSON Schema for
//!    editors.
//! 2. A `[[route]]` table overrides `[idempotency]`, for the requests that its
//!    `match` names.
//! 3. What is wrong is found when the file is read, not when the layer is built or
//!    later: a [`FileError`] names the file, the option, what is allowed there, and
//!    in TOML the line.
//! 4. A file may have entries for the sidecar (`listen`, `upstream`, …), which an
//!    application ignores.
//!
//! Public items: [`Config`], [`FileError`]. May use: `layer`, `options`, `scope`, `rejection`,
//! `store`, `message`, `record`, `display`, `error`.
//!
//! ```
//! use tower_idempotency::MemoryStore;
//! use tower_idempotency::config::Config;
//!
//! let config = Config::from_toml(r#"
//!     [idempotency]
//!     scope = ["header:x-api-key"]
//!     retention = "7d"
//!
//!     [[route]]
//!     match = "POST /orders"
//!     require = "required"
//! "#)?;
//! let layer = config.builder(MemoryStore::new())?.build()?;
//!
//! let error = Config::from_toml("[idempotency]\nretentoin = '7d'").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "2:1: `idempotency.retentoin` is not an option: did you mean `retention`?"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::generate::SchemaSettings;

use self::document::{Document, Origin, RENAMED};
use self::file::File;
use self::rejections::Code;
use crate::scope::Scope;
use crate::store::Store;
use crate::{IdempotencyLayer, IdempotencyLayerBuilder};

mod amount;
mod check;
mod check_process;
mod choice;
mod credential;
pub(crate) mod desk;
mod document;
mod environment;
mod error;
mod field;
mod file;
mod layer_limits;
pub(crate) mod limits;
mod names;
mod print;
pub(crate) mod process;
mod read;
mod record;
mod rejections;
mod schema;
mod scopes;
pub(crate) mod sidecar;
mod strict;
pub(crate) mod tls;
mod value;

pub use error::FileError;

/// The options of a file that was read without an error.
///
/// A clone is cheap.
#[derive(Clone)]
pub struct Config {
    said: Arc<Said>,
}

struct Said {
    path: Option<PathBuf>,
    document: Document,
    file: File,
}

impl Config {
    /// Reads a file: JSON if its name ends in `.json`, else TOML.
    ///
    /// # Errors
    /// If the file can't be read, or an entry of it is wrong.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let config = Self::document(path).and_then(|document| Self::of(document, Some(path)));
        config.map_err(|error| error.in_file(Some(path)))
    }

    /// Reads a file, if there is one, and sets the entries that environment variables name:
    /// `IDEMPOTENCY_STORE` the entry `store`, and `IDEMPOTENCY_LIMITS__KEEP_ALIVE` the entry `keep_alive` of
    /// `[limits]`. Variables whose names begin otherwise are ignored, and so are those that a value
    /// refers to as `env:NAME`.
    ///
    /// ```
    /// use tower_idempotency::config::Config;
    ///
    /// let variables = [("IDEMPOTENCY_STORE", "memory:"), ("IDEMPOTENCY_IDEMPOTENCY__LEASE", "10s")];
    /// let variables = variables.map(|(name, value)| (name.into(), value.into()));
    /// let config = Config::read_with_environment(None, variables)?;
    /// assert_eq!(config.store(), Some("memory:"));
    /// # Ok::<(), tower_idempotency::config::FileError>(())
    /// ```
    ///
    /// # Errors
    /// If the file can't be read, or an entry of it or a variable is wrong.
    pub fn read_with_environment(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, FileError> {
        let read = || {
            let mut document = path.map_or_else(|| Ok(Document::empty()), Self::document)?;
            let errors = environment::apply(&mut document, &Self::schema(), variables);
            match (
                Self::of(document.rename()?, path),
                FileError::of_all(errors),
            ) {
                (Ok(config), None) => Ok(config),
                (Ok(_), Some(error)) | (Err(error), None) => Err(error),
                (Err(one), Some(other)) => Err(one.and(other)),
            }
        };
        read().map_err(|error| error.in_file(path))
    }

    fn document(path: &Path) -> Result<Document, FileError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| FileError::unreadable(path, error))?;
        let is_json = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        if is_json {
            Document::from_json(&text)
        } else {
            Document::from_toml(&text)
        }
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// If an entry of the text is wrong.
    pub fn from_toml(text: &str) -> Result<Self, FileError> {
        Self::of(Document::from_toml(text)?, None)
    }

    /// Reads JSON: as strict as RFC 8259, and without a name that stands twice in an object.
    ///
    /// ```
    /// use tower_idempotency::config::Config;
    ///
    /// Config::from_json(r#"{ "idempotency": { "scope": ["shared"], "lease": "10s" } }"#)?;
    /// # Ok::<(), tower_idempotency::config::FileError>(())
    /// ```
    ///
    /// # Errors
    /// If an entry of the text is wrong.
    pub fn from_json(text: &str) -> Result<Self, FileError> {
        Self::of(Document::from_json(text)?, None)
    }

    fn of(document: Document, path: Option<&Path>) -> Result<Self, FileError> {
        if document.root["route"].is_object() {
            let message = "must be a list of tables, in TOML `[[route]]`, not a table";
            return Err(document.error("route", message));
        }
        let file = read::read::<File>(&document);
        let file = file.map_err(|errors| FileError::of_all(errors).expect("there is one"))?;
        let config = Self {
            said: Arc::new(Said {
                path: path.map(Path::to_path_buf),
                document,
                file,
            }),
        };
        match FileError::of_all(config.check()) {
            Some(error) => Err(error),
            None => Ok(config),
        }
    }

    /// The JSON Schema (draft 2020-12) of a file, for editors and linters. The
    /// schema is published as `docs/config.schema.json`.
    ///
    /// The schema describes the text of values as far as a schema can. A fault that
    /// depends on two entries is only found by reading the file.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        let settings = SchemaSettings::draft2020_12().with_transform(schema::AsRead);
        let schema = settings.into_generator().into_root_schema_for::<File>();
        let mut schema = schema.to_value();
        let options = &mut schema["properties"]["idempotency"]["properties"];
        for (old, new) in RENAMED {
            options[old] = options[new].clone();
            options[old]["deprecated"] = true.into();
        }
        schema
    }

    /// The entry `store`: a URL for [`AnyStore::connect`](crate::store::AnyStore::connect),
    /// in which `env:NAME` is replaced by the variable's value. The URL may hold a password.
    #[must_use]
    pub fn store(&self) -> Option<&str> {
        self.said.file.store.as_ref().map(|store| &*store.0)
    }

    /// The builder of a layer with the options of the file, in front of this store.
    ///
    /// # Errors
    /// If the file has no `scope`, which tells to which caller a key belongs.
    pub fn builder(&self, store: impl Store) -> Result<IdempotencyLayerBuilder, FileError> {
        let Some(scopes) = &self.said.file.idempotency.scope else {
            let message = "is missing: it says whose a key is, such as [\"header:x-api-key\"], and \
                 has no default";
            return Err(self.error("idempotency.scope", message));
        };
        Ok(self.builder_of(store, scopes.scope()))
    }

    /// The builder of a layer with the options of the file and a scope of the
    /// application's own, such as [`scope::extension`](crate::scope::extension) with the
    /// account that a middleware for authentication found.
    ///
    /// ```
    /// use tower_idempotency::config::Config;
    /// use tower_idempotency::{MemoryStore, scope};
    ///
    /// #[derive(Clone)]
    /// struct Account(u64);
    ///
    /// let config = Config::from_toml("idempotency.lease = '10s'")?;
    /// let scope = scope::extension("account", |account: &Account| account.0);
    /// let layer = config.builder_with_scope(MemoryStore::new(), scope)?.build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If the file has a `scope` too, for all requests or for a route.
    pub fn builder_with_scope(
        &self,
        store: impl Store,
        scope: impl Scope,
    ) -> Result<IdempotencyLayerBuilder, FileError> {
        let mut tables = self.tables().into_iter();
        match tables.find(|table| self.said.document.has(&format!("{table}.scope"))) {
            None => Ok(self.builder_of(store, scope)),
            Some(table) => Err(self.error(
                &format!("{table}.scope"),
                "must not stand here: the application says whose a key is",
            )),
        }
    }

    /// The paths of all tables that can have the options of a route: `idempotency`, then the
    /// routes.
    fn tables(&self) -> Vec<String> {
        let routes = 0..self.said.file.route.len();
        let routes = routes.map(|at| format!("route[{at}]"));
        ["idempotency".to_owned()]
            .into_iter()
            .chain(routes)
            .collect()
    }

    fn builder_of(&self, store: impl Store, scope: impl Scope) -> IdempotencyLayerBuilder {
        let File {
            secrets,
            idempotency: all,
            route: routes,
            ..
        } = &self.said.file;
        let mut builder =
            IdempotencyLayer::builder(store, scope).defaults(|options| all.set(options));
        if let Some(secrets) = secrets {
            builder = builder.secrets(secrets.0.iter().map(|secret| &*secret.0));
        }
        if let Some(namespace) = &all.namespace {
            builder = builder.namespace(namespace);
        }
        builder = all.set_limits(builder);
        if let Some(timeout) = all.send_timeout {
            builder = builder.send_timeout(timeout.0);
        }
        if let Some(timeout) = all.store_timeout {
            builder = builder.store_timeout(timeout.0);
        }
        if let Some(url) = &all.docs_url {
            builder = builder.docs_url(url.as_str());
        }
        #[cfg(feature = "encryption")]
        if let Some(encrypting) = &all.encryption {
            builder = builder.encryption(encrypting.encryption());
        }
        for (Code(code), rejection) in &all.rejections {
            if let Some(status) = rejection.status {
                builder = builder.status_of(code, status.0);
            }
            if let (Some(content_type), Some(body)) = (&rejection.content_type, &rejection.body) {
                builder = builder.body_of(code, content_type.clone(), body.clone());
            }
        }
        for route in routes {
            let own = route.clone();
            builder = builder.route(&route.pattern, move |options| own.set(options));
        }
        builder
    }

    /// Where the entry at this path comes from: a line of the file, or a variable.
    fn origin(&self, path: &str) -> String {
        let file = self.said.path.as_ref();
        let file = file.map_or("the file".to_owned(), |own| own.display().to_string());
        let origins = self.said.document.origins(path);
        let origins = origins.iter().map(|origin| match origin {
            Origin::Variable(name) => (*name).to_owned(),
            Origin::Place(line, _) => format!("{file}:{line}"),
        });
        let mut origins: Vec<_> = origins.collect();
        origins.sort();
        if origins.is_empty() {
            // JSON has no lines.
            return file;
        }
        origins.join(", ")
    }

    /// An error of the entry at this path, or of the table where that entry is missing.
    fn error(&self, path: &str, message: impl Into<String>) -> FileError {
        let error = self.said.document.error(path, message);
        error.in_file(self.said.path.as_deref())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("file", &self.said.path)
            .field("routes", &self.said.file.route.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
