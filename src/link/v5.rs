//! MQTT 5 in the words of `link/mqtt.rs`.

use std::time::Duration;

use rumqttc::v5::mqttbytes::Error as BytesError;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAckProperties, ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, Packet,
    PubAckReason, Publish, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, MqttOptions, StateError};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};

use super::mqtt::{
    ACKNOWLEDGEMENTS_MAX, Client, Connection, Content, Event, Gone, Lost, Message,
    NETWORK_TIMEOUT_SECONDS, Options, Qos, Refusal, Role,
};
use super::terms::Terms;
use super::v4;
use crate::time::Span;

pub(super) fn open(options: Options) -> (Client, Connection) {
    let mut settings = MqttOptions::new(options.client_id, options.host, options.port);
    settings.set_keep_alive(Duration::from_secs(options.keep_alive.as_seconds() as u64));
    settings.set_connection_timeout(NETWORK_TIMEOUT_SECONDS);
    if let Some((user, password)) = options.credentials {
        settings.set_credentials(user, password);
    }
    if let Some(tls) = options.tls {
        settings.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    let mut properties = ConnectProperties::new();
    let queue = match options.role {
        Role::Subscriber { packet_max } => {
            settings.set_clean_start(options.clean);
            settings.set_manual_acks(true);
            settings.set_outgoing_inflight_upper_limit(16);
            properties.receive_maximum = Some(options.in_flight);
            properties.max_packet_size = Some(packet_max);
            let seconds = options.session_expiry.as_seconds().min(f64::from(u32::MAX));
            properties.session_expiry_interval = Some(seconds as u32);
            ACKNOWLEDGEMENTS_MAX
        }
        Role::Publisher { window } => {
            settings.set_clean_start(true);
            // Without a limit rumqttc keeps 65,536 slots (13 MiB) for each client.
            settings.set_outgoing_inflight_upper_limit(1000);
            properties.max_packet_size = Some(1 << 20);
            usize::from(window)
        }
    };
    settings.set_connect_properties(properties);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    settings.set_network_options(network);
    let (client, events) = AsyncClient::new(settings, queue);
    (Client::V5(client), Connection::V5(Box::new(events)))
}

pub(super) fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::Zero => QoS::AtMostOnce,
        Qos::One => QoS::AtLeastOnce,
    }
}

pub(super) fn acknowledge(client: &AsyncClient, id: u16) -> Result<(), Gone> {
    // The packet id is all that an acknowledgement carries.
    let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new(), None);
    publish.pkid = id;
    client.try_ack(&publish).map_err(|_| Gone)
}

pub(super) async fn publish_content(
    client: &AsyncClient,
    topic: &str,
    payload: bytes::Bytes,
    content: Content,
) -> Result<(), Gone> {
    let properties = PublishProperties {
        content_type: Some(content.media),
        user_properties: content.user,
        ..PublishProperties::default()
    };
    let (qos, retain) = (QoS::AtLeastOnce, false);
    let asked = client.publish_bytes_with_properties(topic, qos, retain, payload, properties);
    asked.await.map_err(|_| Gone)
}

pub(super) async fn subscribe(client: &AsyncClient, filters: &[String]) -> Result<(), Gone> {
    let filters = filters.iter().map(|filter| Filter::new(filter.clone(), QoS::AtLeastOnce));
    client.subscribe_many(filters).await.map_err(|_| Gone)
}

pub(super) fn event(event: rumqttc::v5::Event) -> Event {
    match event {
        rumqttc::v5::Event::Incoming(packet) => match packet {
            Packet::ConnAck(ack) => Event::Connected {
                session_present: ack.session_present,
                terms: ack.properties.map_or_else(Terms::default, |p| terms(&p)),
            },
            Packet::Publish(publish) => Event::Message(Message {
                topic: String::from_utf8(publish.topic.to_vec())
                    .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
                payload: publish.payload,
                qos: publish.qos as u8,
                id: publish.pkid,
                retained: publish.retain,
            }),
            Packet::SubAck(ack) => {
                Event::Subscribed(ack.return_codes.into_iter().map(granted).collect())
            }
            Packet::PubAck(ack) => Event::Acknowledged(ack.pkid, taken(ack.reason)),
            _ => Event::Other,
        },
        rumqttc::v5::Event::Outgoing(outgoing) => v4::sent(&outgoing),
    }
}

fn terms(properties: &ConnAckProperties) -> Terms {
    let seconds = |seconds: u32| Span::seconds(i64::from(seconds));
    Terms {
        session_expiry: properties.session_expiry_interval.map(seconds),
        qos_max: properties.max_qos,
        packet_max: properties.max_packet_size,
        receive_max: properties.receive_max,
    }
}

fn granted(code: SubscribeReasonCode) -> Result<u8, String> {
    Err(match code {
        SubscribeReasonCode::Success(qos) => return Ok(qos as u8),
        SubscribeReasonCode::NotAuthorized => "not authorized",
        SubscribeReasonCode::TopicFilterInvalid => "the broker calls the filter invalid",
        SubscribeReasonCode::QuotaExceeded => "the broker's quota is used up",
        SubscribeReasonCode::SharedSubscriptionsNotSupported => {
            "the broker has no shared subscriptions"
        }
        SubscribeReasonCode::WildcardSubscriptionsNotSupported => "the broker has no wildcards",
        _ => "refused",
    }
    .to_owned())
}

// A reason of 0x80 and above means that the broker does not have the message, though rumqttc only logs it.
fn taken(reason: PubAckReason) -> Result<(), Refusal> {
    let (reason, about_message) = match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => return Ok(()),
        PubAckReason::TopicNameInvalid => ("the broker does not take this topic", true),
        PubAckReason::PayloadFormatInvalid => ("the broker does not take this payload", true),
        PubAckReason::NotAuthorized => ("not authorized to publish on this topic", false),
        PubAckReason::QuotaExceeded => ("the broker's quota is used up", false),
        PubAckReason::PacketIdentifierInUse => ("packet id in use", false),
        PubAckReason::UnspecifiedError | PubAckReason::ImplementationSpecificError => {
            ("the broker gave no reason", false)
        }
    };
    Err(Refusal { reason: reason.to_owned(), about_message })
}

pub(super) fn lost(error: &ConnectionError) -> Lost {
    match error {
        ConnectionError::ConnectionRefused(code) => Lost::Refused(match code {
            ConnectReturnCode::BadUserNamePassword => "wrong user name or password".into(),
            ConnectReturnCode::NotAuthorized => {
                "not authorized (check `user`, `password` and the broker's access list)".into()
            }
            ConnectReturnCode::ClientIdentifierNotValid | ConnectReturnCode::BadClientId => {
                "it does not take this client id".into()
            }
            ConnectReturnCode::UnsupportedProtocolVersion
            | ConnectReturnCode::RefusedProtocolVersion => {
                "it does not speak MQTT 5 (try version = \"3.1.1\")".into()
            }
            other => format!("{other:?}"),
        }),
        ConnectionError::MqttState(error) => lost_state(error),
        ConnectionError::Timeout(_) => {
            Lost::Broken(format!("no answer within {NETWORK_TIMEOUT_SECONDS} s"))
        }
        ConnectionError::Io(error) if v4::is_closed(error) => Lost::Closed(error.to_string()),
        ConnectionError::Io(error) => Lost::Broken(error.to_string()),
        other => Lost::Broken(other.to_string()),
    }
}

fn lost_state(error: &StateError) -> Lost {
    match error {
        StateError::IncomingPacketTooLarge { pkt_size, .. }
        | StateError::Deserialization(BytesError::PayloadSizeLimitExceeded { pkt_size, .. }) => {
            Lost::TooLarge { size: *pkt_size }
        }
        StateError::OutgoingPacketTooLarge { pkt_size, max }
        | StateError::Deserialization(BytesError::OutgoingPacketTooLarge { pkt_size, max }) => {
            Lost::OursTooLarge(format!("{pkt_size} bytes; it takes {max}"))
        }
        StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        } => Lost::TakenOver,
        StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::PacketTooLarge,
            reason_string,
        } => {
            Lost::OursTooLarge(reason_string.clone().unwrap_or_else(|| "it did not say how".into()))
        }
        StateError::ServerDisconnect { reason_code, reason_string } => Lost::Closed(format!(
            "the broker ended the connection: {reason_code:?} {}",
            reason_string.as_deref().unwrap_or_default()
        )),
        StateError::ConnectionAborted => Lost::Closed("the broker closed the connection".into()),
        StateError::Io(error) if v4::is_closed(error) => Lost::Closed(error.to_string()),
        // An acknowledgement with a reason that rumqttc does not know, such as `packet too large`.
        StateError::Deserialization(error) => Lost::Closed(error.to_string()),
        StateError::AwaitPingResp => Lost::Broken("the broker does not answer any more".into()),
        other => Lost::Broken(other.to_string()),
    }
}
