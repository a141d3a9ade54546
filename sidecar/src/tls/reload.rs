//! What is made of files, and made again when the files change.

use std::fs::Metadata;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use tracing::{info, warn};

use super::TlsError;

/// What is read again from files.
pub(crate) trait Reload: Send + Sync {
    /// Reads the files again.
    fn reload(&self);

    /// Reads the files again if they have changed, and have not changed since the last look.
    fn look(&self);
}

/// A value that is made of files.
pub(super) struct Reloaded<T> {
    current: RwLock<Arc<T>>,
    load: Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>,
    /// The entry of the configuration, for the log.
    entry: String,
    files: Vec<PathBuf>,
    stamps: Mutex<Stamps>,
}

/// What tells a version of the files from another.
struct Stamps {
    loaded: Vec<Option<Stamp>>,
    seen: Vec<Option<Stamp>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// The inode and the time of its last change.
    inode: (u64, i64, i64),
}

impl<T> Reloaded<T> {
    pub(super) fn new(
        entry: &str,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        // The stamps are older than what is loaded: a change in between is found at the next look.
        let stamps = stamps(&files);
        Ok(Self {
            current: RwLock::new(Arc::new(load()?)),
            load: Box::new(load),
            entry: entry.to_owned(),
            files,
            stamps: Mutex::new(Stamps {
                loaded: stamps.clone(),
                seen: stamps,
            }),
        })
    }

    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Send + Sync> Reload for Reloaded<T> {
    fn reload(&self) {
        let mut stamps_now = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        stamps_now.loaded.clone_from(&stamps);
        stamps_now.seen = stamps;
        match (self.load)() {
            Ok(new) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = Arc::new(new);
                info!(entry = %self.entry, "the certificates are read again");
            }
            Err(error) => warn!("{error}: the certificates that were read before stay in use"),
        }
    }

    fn look(&self) {
        let is_new = {
            let mut stamps_now = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
            let stamps = stamps(&self.files);
            // A certificate and its key are often written one after the other, so that files that
            // have just changed are given until the next look.
            let is_new = stamps != stamps_now.loaded && stamps == stamps_now.seen;
            stamps_now.seen = stamps;
            is_new
        };
        if is_new {
            self.reload();
        }
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |file: &PathBuf| std::fs::metadata(file).ok().map(|found| stamp(&found));
    files.iter().map(stamp).collect()
}

fn stamp(found: &Metadata) -> Stamp {
    #[cfg(unix)]
    let inode = {
        use std::os::unix::fs::MetadataExt as _;
        (found.ino(), found.ctime(), found.ctime_nsec())
    };
    #[cfg(not(unix))]
    let inode = (0, 0, 0);
    Stamp {
        modified: found.modified().ok(),
        length: found.len(),
        inode,
    }
}
