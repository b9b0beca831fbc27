//! (being written by another; minimal)
use super::StoreError;
use crate::record::Lane;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key { pub lane: Lane, pub tick: u64, pub ordinal: u32 }
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Committed(pub u64);
#[derive(Clone, Debug, PartialEq)]
pub struct Parcel { pub lane: Lane, pub id: String, pub records: Vec<(Key, Vec<u8>)> }
#[derive(Debug)]
pub struct Acked(pub Vec<Key>);
impl Parcel { pub fn acked(&self) -> Acked { Acked(self.records.iter().map(|r| r.0).collect()) } }
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
    pub fn refuse(&mut self, parcel: &Parcel, reason: &str) -> Result<(), StoreError> {
        for (k, _) in &parcel.records { self.rows.remove(k); self.refused.push((*k, reason.into())); } Ok(())
    }
}
