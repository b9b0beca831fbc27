//! Laws of decoding: no payload does harm, and the order of fields says nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod common;

use forebay::decode::{DecodeOptions, Decoder, Rows};
use forebay::frame::Quality;
use forebay::pipeline::spec::{FormatSpec, JsonFormat, ScalarFormat, TimeUnit, Unknown};
use forebay::time::Timestamp;
use proptest::prelude::*;

const ARRIVAL: Timestamp = Timestamp(1_800_000_000_000_000);
const TOPIC: &str = "plant/north/pump/p-7/telemetry";

fn decoder(format: &FormatSpec) -> Decoder {
    let schema = common::pump(&[("temp", &[]), ("pressure", &[]), ("vibration_rms", &[])]);
    let topics = ["plant/{site}/pump/{asset}/telemetry".to_owned()];
    let options = DecodeOptions { message_max: 1 << 20 };
    Decoder::new("pump".into(), &topics, format, &schema, options).unwrap()
}

/// A format in which each setting is as its file would say it.
fn json(text: &str) -> FormatSpec {
    FormatSpec::Json(toml::from_str(text).unwrap())
}

fn formats() -> Vec<FormatSpec> {
    let mut formats: Vec<FormatSpec> = [
        "",
        "time = \"ts\"\nquality = \"q\"\nasset = \"id\"",
        "each = \"v\"\nsignal = \"n\"\nvalue = \"x\"\ntime = \"ts\"",
        "values = \"v\"\nvalue = \"x\"\ntime = \"ts\"\nunknown = \"reject\"",
    ]
    .into_iter()
    .map(json)
    .collect();
    formats.push(FormatSpec::Scalar(ScalarFormat { signal: Some("pressure".into()) }));
    formats
}

/// JSON made of the words that the formats above look for.
fn document() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e6..1e6f64).prop_map(Into::into),
        Just(1_700_000_000_i64.into()),
        prop::sample::select(vec!["temp", "GOOD", "21.5", "", "2026-01-02T03:04:05Z", "p-7"])
            .prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        let key = prop::sample::select(vec![
            "ts", "temp", "pressure", "v", "n", "x", "q", "id", "value", "other",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec((key, inner), 0..6).prop_map(|fields| {
                let map: serde_json::Map<String, serde_json::Value> =
                    fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
                map.into()
            }),
        ]
    })
}

proptest! {
    /// Whatever comes: no panic, whole columns, no hole left open, and an error changes nothing.
    #[test]
    fn no_payload_leaves_a_trace_but_its_readings(
        documents in prop::collection::vec(document(), 1..4),
        cut in 0usize..400,
        flip in any::<(usize, u8)>(),
    ) {
        for format in formats() {
            let decoder = decoder(&format);
            let mut rows = Rows::new("pump".into());
            let mut total = 0;
            for document in &documents {
                let whole = document.to_string().into_bytes();
                let truncated = whole[..cut.min(whole.len())].to_vec();
                let mut flipped = whole.clone();
                let at = flip.0 % flipped.len();
                flipped[at] ^= flip.1;
                for payload in [whole, truncated, flipped] {
                    let before = rows.len();
                    let result = decoder.decode(TOPIC, &payload, ARRIVAL, &mut rows);
                    let decoded = result.unwrap_or_default();
                    total += decoded.readings;
                    prop_assert_eq!(rows.len() - before, decoded.readings, "nothing on an error");
                    prop_assert_eq!(decoded.fault.is_some(), decoded.rejected > 0);
                    prop_assert!(decoded.undated <= decoded.readings);
                }
            }
            let input = rows.take();
            prop_assert_eq!(input.readings.len(), total);
            for i in 0..total {
                prop_assert!((input.readings.asset[i] as usize) < input.assets.len());
                prop_assert!(input.readings.signal[i] < 3);
                prop_assert!(input.readings.ts[i] > Timestamp::MIN);
            }
            prop_assert_eq!(total == 0, input.assets.is_empty());
        }
    }

    /// The order of fields says nothing: the same readings come of any.
    #[test]
    fn the_order_of_fields_does_not_matter(order in Just(vec![0usize, 1, 2, 3, 4]).prop_shuffle()) {
        let fields =
            [r#""ts":1700000000"#, r#""temp":1"#, r#""q":64"#, r#""id":"a""#, r#""pressure":2"#];
        let payload: Vec<&str> = order.iter().map(|&i| fields[i]).collect();
        let payload = format!("{{{}}}", payload.join(","));
        let format = FormatSpec::Json(JsonFormat {
            time: Some("ts".into()),
            unit: TimeUnit::S,
            asset: Some("id".into()),
            quality: Some("q".into()),
            unknown: Unknown::Reject,
            ..JsonFormat::default()
        });
        let mut rows = Rows::new("pump".into());
        let decoded =
            decoder(&format).decode(TOPIC, payload.as_bytes(), ARRIVAL, &mut rows).unwrap();
        let input = rows.take();
        let r = &input.readings;
        let mut readings: Vec<(&str, u16, i64, f64)> = (0..r.len())
            .map(|i| {
                let asset = input.assets[r.asset[i] as usize].id.as_str();
                (asset, r.signal[i], r.ts[i].0, r.value[i])
            })
            .collect();
        readings.sort_by_key(|reading| reading.1);
        let at = 1_700_000_000_000_000;
        prop_assert_eq!(readings, [("a", 0, at, 1.0), ("a", 1, at, 2.0)]);
        prop_assert_eq!(&r.quality[..], [Quality::Uncertain; 2]);
        prop_assert_eq!(decoded.rejected, 0);
    }
}
