//! What a broker allows its clients, as far as it says so, and what that costs a node.
//!
//! `link/mqtt.rs` hands it on with the connection, `ingest/mqtt.rs` tells it once, `feed/mqtt.rs` keeps to it. A broker of
//! MQTT 3.1.1 says nothing; then nothing is known here.

use crate::time::Span;

/// A packet of ours hardly gets larger than this.
const PACKET_COMMON: u32 = 64 << 10;
/// The feed has so many publishes on the way.
const PUBLISHES_COMMON: u16 = 64;

/// A broker's terms (MQTT 5); `None` where it sets none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long it keeps the session of a client that is away, where that is not what was asked for.
    pub session_expiry: Option<Span>,
    /// The highest QoS that it knows.
    pub qos_max: Option<u8>,
    /// The largest packet that it takes, in bytes.
    pub packet_max: Option<u32>,
    /// How many publishes it takes before it has acknowledged the first.
    pub receive_max: Option<u16>,
}

impl Terms {
    /// What they cost a node that asks for `session_expiry`, in sentences for its operator.
    pub fn costs(&self, session_expiry: Span) -> Vec<String> {
        let kept = self.session_expiry.filter(|kept| *kept < session_expiry).map(|kept| {
            format!(
                "it keeps this node's session for {kept}, not for `mqtt.session_expiry` ({session_expiry}): after a \
                 longer absence, what it held for the node is lost"
            )
        });
        let qos = self.qos_max.filter(|max| *max == 0).map(|_| {
            "it knows QoS 0 only: what comes while the node is away or behind is lost".to_owned()
        });
        let packet = self.packet_max.filter(|max| *max < PACKET_COMMON).map(|max| {
            format!(
                "it takes packets up to {max} bytes: larger scores and alarms are not shown there"
            )
        });
        let receive = self.receive_max.filter(|max| *max < PUBLISHES_COMMON).map(|max| {
            format!("it takes {max} publishes before it acknowledges one: alarms go out no faster")
        });
        [kept, qos, packet, receive].into_iter().flatten().collect()
    }

    /// Whether it takes a publish of this topic and payload.
    pub fn takes(&self, topic: &str, payload: &[u8]) -> bool {
        // A header, a length, a packet id, no properties: with 16 bytes more it is never too much.
        let size = topic.len() + payload.len() + 16;
        self.packet_max.is_none_or(|max| size <= max as usize)
    }
}
