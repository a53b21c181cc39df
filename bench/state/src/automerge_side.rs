//! Automerge: one map in one document, in memory.

use anyhow::{Context as _, Result};
use automerge::transaction::Transactable as _;
use automerge::{ActorId, AutoCommit, ChangeHash, ObjId, ObjType, ROOT, ReadDoc as _};

use crate::Side;

pub(crate) struct Automerge {
    doc: AutoCommit,
    map: Option<ObjId>,
}

impl Automerge {
    fn map(&mut self) -> Result<ObjId> {
        if self.map.is_none() {
            self.map = Some(match self.doc.get(ROOT, "all")? {
                Some((_, map)) => map,
                None => self.doc.put_object(ROOT, "all", ObjType::Map)?,
            });
        }
        self.map.clone().context("no map")
    }
}

impl Side for Automerge {
    const NAME: &'static str = "Automerge";

    fn new(node: u8) -> Result<Self> {
        let doc = AutoCommit::new().with_actor(ActorId::from([node; 16]));
        Ok(Self { doc, map: None })
    }

    fn write(&mut self, pairs: &[(String, String)]) -> Result<()> {
        let map = self.map()?;
        for (key, value) in pairs {
            self.doc.put(&map, key.as_str(), value.as_str())?;
        }
        self.doc.commit();
        Ok(())
    }

    fn delete(&mut self, pairs: &[(String, String)]) -> Result<()> {
        let map = self.map()?;
        for (key, _) in pairs {
            self.doc.delete(&map, key.as_str())?;
        }
        self.doc.commit();
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Option<String>> {
        let map = match &self.map {
            Some(map) => map.clone(),
            None => self.doc.get(ROOT, "all")?.context("no map")?.1,
        };
        let value = self.doc.get(map, key)?;
        Ok(value.and_then(|(value, _)| value.as_str().map(ToOwned::to_owned)))
    }

    fn save(&mut self) -> Result<Vec<u8>> {
        Ok(self.doc.save())
    }

    fn load(bytes: &[u8]) -> Result<Self> {
        let doc = AutoCommit::load(bytes)?.with_actor(ActorId::from([2; 16]));
        Ok(Self { doc, map: None })
    }

    fn mark(&mut self) -> Result<Vec<u8>> {
        let heads = self.doc.get_heads();
        Ok(heads.iter().flat_map(|head| head.0).collect())
    }

    fn since(&mut self, mark: &[u8]) -> Result<Vec<u8>> {
        // What both know, if the other one knows something that this one does not.
        let heads: Vec<ChangeHash> = mark
            .chunks_exact(32)
            .filter_map(|head| ChangeHash::try_from(head).ok())
            .filter(|head| self.doc.get_change_by_hash(head).is_some())
            .collect();
        Ok(self.doc.save_after(&heads))
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.doc.load_incremental(bytes)?;
        Ok(())
    }
}
