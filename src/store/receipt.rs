//! Receipts: what the door holds back until the ledger has made a delivery durable.
//!
//! `ingest` pushes one [`Receipt`] a delivery, the engine loop hands them to `Ledger::commit`, and only that gives
//! them back as [`Released`]. A door that acknowledges takes `Released` and nothing else, so "acknowledged before it
//! was durable" does not compile. What a token stands for is the door's business.

/// One delivery that waits for its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which connection it came on; those of a dead connection are worthless.
    pub connection: u64,
    /// Which delivery of that connection.
    pub token: u64,
}

/// Receipts in arrival order, the order in which MQTT wants them acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Receipts(Vec<Receipt>);

impl Receipts {
    /// None yet.
    pub fn new() -> Receipts {
        Receipts::default()
    }

    /// Adds the receipt of the next delivery.
    pub fn push(&mut self, receipt: Receipt) {
        self.0.push(receipt);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In arrival order.
    pub fn iter(&self) -> impl Iterator<Item = Receipt> + '_ {
        self.0.iter().copied()
    }
}

impl IntoIterator for Receipts {
    type Item = Receipt;
    type IntoIter = std::vec::IntoIter<Receipt>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Receipts of deliveries that are durable. Only `Ledger::commit` makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct Released(Receipts);

impl Released {
    /// Called by the ledger after its flush, and by nobody else.
    pub(super) fn after_flush(receipts: Receipts) -> Released {
        Released(receipts)
    }

    /// The receipts, in arrival order.
    pub fn iter(&self) -> impl Iterator<Item = Receipt> + '_ {
        self.0.iter()
    }
}
