//! The work that everybody does: a 200-byte JSON command of five fields.

use bytes::Bytes;
use outboard::{Command, core::NewMessage};
use serde::{Deserialize, Serialize};

/// How long each payload is.
pub(crate) const PAYLOAD_BYTES: usize = 200;

/// The command's type.
pub(crate) const KIND: &str = Order::NAME;

/// How many different payloads there are; they are made before the clock runs.
const VARIANTS: u64 = 1_024;

/// The command. Decoding it reads every field.
#[derive(Debug, Clone, Command, Serialize, Deserialize)]
#[command(name = "bench/order")]
pub(crate) struct Order {
    pub(crate) order_id: u64,
    customer: String,
    amount_cents: i64,
    currency: String,
    note: String,
}

impl Order {
    pub(crate) fn new(order_id: u64) -> Self {
        let mut order = Self {
            order_id,
            customer: format!("customer-{:05}", order_id % 10_007),
            amount_cents: 1_999,
            currency: "EUR".to_owned(),
            note: String::new(),
        };
        let missing = PAYLOAD_BYTES.saturating_sub(order.json().len());
        order.note = "please ring twice ".chars().cycle().take(missing).collect();
        order
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings can be written as JSON")
    }

    /// Something that depends on every field, so that no decoder can leave one out.
    pub(crate) fn weight(&self) -> u64 {
        let texts = self.customer.len() + self.currency.len() + self.note.len();
        self.order_id ^ self.amount_cents.unsigned_abs() ^ texts as u64
    }
}

/// Payloads made in advance: what is measured is the log, not the writing of JSON.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    kind: std::sync::Arc<str>,
    payloads: Vec<Bytes>,
    next: usize,
}

impl Orders {
    pub(crate) fn of_kind(kind: &str) -> Self {
        let payloads = (0..VARIANTS).map(|id| Order::new(id).json().into()).collect();
        Self { kind: kind.into(), payloads, next: 0 }
    }

    /// The same orders as something else makes payloads of them.
    pub(crate) fn wrapped(mut self, wrap: impl Fn(&Bytes) -> Bytes) -> Self {
        self.payloads.iter_mut().for_each(|payload| *payload = wrap(payload));
        self
    }

    pub(crate) fn payload(&mut self) -> Bytes {
        self.next = (self.next + 1) % self.payloads.len();
        self.payloads[self.next].clone()
    }

    pub(crate) fn message(&mut self) -> NewMessage {
        let payload = self.payload();
        NewMessage::new(self.kind.clone(), payload)
    }

    pub(crate) fn batch(&mut self, size: usize) -> Vec<NewMessage> {
        (0..size).map(|_| self.message()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_has_the_promised_length_and_decodes() {
        let mut orders = Orders::of_kind(KIND);
        for message in orders.batch(VARIANTS as usize) {
            assert_eq!(message.payload.len(), PAYLOAD_BYTES);
            assert!(serde_json::from_slice::<Order>(&message.payload).unwrap().weight() > 0);
        }
    }
}
