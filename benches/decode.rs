//! How fast messages become readings: one message of eight signals, in the shapes that devices send most.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use forebay::decode::{DecodeOptions, Decoder, Rows};
use forebay::pipeline::spec::{FormatSpec, JsonFormat, ScalarFormat};
use forebay::schema::{Schema, Signal};
use forebay::time::Timestamp;
use std::hint::black_box;

const SIGNALS: [&str; 8] =
    ["vib_x", "vib_y", "current", "pressure", "temp", "thermo", "voltage", "flow"];
const VALUES: [&str; 8] =
    ["0.0265878", "0.0401113", "1.3302", "0.054711", "79.3366", "26.0199", "233.062", "32.0"];

fn schema() -> Schema {
    let signals = SIGNALS
        .iter()
        .map(|name| Signal { name: (*name).into(), unit: "1".into(), ..Signal::default() })
        .collect();
    Schema { name: "pump".into(), description: None, signals }
}

fn decoder(topic: &str, format: &FormatSpec) -> Decoder {
    let options = DecodeOptions { message_max: 1 << 20 };
    Decoder::new("pump".into(), &[topic.into()], format, &schema(), options).expect("a format")
}

fn object(order: impl Iterator<Item = usize>) -> String {
    let fields: Vec<String> = order.map(|i| format!("\"{}\":{}", SIGNALS[i], VALUES[i])).collect();
    fields.join(",")
}

fn messages(c: &mut Criterion) {
    let flat = FormatSpec::Json(JsonFormat { time: Some("ts".into()), ..JsonFormat::default() });
    let nested = FormatSpec::Json(JsonFormat {
        time: Some("ts".into()),
        values: Some("data.values".into()),
        ..JsonFormat::default()
    });
    let named = FormatSpec::Json(JsonFormat {
        time: Some("ts".into()),
        each: Some("values".into()),
        signal: Some("id".into()),
        value: Some("v".into()),
        quality: Some("q".into()),
        ..JsonFormat::default()
    });
    let list: Vec<String> = SIGNALS
        .iter()
        .zip(VALUES)
        .map(|(name, value)| format!("{{\"id\":\"{name}\",\"v\":{value},\"q\":true}}"))
        .collect();
    let ordered = object(0..8);
    let cases = [
        ("flat", &flat, format!("{{\"ts\":1700000000123,{ordered}}}")),
        ("flat, other order", &flat, {
            format!("{{{},\"ts\":1700000000123}}", object([5, 2, 7, 0, 6, 1, 4, 3].into_iter()))
        }),
        ("flat, RFC 3339", &flat, format!("{{\"ts\":\"2026-01-02T03:04:05.678Z\",{ordered}}}")),
        ("flat, half unknown", &flat, {
            let more = "\"serial\":\"A-1723\",\"fw\":\"1.2.3\",\"rssi\":-71,\"up\":123456";
            format!("{{\"ts\":1700000000123,{more},{}}}", object(0..4))
        }),
        ("nested", &nested, {
            format!("{{\"ts\":1700000000123,\"data\":{{\"values\":{{{ordered}}}}}}}")
        }),
        ("names and values", &named, {
            format!("{{\"ts\":1700000000123,\"values\":[{}]}}", list.join(","))
        }),
    ];
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for (name, format, payload) in &cases {
        let decoder = decoder("plant/{site}/pump/{asset}/telemetry", format);
        run(&mut group, name, &decoder, payload, |i| format!("plant/north/pump/p-{i}/telemetry"));
    }
    let scalar = decoder("plant/{asset}/{signal}", &FormatSpec::Scalar(ScalarFormat::default()));
    run(&mut group, "scalar", &scalar, "79.3366", |i| format!("plant/p-{i}/temp"));
    group.finish();
}

fn run(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    decoder: &Decoder,
    payload: &str,
    topic: impl Fn(usize) -> String,
) {
    // Ticks of a thousand messages from a hundred assets.
    let topics: Vec<String> = (0..100).map(topic).collect();
    let mut rows = Rows::new("pump".into());
    let mut turn = 0usize;
    group.bench_function(name, |b| {
        b.iter(|| {
            turn += 1;
            if turn.is_multiple_of(1000) {
                black_box(rows.take());
            }
            let topic = &topics[turn % topics.len()];
            decoder
                .decode(topic, black_box(payload.as_bytes()), Timestamp(0), &mut rows)
                .expect("a message")
                .readings
        });
    });
}

criterion_group!(benches, messages);
criterion_main!(benches);
