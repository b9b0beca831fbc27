//! MQTT 3.1.1 in the words of `link/mqtt.rs`.

use std::time::Duration;

use rumqttc::mqttbytes::Error as BytesError;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, MqttOptions, NetworkOptions, Outgoing, Packet,
    Publish, QoS, StateError, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};

use super::mqtt::{
    ACKNOWLEDGEMENTS_MAX, Client, Connection, Event, Gone, Lost, Message, NETWORK_TIMEOUT_SECONDS,
    Options, Qos, Role,
};
use super::terms::Terms;

pub(super) fn open(options: Options) -> (Client, Connection) {
    let mut settings = MqttOptions::new(options.client_id, options.host, options.port);
    settings.set_keep_alive(Duration::from_secs(options.keep_alive.as_seconds() as u64));
    if let Some((user, password)) = options.credentials {
        settings.set_credentials(user, password);
    }
    if let Some(tls) = options.tls {
        settings.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    let queue = match options.role {
        Role::Subscriber { packet_max } => {
            settings.set_clean_session(options.clean);
            settings.set_manual_acks(true);
            settings.set_max_packet_size(packet_max as usize, 1 << 20);
            settings.set_inflight(16);
            ACKNOWLEDGEMENTS_MAX
        }
        Role::Publisher { window } => {
            settings.set_clean_session(true);
            settings.set_max_packet_size(1 << 20, usize::MAX);
            settings.set_inflight(1000);
            usize::from(window)
        }
    };
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(NETWORK_TIMEOUT_SECONDS);
    let (client, mut events) = AsyncClient::new(settings, queue);
    events.set_network_options(network);
    (Client::V4(client), Connection::V4(Box::new(events)))
}

pub(super) fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::Zero => QoS::AtMostOnce,
        Qos::One => QoS::AtLeastOnce,
    }
}

pub(super) fn acknowledge(client: &AsyncClient, id: u16) -> Result<(), Gone> {
    // The packet id is all that an acknowledgement carries.
    let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new());
    publish.pkid = id;
    client.try_ack(&publish).map_err(|_| Gone)
}

pub(super) async fn subscribe(client: &AsyncClient, filters: &[String]) -> Result<(), Gone> {
    let filters =
        filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
    client.subscribe_many(filters).await.map_err(|_| Gone)
}

pub(super) fn event(event: rumqttc::Event) -> Event {
    match event {
        rumqttc::Event::Incoming(packet) => match packet {
            Packet::ConnAck(ack) => {
                Event::Connected { session_present: ack.session_present, terms: Terms::default() }
            }
            Packet::Publish(publish) => Event::Message(Message {
                topic: publish.topic,
                payload: publish.payload,
                qos: publish.qos as u8,
                id: publish.pkid,
                retained: publish.retain,
            }),
            Packet::SubAck(ack) => Event::Subscribed(
                ack.return_codes
                    .into_iter()
                    .map(|code| match code {
                        SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                        SubscribeReasonCode::Failure => Err("refused".to_owned()),
                    })
                    .collect(),
            ),
            Packet::PubAck(ack) => Event::Acknowledged(ack.pkid, Ok(())),
            _ => Event::Other,
        },
        rumqttc::Event::Outgoing(outgoing) => sent(&outgoing),
    }
}

pub(super) fn sent(outgoing: &Outgoing) -> Event {
    match outgoing {
        Outgoing::Publish(id) => Event::Sent(*id),
        Outgoing::AwaitAck(_) => Event::Stuck,
        Outgoing::Disconnect => Event::Closed,
        _ => Event::Other,
    }
}

/// Whether the other end has closed a connection: how a broker turns away a packet that it will not read.
pub(super) fn is_closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

pub(super) fn lost(error: &ConnectionError) -> Lost {
    match error {
        ConnectionError::ConnectionRefused(code) => Lost::Refused(
            match code {
                ConnectReturnCode::BadUserNamePassword => "wrong user name or password",
                ConnectReturnCode::NotAuthorized => {
                    "not authorized (check `user`, `password` and the broker's access list)"
                }
                ConnectReturnCode::BadClientId => "it does not take this client id",
                ConnectReturnCode::RefusedProtocolVersion => {
                    "it does not speak MQTT 3.1.1 (try version = \"5\")"
                }
                ConnectReturnCode::ServiceUnavailable => "it is not available",
                ConnectReturnCode::Success => "no reason given",
            }
            .to_owned(),
        ),
        ConnectionError::MqttState(StateError::Deserialization(
            BytesError::PayloadSizeLimitExceeded(size),
        )) => Lost::TooLarge { size: *size },
        ConnectionError::MqttState(StateError::Deserialization(
            BytesError::OutgoingPacketTooLarge { pkt_size, max },
        )) => Lost::OursTooLarge(format!("{pkt_size} bytes; it takes {max}")),
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            Lost::Closed("the broker closed the connection".into())
        }
        ConnectionError::MqttState(StateError::Io(error)) | ConnectionError::Io(error)
            if is_closed(error) =>
        {
            Lost::Closed(error.to_string())
        }
        ConnectionError::MqttState(StateError::Deserialization(error)) => {
            Lost::Closed(error.to_string())
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            Lost::Broken("the broker does not answer any more".into())
        }
        ConnectionError::NetworkTimeout => {
            Lost::Broken(format!("no answer within {NETWORK_TIMEOUT_SECONDS} s"))
        }
        ConnectionError::FlushTimeout => {
            Lost::Broken(format!("nothing could be sent for {NETWORK_TIMEOUT_SECONDS} s"))
        }
        ConnectionError::Io(error) => Lost::Broken(error.to_string()),
        other => Lost::Broken(other.to_string()),
    }
}
