//! One manager for each name in a process, for those who cannot hand it around.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::manager::{Manager, Options};

static SHARED: Mutex<BTreeMap<String, Manager>> = Mutex::new(BTreeMap::new());

impl Manager {
    /// The manager of this name, opened at the first call, and anew once it was closed. Other calls
    /// get the same one, whatever options they name.
    ///
    /// # Errors
    /// It could not be opened.
    pub fn shared(name: &str, options: impl FnOnce() -> Options) -> Result<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manager) = shared.get(name).filter(|manager| !manager.is_closed()) {
            return Ok(manager.clone());
        }
        let manager = Self::open(options())?;
        shared.insert(name.to_owned(), manager.clone());
        Ok(manager)
    }

    /// Closes the manager of this name and forgets it. Whether there was one.
    pub fn reset_shared(name: &str) -> bool {
        let manager = SHARED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        manager.inspect(Self::close).is_some()
    }
}
