//! A drill of the repository in a store, by whoever reaches the store: its receipt lies beside the log that
//! vouches for it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use statehold_core::environment::{Clock, Entropy};
use statehold_core::id::MachineId;
use statehold_core::record::RecordRef;

use super::receipt::Receipt;
use super::{Drill, Replica, vouch};
use crate::error::{Error, Result};
use crate::remote::Remote;
use crate::repository::Repository;
use crate::store::Store;
use crate::verify::Watch;

/// Makes drills of repositories in stores.
pub struct Driller<'a> {
    /// The folder in which scratch space is made.
    pub scratch: &'a Path,
    /// Draws the random record; drawn itself where there is none.
    pub seed: Option<u64>,
    /// Tells when a drill is made.
    pub clock: Arc<dyn Clock>,
    /// Where chance comes from.
    pub entropy: Arc<dyn Entropy>,
    /// Is told how far it is.
    pub watch: &'a dyn Watch,
    /// Who appends the note; nobody where the store is not to be written to.
    pub machine: Option<MachineId>,
}

impl fmt::Debug for Driller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driller")
            .field("scratch", &self.scratch)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// A drill that was made.
#[derive(Debug)]
pub struct Drilled {
    /// What it came to.
    pub receipt: Receipt,
    /// The key of the receipt in the store.
    pub key: Option<String>,
    /// The note that vouches for the receipt.
    pub note: Option<RecordRef>,
    /// Why the receipt could not be kept, or the note not appended.
    pub unkept: Option<Error>,
}

/// A store, and where it is, for people.
pub type Named<'a> = (&'a Store, &'a str);

impl Driller<'_> {
    /// Makes a drill of the repository in a store, and in the store that it is copied to. `None` where
    /// there is no repository yet, or nothing in it.
    pub async fn drill(
        &self,
        (store, at): Named<'_>,
        replica: Option<Named<'_>>,
    ) -> Result<Option<Drilled>> {
        let Some(primary) = self.open(store).await? else {
            return Ok(None);
        };
        let copy = match replica {
            Some((store, _)) => self.open(store).await?,
            None => None,
        };
        let drill = Drill {
            primary: &primary,
            at,
            replica: replica.map(|(_, at)| Replica {
                remote: copy.as_ref().map(|copy| copy as &dyn Remote),
                at,
            }),
            scratch: self.scratch,
            seed: self.seed.unwrap_or_else(|| random_seed(&*self.entropy)),
            clock: &*self.clock,
            watch: self.watch,
        };
        let receipt = drill.run().await?;
        if receipt.restores.is_empty() {
            return Ok(None);
        }
        let mut drilled = Drilled {
            receipt,
            key: None,
            note: None,
            unkept: None,
        };
        if let Some(machine) = self.machine
            && let Err(error) = self.keep(store, &primary, machine, &mut drilled).await
        {
            drilled.unkept = Some(error);
        }
        Ok(Some(drilled))
    }

    async fn open(&self, store: &Store) -> Result<Option<Repository>> {
        let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
        Repository::open_existing(store.clone(), clock, entropy).await
    }

    /// The receipt first, so that no note vouches for what is not there.
    async fn keep(
        &self,
        store: &Store,
        primary: &Repository,
        machine: MachineId,
        drilled: &mut Drilled,
    ) -> Result<()> {
        drilled.key = Some(drilled.receipt.keep(store).await?);
        let note = vouch(primary, &drilled.receipt, machine, &*self.entropy);
        drilled.note = Some(note.await?);
        Ok(())
    }
}

/// A seed for one drill.
pub fn random_seed(entropy: &dyn Entropy) -> u64 {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    u64::from_be_bytes(bytes)
}
