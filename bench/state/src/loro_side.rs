//! Loro: one map in one document, in memory.

use anyhow::Result;
use loro::{ExportMode, LoroDoc, LoroValue, ValueOrContainer, VersionVector};

use crate::Side;

pub(crate) struct Loro(LoroDoc);

impl Side for Loro {
    const NAME: &'static str = "Loro";

    fn new(node: u8) -> Result<Self> {
        let doc = LoroDoc::new();
        doc.set_peer_id(u64::from(node))?;
        Ok(Self(doc))
    }

    fn write(&mut self, pairs: &[(String, String)]) -> Result<()> {
        let map = self.0.get_map("all");
        for (key, value) in pairs {
            map.insert(key, value.as_str())?;
        }
        self.0.commit();
        Ok(())
    }

    fn delete(&mut self, pairs: &[(String, String)]) -> Result<()> {
        let map = self.0.get_map("all");
        for (key, _) in pairs {
            map.delete(key)?;
        }
        self.0.commit();
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(match self.0.get_map("all").get(key) {
            Some(ValueOrContainer::Value(LoroValue::String(text))) => Some(text.to_string()),
            _ => None,
        })
    }

    fn save(&mut self) -> Result<Vec<u8>> {
        Ok(self.0.export(ExportMode::Snapshot)?)
    }

    fn load(bytes: &[u8]) -> Result<Self> {
        let side = Self::new(2)?;
        side.0.import(bytes)?;
        Ok(side)
    }

    fn mark(&mut self) -> Result<Vec<u8>> {
        Ok(self.0.oplog_vv().encode())
    }

    fn since(&mut self, mark: &[u8]) -> Result<Vec<u8>> {
        let known = VersionVector::decode(mark)?;
        Ok(self.0.export(ExportMode::updates(&known))?)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.import(bytes)?;
        Ok(())
    }
}
