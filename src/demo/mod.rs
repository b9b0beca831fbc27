//! The world around a node, simulated: a plant that sends, a link that goes down, a far side.
//!
//! `cli/demo` puts a real node between them; tests and `bench` use the parts. Nothing here is used by `forebay run`.

// the plant, pure
pub mod fault;
pub mod plant;
pub mod pump;
pub mod telemetry;
// its way to the broker
pub mod broker;
pub mod publisher;
pub mod sender;
// the far side, and what is seen from there
pub mod detect;
pub mod link;
pub mod sink;
// its models
pub mod train;
pub mod windows;
// what its node reads
pub mod site;
// measuring
pub mod load;
pub mod mosquitto;
pub mod ports;

/// What can go wrong in the simulated world.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The broker's address cannot be used.
    #[error("`{0}` is not a broker for the demo: write mqtt://host:port")]
    Url(String),
    /// The broker does not answer.
    #[error("no MQTT broker took a connection at {url} for {waited_s} s: {reason}; is it running?")]
    Broker {
        /// Where.
        url: String,
        /// How long it was tried.
        waited_s: u64,
        /// What the last try said.
        reason: String,
    },
    /// The broker took a message but refused it.
    #[error("the broker at {url} refused {refused} messages; look at its limits and its log")]
    Refused {
        /// Where.
        url: String,
        /// How many.
        refused: u64,
    },
    /// A port of our own cannot be opened.
    #[error("the demo's {what} cannot listen on {addr}: {source}")]
    Listen {
        /// Which part.
        what: &'static str,
        /// Where.
        addr: String,
        /// Why.
        source: std::io::Error,
    },
}
