//! A broker of bytes: it says to its only client exactly what a test wants, right or wrong.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use forebay::config::MqttVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::{PATIENCE, until};

/// A broker of one client at a time.
pub struct BytesBroker {
    /// The properties of its answer to a connection (MQTT 5), in bytes.
    pub properties: &'static [u8],
    /// Whether it answers pings.
    pub answers_pings: bool,
    version: MqttVersion,
    listener: TcpListener,
    connection: JoinSet<()>,
    writer: Option<Writer>,
    heard: Arc<Heard>,
}

type Writer = Arc<Mutex<OwnedWriteHalf>>;

/// What the client has said, over all connections.
#[derive(Default)]
struct Heard {
    pings: AtomicUsize,
    acknowledged: std::sync::Mutex<Vec<u16>>,
}

impl BytesBroker {
    pub async fn start(version: MqttVersion) -> BytesBroker {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        BytesBroker {
            properties: &[],
            answers_pings: true,
            version,
            listener,
            connection: JoinSet::new(),
            writer: None,
            heard: Arc::default(),
        }
    }

    pub fn url(&self) -> String {
        format!("mqtt://{}", self.listener.local_addr().unwrap())
    }

    /// Takes the client's next connection. Subscriptions are answered with `codes`; `packets` follow the first one or,
    /// where the session is said to be present, the connection.
    pub async fn accept(&mut self, session_present: bool, codes: &'static [u8], packets: Vec<u8>) {
        let accepted = tokio::time::timeout(PATIENCE, self.listener.accept()).await;
        let (mut client, _) = accepted.expect("the client connects").unwrap();
        let (head, _) = read_packet(&mut client).await.unwrap();
        assert_eq!(head >> 4, 1, "a connection starts with CONNECT");
        let present = u8::from(session_present);
        let answer = match self.version {
            MqttVersion::V311 => vec![0x20, 2, present, 0],
            MqttVersion::V5 => {
                let length = self.properties.len() as u8;
                [&[0x20, 3 + length, present, 0, length][..], self.properties].concat()
            }
        };
        client.write_all(&answer).await.unwrap();
        let (mut reader, writer) = client.into_split();
        let writer = Arc::new(Mutex::new(writer));
        self.writer = Some(Arc::clone(&writer));
        let mut packets = Some(packets);
        if session_present {
            self.connection.spawn(write(Arc::clone(&writer), packets.take().unwrap()));
        }
        let (version, answers_pings) = (self.version, self.answers_pings);
        let heard = Arc::clone(&self.heard);
        self.connection.spawn(async move {
            while let Some((head, body)) = read_packet(&mut reader).await {
                match head >> 4 {
                    4 => {
                        let id = u16::from_be_bytes([body[0], body[1]]);
                        heard.acknowledged.lock().unwrap().push(id);
                    }
                    8 => {
                        write(Arc::clone(&writer), suback(version, &body[..2], codes)).await;
                        if let Some(packets) = packets.take() {
                            tokio::spawn(write(Arc::clone(&writer), packets));
                        }
                    }
                    12 => {
                        heard.pings.fetch_add(1, Relaxed);
                        if answers_pings {
                            write(Arc::clone(&writer), vec![0xD0, 0]).await;
                        }
                    }
                    _ => {}
                }
            }
        });
    }

    /// Says something more on the connection.
    pub fn say(&self, packets: Vec<u8>) {
        tokio::spawn(write(Arc::clone(self.writer.as_ref().unwrap()), packets));
    }

    /// How often the client has asked whether it is alive.
    pub fn pings(&self) -> usize {
        self.heard.pings.load(Relaxed)
    }

    /// Ends the connection without a word.
    pub fn cut(&mut self) {
        self.connection = JoinSet::new();
        self.writer = None;
    }

    /// Waits until so many more were acknowledged; gives their packet ids in order.
    pub async fn acknowledged(&self, count: usize) -> Vec<u16> {
        let heard = || self.heard.acknowledged.lock().unwrap();
        until("all are acknowledged", || heard().len() >= count).await;
        std::mem::take(&mut *heard())
    }
}

async fn write(writer: Writer, packets: Vec<u8>) {
    // A client may leave in the middle.
    let _ = writer.lock().await.write_all(&packets).await;
}

fn suback(version: MqttVersion, id: &[u8], codes: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if version == MqttVersion::V5 { &[0] } else { &[] };
    let body = [id, properties, codes].concat();
    [&[0x90, body.len() as u8], &body[..]].concat()
}

/// The first byte of a packet, and what follows its length; `None` at the end.
async fn read_packet(client: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, Vec<u8>)> {
    let head = client.read_u8().await.ok()?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = client.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

/// A PUBLISH at QoS 1, at QoS 0 where `id` is 0; `again`: it says that it may have been sent before.
pub fn publish_packet(
    version: MqttVersion,
    id: u16,
    topic: &str,
    payload: &[u8],
    again: bool,
) -> Vec<u8> {
    let properties: &[u8] = if version == MqttVersion::V5 { &[0] } else { &[] };
    let size = (topic.len() as u16).to_be_bytes();
    let id_bytes = id.to_be_bytes();
    let id_bytes: &[u8] = if id > 0 { &id_bytes } else { &[] };
    let body = [&size[..], topic.as_bytes(), id_bytes, properties, payload].concat();
    let mut packet = vec![0x30 | u8::from(id > 0) << 1 | u8::from(again) << 3];
    let mut length = body.len();
    loop {
        let more = u8::from(length >= 0x80) << 7;
        packet.push((length & 0x7F) as u8 | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}
