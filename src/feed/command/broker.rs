//! The operators' door on the site's broker: the bodies and answers of HTTP, on topics.
//!
//! `node` hands in what was published on `forebay/NODE/commands/VERB` and carries it out in the tick that it came with,
//! so that its PUBACK follows the sync like a reading's. The answer goes out on `forebay/NODE/answers/VERB` through the
//! MQTT feed, once it is durable. Who may publish there is for the broker to say. It promises to slow nobody down: an
//! answer that the feed cannot take is dropped and counted. A command that the broker sends again is carried out again.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::http::StatusCode;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{BODY_MAX, Order, WAITING, answer_of, command, refused};
use crate::command::{Command, Refusal};
use crate::config::Config;
use crate::feed::api::Problem;
use crate::feed::mqtt::FeedCounts;
use crate::record::Now;

/// What can be asked.
const VERBS: [&str; 4] = ["ack", "shelve", "unshelve", "judge"];
/// Most bytes of what a command's sender calls it.
const ID_MAX: usize = 64;

/// An answer on its way to the broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its topic.
    pub topic: String,
    /// One JSON object.
    pub payload: Bytes,
}

/// The engine thread's end.
#[derive(Debug)]
pub struct BrokerDoor {
    /// The start of the topics; `None`: no commands come this way.
    node: Option<String>,
    orders: Vec<Order>,
    asked: Vec<Asked>,
    replies: mpsc::Sender<Reply>,
    counts: Arc<FeedCounts>,
}

/// A command whose answer is not known yet.
#[derive(Debug)]
struct Asked {
    verb: String,
    id: Option<String>,
    command: Command,
    answered: oneshot::Receiver<Result<Now, Refusal>>,
}

/// The filter under which a node's commands come.
pub fn filter(node: &str) -> String {
    format!("forebay/{node}/commands/+")
}

/// The two ends of the door, open where the config says so: for the engine thread, and for the MQTT feed.
pub fn open(config: &Config, counts: Arc<FeedCounts>) -> (BrokerDoor, mpsc::Receiver<Reply>) {
    let node = config.feed.mqtt_commands.then(|| config.node.clone());
    let (replies, answers) = mpsc::channel(WAITING);
    (BrokerDoor { node, orders: Vec::new(), asked: Vec::new(), replies, counts }, answers)
}

impl BrokerDoor {
    /// Takes a message that is a command; `None`: it is none. An error is why it cannot be read; that is answered, too.
    pub fn take(
        &mut self,
        topic: &str,
        payload: &[u8],
        retained: bool,
    ) -> Option<Result<(), String>> {
        let rest = topic.strip_prefix("forebay/")?.strip_prefix(self.node.as_deref()?)?;
        let verb = rest.strip_prefix("/commands/")?;
        let id = id_of(payload);
        match read(payload, retained, verb, self.orders.len()) {
            Ok(command) => {
                let (answer, answered) = oneshot::channel();
                self.orders.push(Order { command: command.clone(), answer });
                self.asked.push(Asked { verb: verb.to_owned(), id, command, answered });
                Some(Ok(()))
            }
            Err(problem) => {
                self.reply(verb, id, problem.told());
                Some(Err(problem.to_string()))
            }
        }
    }

    /// The commands that came with this tick, in their order.
    pub fn orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Answers what was asked: call it when the tick is durable.
    pub fn answer(&mut self) {
        for Asked { verb, id, command, mut answered } in std::mem::take(&mut self.asked) {
            let (status, told) = match answered.try_recv() {
                Ok(Ok(state)) => (StatusCode::OK, answer_of(&command, Some(state))),
                Ok(Err(refusal)) => refused(&refusal).told(),
                Err(_) => (StatusCode::ACCEPTED, answer_of(&command, None)),
            };
            self.reply(&verb, id, (status, told));
        }
    }

    fn reply(&self, verb: &str, id: Option<String>, (status, told): (StatusCode, Value)) {
        let mut fields = Map::new();
        fields.extend(id.map(|id| ("id".to_owned(), json!(id))));
        fields.insert("status".into(), json!(status.as_u16()));
        if let Value::Object(told) = told {
            fields.extend(told);
        }
        let topic = format!("forebay/{}/answers/{verb}", self.node.as_deref().unwrap_or_default());
        let payload = Bytes::from(Value::Object(fields).to_string());
        if self.replies.try_send(Reply { topic, payload }).is_err() {
            self.counts.skipped.fetch_add(1, Relaxed);
        }
    }
}

/// The command in a message, while so many wait already.
fn read(payload: &[u8], retained: bool, verb: &str, waiting: usize) -> Result<Command, Problem> {
    let bad =
        |error: String, expected: &str| Err(Problem::new(StatusCode::BAD_REQUEST, error, expected));
    if !VERBS.contains(&verb) {
        return bad(format!("`{verb}` is no command"), &VERBS.join(", "));
    }
    if retained {
        let error = "the broker had kept this command: how old it is, nobody knows";
        return bad(error.into(), "a message that is not retained");
    }
    if payload.len() > BODY_MAX {
        let expected = format!("at most {BODY_MAX} bytes of JSON");
        return bad(format!("a command of {} bytes", payload.len()), &expected);
    }
    if waiting >= WAITING {
        let (status, error) = (StatusCode::SERVICE_UNAVAILABLE, "too many commands came at once");
        return Err(Problem::new(status, error, "another try in a moment"));
    }
    command(payload, verb)
}

/// What the sender calls its command, so that it knows the answer; found in a body that is otherwise wrong, too.
fn id_of(payload: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(payload).ok().filter(|_| payload.len() <= BODY_MAX)?;
    body.get("id")?.as_str().filter(|id| id.len() <= ID_MAX).map(str::to_owned)
}
