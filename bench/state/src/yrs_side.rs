//! yrs: one map in one document, in memory.

use anyhow::Result;
use yrs::updates::decoder::Decode as _;
use yrs::updates::encoder::Encode as _;
use yrs::{Doc, Map as _, MapRef, Out, ReadTxn as _, StateVector, Transact as _, Update};

use crate::Side;

pub(crate) struct Yrs {
    doc: Doc,
    map: MapRef,
}

impl Side for Yrs {
    const NAME: &'static str = "yrs";

    fn new(node: u8) -> Result<Self> {
        let doc = Doc::with_client_id(u64::from(node));
        let map = doc.get_or_insert_map("all");
        Ok(Self { doc, map })
    }

    fn write(&mut self, pairs: &[(String, String)]) -> Result<()> {
        let mut transaction = self.doc.transact_mut();
        for (key, value) in pairs {
            self.map
                .insert(&mut transaction, key.as_str(), value.as_str());
        }
        Ok(())
    }

    fn delete(&mut self, pairs: &[(String, String)]) -> Result<()> {
        let mut transaction = self.doc.transact_mut();
        for (key, _) in pairs {
            self.map.remove(&mut transaction, key);
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Option<String>> {
        let transaction = self.doc.transact();
        Ok(match self.map.get(&transaction, key) {
            Some(Out::Any(yrs::Any::String(text))) => Some(text.to_string()),
            _ => None,
        })
    }

    fn save(&mut self) -> Result<Vec<u8>> {
        let transaction = self.doc.transact();
        Ok(transaction.encode_state_as_update_v1(&StateVector::default()))
    }

    fn load(bytes: &[u8]) -> Result<Self> {
        let mut side = Self::new(2)?;
        side.take(bytes)?;
        Ok(side)
    }

    fn mark(&mut self) -> Result<Vec<u8>> {
        Ok(self.doc.transact().state_vector().encode_v1())
    }

    fn since(&mut self, mark: &[u8]) -> Result<Vec<u8>> {
        let known = StateVector::decode_v1(mark)?;
        Ok(self.doc.transact().encode_state_as_update_v1(&known))
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.doc
            .transact_mut()
            .apply_update(Update::decode_v1(bytes)?)?;
        Ok(())
    }
}
