//! (being written by another; minimal)
use super::StoreError;
use crate::record::Lane;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key { pub lane: Lane, pub tick: u64, pub ordinal: u32 }
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Committed(pub u64);
#[derive(Clone, Debug, PartialEq)]
pub struct Parcel { pub lane: Lane, pub id: String, records: Vec<(Key, Vec<u8>)> }
#[derive(Debug)]
pub struct Acked(pub Vec<Key>);
#[derive(Debug)]
pub struct Refused(Parcel, String);
impl Acked { pub fn len(&self) -> usize { self.0.len() } pub fn is_empty(&self) -> bool { self.0.is_empty() } }
impl Parcel {
    pub fn len(&self) -> usize { self.records.len() }
    pub fn is_empty(&self) -> bool { self.records.is_empty() }
    pub fn records(&self) -> impl Iterator<Item = (Key, &[u8])> { self.records.iter().map(|(k, l)| (*k, l.as_slice())) }
    pub fn bytes(&self) -> usize { self.records.iter().map(|r| r.1.len() + 1).sum() }
    pub fn ndjson(&self) -> Vec<u8> { let mut v = Vec::new(); for (_, l) in &self.records { v.extend_from_slice(l); v.push(b'\n'); } v }
    pub fn acked(&self) -> Acked { Acked(self.records.iter().map(|r| r.0).collect()) }
    pub fn acked_keys(&self, keys: impl IntoIterator<Item = Key>) -> Acked { Acked(keys.into_iter().collect()) }
    pub fn refused(&self, why: &str) -> Refused { Refused(self.clone(), why.into()) }
}
#[derive(Debug, Default)]
pub struct Outbox { pub rows: std::collections::BTreeMap<Key, Vec<u8>>, pub refused: Vec<(Key, String)> }
impl Outbox {
    pub fn next(&self, upto: Committed, budget: usize) -> Result<Option<Parcel>, StoreError> {
        let Some((first, _)) = self.rows.iter().next() else { return Ok(None) };
        let mut records = Vec::new(); let mut bytes = 0;
        for (k, v) in self.rows.iter().filter(|(k, _)| k.lane == first.lane && k.tick <= upto.0) {
            bytes += v.len();
            if !records.is_empty() && bytes > budget { break; }
            records.push((*k, v.clone()));
        }
        Ok(Some(Parcel { lane: first.lane, id: format!("{:?}-{}", first, records.len()), records }))
    }
    pub fn settle(&mut self, acked: Acked) -> Result<(), StoreError> { for k in acked.0 { self.rows.remove(&k); } Ok(()) }
    pub fn refuse(&mut self, refused: Refused) -> Result<(), StoreError> {
        for (k, _) in &refused.0.records { self.rows.remove(k); self.refused.push((*k, refused.1.clone())); } Ok(())
    }
}
