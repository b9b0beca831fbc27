//! The link is down when it says so; the publisher's totals are what a broker got.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use forebay::config::MqttVersion;
use forebay::demo::DemoError;
use forebay::demo::fault::FaultPlan;
use forebay::demo::link::{Link, LinkOptions, Outage, Weather};
use forebay::demo::load::{self, LoadOptions, Subscriber};
use forebay::demo::mosquitto::Mosquitto;
use forebay::demo::plant::{Plant, PlantOptions};
use forebay::demo::ports::free_port;
use forebay::demo::publisher::{Pace, publish};
use forebay::demo::sender::{Sender, SenderOptions, broker_address};
use forebay::demo::telemetry::{Dirt, Telemetry, Totals};
use forebay::time::{Span, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that sends back what it gets.
async fn echo(stop: CancellationToken) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    }));
    addr
}

/// Whether a fresh connection carries a word there and back.
async fn works(addr: SocketAddr) -> bool {
    let talk = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(b"hello").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer == *b"hello")
    };
    tokio::time::timeout(PATIENCE, talk)
        .await
        .expect("neither an answer nor an error")
        .unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_during_an_outage_fails() {
    let stop = CancellationToken::new();
    let target = echo(stop.clone()).await;
    let link = Link::start(LinkOptions::to(target), stop.clone()).await.unwrap();
    assert!(works(link.addr()).await);
    for outage in 1..=3 {
        let mut open = TcpStream::connect(link.addr()).await.unwrap();
        open.write_all(b"x").await.unwrap();
        assert_eq!(open.read_u8().await.unwrap(), b'x');
        link.set_up(false).await;
        let ended = tokio::time::timeout(PATIENCE, open.read_u8()).await;
        assert!(ended.expect("an open connection must be cut").is_err());
        for _ in 0..20 {
            assert!(!works(link.addr()).await);
        }
        link.set_up(true).await;
        assert!(works(link.addr()).await);
        assert_eq!(link.state().outages, outage);
    }
    let state = link.state();
    assert_eq!((state.refused, state.carried), (60, 7));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_is_kept_and_the_port_stays() {
    let stop = CancellationToken::new();
    let target = echo(stop.clone()).await;
    let outages = vec![
        Outage { after: Span::millis(100), lasts: Span::millis(150) },
        Outage { after: Span::millis(400), lasts: Span::millis(100) },
    ];
    let options = LinkOptions { outages, ..LinkOptions::to(target) };
    let link = Link::start(options, stop.clone()).await.unwrap();
    let mut state = link.watch();
    for (up, outages) in [(false, 1), (true, 1), (false, 2), (true, 2)] {
        let reached = state.wait_for(|s| s.up == up && s.outages == outages);
        tokio::time::timeout(PATIENCE, reached).await.expect("the schedule is kept").unwrap();
    }
    assert!(works(link.addr()).await);
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_away_is_said_and_not_hung_on() {
    let stop = CancellationToken::new();
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let link = Link::start(LinkOptions::to(free), stop.clone()).await.unwrap();
    assert!(!works(link.addr()).await);
    let mut state = link.watch();
    let told = state.wait_for(|state| state.unreachable == 1);
    tokio::time::timeout(PATIENCE, told).await.expect("it is counted").unwrap();
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_link_swallows_comes_later_or_never() {
    let stop = CancellationToken::new();
    let target = echo(stop.clone()).await;
    let link = Link::start(LinkOptions::to(target), stop.clone()).await.unwrap();
    let silent = [
        Weather { silent_there: true, ..Weather::default() },
        Weather { silent_back: true, ..Weather::default() },
    ];
    for weather in silent {
        let mut open = TcpStream::connect(link.addr()).await.unwrap();
        link.set_weather(weather);
        open.write_all(b"a").await.unwrap();
        // Nothing comes for a while; there is no moment at which that would be certain.
        let early = tokio::time::timeout(Duration::from_millis(50), open.read_u8()).await;
        assert!(early.is_err(), "{weather:?}: {early:?}");
        link.set_weather(Weather::default());
        let late = tokio::time::timeout(PATIENCE, open.read_u8()).await;
        assert_eq!(late.expect("it comes in the end").unwrap(), b'a');
        // The same again, but the connection is forgotten on the way.
        link.set_weather(weather);
        open.write_all(b"b").await.unwrap();
        link.cut().await;
        let ended = tokio::time::timeout(PATIENCE, open.read_u8()).await;
        assert!(ended.expect("a cut connection ends").is_err());
        link.set_weather(Weather::default());
        assert!(works(link.addr()).await, "new ones are carried");
    }
    stop.cancel();
}

#[test]
fn only_plain_brokers_are_taken() {
    assert_eq!(broker_address("mqtt://127.0.0.1:1884").unwrap(), ("127.0.0.1".into(), 1884));
    assert_eq!(broker_address("mqtt://broker").unwrap(), ("broker".into(), 1883));
    assert_eq!(broker_address("mqtt://[::1]:1").unwrap(), ("::1".into(), 1));
    for wrong in ["", "mqtt://", "mqtts://a:1", "http://a:1", "mqtt://a:port", "mqtt://a:99999"] {
        let error = broker_address(wrong).unwrap_err().to_string();
        assert!(error.contains("write mqtt://host:port"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_an_error_in_time() {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let options =
            SenderOptions { give_up: Duration::from_millis(300), ..sender(free, version) };
        let error =
            tokio::time::timeout(PATIENCE, Sender::connect(options)).await.unwrap().unwrap_err();
        assert!(matches!(error, DemoError::Broker { .. }), "{error}");
    }
}

fn sender(broker: SocketAddr, version: MqttVersion) -> SenderOptions {
    SenderOptions {
        url: format!("mqtt://{broker}"),
        version,
        client_id: "plant".into(),
        window: 50,
        give_up: PATIENCE,
    }
}

/// A small broker of the test's own: takes MQTT 3.1.1, acknowledges QoS 1, keeps what it got.
async fn broker(stop: CancellationToken) -> (SocketAddr, watch::Receiver<Vec<(String, Vec<u8>)>>) {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tx, got) = watch::channel(Vec::new());
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, tx.clone()));
        }
    }));
    (addr, got)
}

async fn serve(
    mut stream: TcpStream,
    got: watch::Sender<Vec<(String, Vec<u8>)>>,
) -> std::io::Result<()> {
    loop {
        let kind = stream.read_u8().await?;
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = stream.read_u8().await?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        match kind >> 4 {
            1 => stream.write_all(&[0x20, 2, 0, 0]).await?,
            3 => {
                let end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = String::from_utf8(body[2..end].to_vec()).unwrap();
                got.send_modify(|all| all.push((topic, body[end + 2..].to_vec())));
                stream.write_all(&[0x40, 2, body[end], body[end + 1]]).await?;
            }
            12 => stream.write_all(&[0xd0, 0]).await?,
            14 => return Ok(()),
            other => panic!("a publisher does not send packets of type {other}"),
        }
    }
}

fn telemetry(length: Span) -> (Telemetry, Pace) {
    let faults = FaultPlan::schedule(length, 12, 1);
    let plant = Plant::new(PlantOptions { seed: 1, pumps: 12, faults });
    let start = Timestamp(1_700_000_000_000_000);
    let pace = Pace { speed: 1000.0, start, length };
    (Telemetry::new(plant, 12, start, Dirt::default(), 1), pace)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_totals_are_what_the_broker_got() {
    let stop = CancellationToken::new();
    let (addr, got) = broker(stop.clone()).await;
    let (telemetry, pace) = telemetry(Span::seconds(60));
    let mut expected = Vec::new();
    let mut same = telemetry.clone();
    while same.plant().elapsed() < pace.length {
        same.step(&mut expected);
    }
    same.finish(&mut expected);
    let (live, seen) = watch::channel(Totals::default());
    let run = publish(telemetry, pace, sender(addr, MqttVersion::V311), live, stop.clone());
    let published = tokio::time::timeout(3 * PATIENCE, run).await.unwrap().unwrap();
    let got = got.borrow().clone();
    assert_eq!(published.resent, 0);
    assert_eq!(published.totals, same.totals());
    assert_eq!(*seen.borrow(), published.totals);
    let expected: Vec<_> = expected.into_iter().map(|m| (m.topic, m.payload)).collect();
    assert!(got == expected, "{} of {} messages came", got.len(), expected.len());
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_loses_no_message_and_repeats_are_counted() {
    let stop = CancellationToken::new();
    let (addr, got) = broker(stop.clone()).await;
    let link = Link::start(LinkOptions::to(addr), stop.clone()).await.unwrap();
    let mut sender = Sender::connect(sender(link.addr(), MqttVersion::V311)).await.unwrap();
    let mut expected = Vec::new();
    for number in 0..600_u32 {
        if number % 150 == 75 {
            link.set_up(false).await;
            link.set_up(true).await;
        }
        let payload = number.to_string().into_bytes();
        expected.push(payload.clone());
        tokio::time::timeout(PATIENCE, sender.send("t".into(), payload.into()))
            .await
            .unwrap()
            .unwrap();
    }
    tokio::time::timeout(PATIENCE, sender.drain()).await.unwrap().unwrap();
    assert_eq!(sender.acked(), 600);
    let resent = sender.resent();
    sender.close().await.unwrap();
    let got: Vec<Vec<u8>> = got.borrow().iter().map(|(_, payload)| payload.clone()).collect();
    assert!(resent > 0 && got.len() as u64 <= 600 + resent, "{} came, {resent} repeats", got.len());
    let mut once = Vec::new();
    for payload in got {
        if !once.contains(&payload) {
            once.push(payload);
        }
    }
    assert_eq!(once, expected);
    stop.cancel();
}

/// Where Mosquitto is not installed this says so and proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_reaches_a_bare_subscriber_through_mosquitto_whole() {
    let Some(mosquitto) = Mosquitto::start(100).unwrap() else {
        println!("mosquitto is not installed: skipped");
        return;
    };
    for version in [MqttVersion::V311, MqttVersion::V5] {
        let url = mosquitto.url();
        let subscriber = Subscriber::start(&url, version, "plant/#", 100).await.unwrap();
        let options = LoadOptions {
            sender: SenderOptions { url, ..sender(SocketAddr::from(([0; 4], 0)), version) },
            messages: 2_000,
            rate: None,
            assets: 10,
            signals: 8,
            start: Timestamp(1_700_000_000_000_000),
            every: Span::millis(100),
            lead: None,
        };
        let load = load::publish(options, CancellationToken::new()).await.unwrap();
        assert_eq!((load.messages, load.readings, load.resent), (2_000, 16_000, 0));
        let taken = subscriber.finish(2_000, PATIENCE).await;
        assert_eq!(taken.messages, 2_000, "{version:?}: {:?}", taken.failed);
    }
}
