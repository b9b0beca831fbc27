//! Decoding: every shape of payload gives the same readings, and each wrong one is refused with the fact. The laws are
//! in `decode_laws.rs`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod common;

use forebay::decode::{DecodeError, DecodeOptions, Decoded, Decoder, Rows};
use forebay::frame::{Input, Quality};
use forebay::pipeline::spec::{FormatSpec, ScalarFormat};
use forebay::schema::Schema;
use forebay::time::Timestamp;

const ARRIVAL: Timestamp = Timestamp(1_800_000_000_000_000);
const TOPIC: &str = "plant/north/pump/p-7/telemetry";

fn schema() -> Schema {
    common::pump(&[
        ("temperature", &["temp", "T"]),
        ("pressure", &[]),
        ("vibration_rms", &["vib.rms"]),
    ])
}

fn decoder(topics: &[&str], format: &FormatSpec) -> Result<Decoder, DecodeError> {
    let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
    let options = DecodeOptions { message_max: 1 << 20 };
    Decoder::new("pump".into(), &topics, format, &schema(), options)
}

/// A format in which each setting is as its file would say it.
fn json(text: &str) -> FormatSpec {
    FormatSpec::Json(toml::from_str(text).unwrap())
}

struct Outcome {
    decoded: Decoded,
    input: Input,
}

impl Outcome {
    /// (asset, signal, seconds, value), in their order.
    fn readings(&self) -> Vec<(&str, u16, f64, f64)> {
        let r = &self.input.readings;
        (0..r.len())
            .map(|i| {
                let asset = self.input.assets[r.asset[i] as usize].id.as_str();
                (asset, r.signal[i], r.ts[i].0 as f64 / 1e6, r.value[i])
            })
            .collect()
    }
}

fn decode(
    topics: &[&str],
    format: &FormatSpec,
    topic: &str,
    payload: &str,
) -> Result<Outcome, DecodeError> {
    let mut rows = Rows::new("pump".into());
    let decoded =
        decoder(topics, format).unwrap().decode(topic, payload.as_bytes(), ARRIVAL, &mut rows)?;
    Ok(Outcome { decoded, input: rows.take() })
}

const PUMP: &[&str] = &["plant/{site}/pump/{asset}/telemetry"];

fn pump(settings: &str, payload: &str) -> Outcome {
    decode(PUMP, &json(settings), TOPIC, payload)
        .unwrap_or_else(|e| panic!("{settings}\n{payload}\n{e}"))
}

fn refused(settings: &str, payload: &str) -> String {
    match decode(PUMP, &json(settings), TOPIC, payload) {
        Err(error) => error.to_string(),
        Ok(outcome) => panic!("{payload} was taken: {:?}", outcome.decoded),
    }
}

/// The same two readings in every way that is known from the field: settings, and a payload.
const SHAPES: &[(&str, &str)] = &[
    // flat; numbers as text; aliases; a time as text
    (r#"time = "ts""#, r#"{"ts":1700000000500,"temperature":21.5,"pressure":3}"#),
    (r#"time = "ts""#, r#"{"temp":"21.5","pressure":" 3 ","ts":"2023-11-14T22:13:20.5Z"}"#),
    // Telegraf
    (
        r#"time = "timestamp"
               unit = "s"
               values = "fields""#,
        r#"{"name":"m","tags":{"h":"x"},"fields":{"T":21.5,"pressure":3},"timestamp":1700000000.5}"#,
    ),
    // Telegraf in batches; the time of the whole
    (
        r#"time = "timestamp"
               each = "metrics"
               values = "fields""#,
        r#"{"metrics":[{"fields":{"temp":21.5}},{"fields":{"pressure":3}}],"timestamp":1700000000.5}"#,
    ),
    // Kepware: name and value
    (
        r#"time = "t"
               each = "values"
               signal = "id"
               value = "v"
               quality = "q"
               signals = { temperature = "Channel1.Device1.T1" }"#,
        r#"{"timestamp":1,"values":[{"id":"Channel1.Device1.T1","v":21.5,"q":true,"t":1700000000500},
               {"q":true,"v":"3","t":1700000000500,"id":"pressure"}]}"#,
    ),
    // Neuron, values and tags
    (
        r#"time = "timestamp"
               values = "values""#,
        r#"{"timestamp":1700000000500,"node":"n","values":{"temp":21.5,"pressure":3},"errors":{"x":1}}"#,
    ),
    (
        r#"time = "timestamp"
               each = "tags"
               signal = "name""#,
        r#"{"tags":[{"name":"temp","value":21.5},{"name":"pressure","value":3},{"name":"vibration_rms","value":null}],"timestamp":1700000000500}"#,
    ),
    // ThingsBoard: an array of documents
    (
        r#"time = "ts"
               unit = "ms"
               values = "values""#,
        r#"[{"ts":1700000000500,"values":{"temp":21.5}},{"values":{"pressure":3},"ts":"1700000000500"}]"#,
    ),
    // SiteWise, one level of names above the values
    (
        r#"each = "propertyValues"
               signal = "alias"
               value = "value.doubleValue"
               time = "timestamp.s"
               signals = { pressure = "/plant/p" }"#,
        r#"[{"alias":"temp","propertyValues":[{"value":{"doubleValue":21.5},"timestamp":{"s":1700000000.5}}]},
                {"propertyValues":[{"value":{"doubleValue":3},"timestamp":{"s":1700000000.5}}],"alias":"/plant/p"}]"#,
    ),
    // OPC UA PubSub: fields that are objects, and bare ones
    (
        r#"each = "Messages"
               values = "Payload"
               value = "Value"
               time = "Timestamp"
               quality = "StatusCode""#,
        r#"{"Messages":[{"Payload":{"temp":{"Value":21.5,"StatusCode":0},"pressure":3},"Timestamp":"2023-11-14T22:13:20.5Z"}]}"#,
    ),
    // nested paths and literal dots
    (
        r#"time = "meta.time"
               values = "d"
               signals = { temperature = "a.b", pressure = 'c\.d' }"#,
        r#"{"d":{"a":{"b":21.5,"x":1},"c.d":3,"c":{"d":9}},"meta":{"time":1700000000.5}}"#,
    ),
    ("time = \"ts\"", "\u{feff}{\"ts\":1700000000.5,\"T\":21.5,\"pressure\":3}"),
];

#[test]
fn every_shape_gives_the_same_readings() {
    let expected = vec![("p-7", 0, 1_700_000_000.5, 21.5), ("p-7", 1, 1_700_000_000.5, 3.0)];
    for (settings, payload) in SHAPES {
        let outcome = pump(settings, payload);
        assert_eq!(outcome.readings(), expected, "{settings}\n{payload}");
        assert_eq!((outcome.decoded.readings, outcome.decoded.rejected), (2, 0), "{settings}");
        assert_eq!(outcome.decoded.undated, 0);
    }
}

#[test]
fn signals_in_the_topic() {
    let topics = &["{asset}/{signal}"];
    let scalar = FormatSpec::Scalar(ScalarFormat::default());
    let wrapped = json(r#"time = "ts""#);
    for (format, payload, ts) in [
        (&scalar, "21.5", ARRIVAL.0 as f64 / 1e6),
        (&scalar, " \"21.5\"\n", ARRIVAL.0 as f64 / 1e6),
        (&wrapped, r#"{"value":21.5,"ts":1700000000}"#, 1_700_000_000.0),
        (&wrapped, r#"{"ts":1700000000000,"value":"21.5","unit":"C"}"#, 1_700_000_000.0),
        (&wrapped, "21.5", ARRIVAL.0 as f64 / 1e6),
    ] {
        let outcome = decode(topics, format, "p-7/temp", payload).unwrap();
        assert_eq!(outcome.readings(), [("p-7", 0, ts, 21.5)], "{payload}");
    }
    let unknown = decode(topics, &scalar, "p-7/speed", "1").unwrap();
    assert_eq!((unknown.decoded.readings, unknown.decoded.unknown), (0, 1));
    let one = FormatSpec::Scalar(ScalarFormat { signal: Some("pressure".into()) });
    assert_eq!(decode(&["{asset}/p"], &one, "x/p", "true").unwrap().readings()[0].3, 1.0);
    let why = |payload| decode(topics, &scalar, "p-7/temp", payload).err().unwrap().to_string();
    assert!(why("hot").contains("message on `p-7/temp`: the payload is `hot`; expected a number"));
    assert!(why("").contains("is empty"));
    assert!(why("1e400").contains("1e400"));
}

#[test]
fn assets_and_tags() {
    let outcome = pump("", r#"{"temp":1}"#);
    let asset = &outcome.input.assets[0];
    assert_eq!((asset.id.as_str(), asset.tags["site"].as_str()), ("p-7", "north"));
    // named by the payload, before or after the values, by document or by element
    let format = json(r#"asset = "device.id""#);
    let payload = r#"[{"temp":1,"device":{"id":"a"}},{"device":{"id":7},"temp":2},{"temp":3,"device":{"id":"a"}}]"#;
    let outcome = decode(&["{site}/all"], &format, "n/all", payload).unwrap();
    let ids: Vec<&str> = outcome.readings().iter().map(|r| r.0).collect();
    assert_eq!(ids, ["a", "7", "a"]);
    assert_eq!(outcome.input.assets.len(), 2);
    assert_eq!(outcome.input.assets[1].tags["site"], "n");
    let error = decode(&["all"], &format, "all", r#"{"temp":1}"#).err().unwrap().to_string();
    assert!(error.contains("the asset is missing; expected it at `device.id`"), "{error}");
    // one asset on several topics is one asset
    let decoder = decoder(&["{asset}/{signal}"], &FormatSpec::Scalar(ScalarFormat::default()));
    let (decoder, mut rows) = (decoder.unwrap(), Rows::new("pump".into()));
    for _ in 0..2 {
        for topic in ["a/temp", "a/pressure", "b/temp"] {
            decoder.decode(topic, b"1", ARRIVAL, &mut rows).unwrap();
        }
        let input = rows.take();
        assert_eq!(input.assets.len(), 2);
        assert_eq!(input.readings.asset, [0, 0, 1]);
        assert!(rows.is_empty());
    }
}

#[test]
fn one_wrong_signal_does_not_take_the_others_with_it() {
    let payload = r#"{"temp":"hot","pressure":2,"vibration_rms":{"a":[1,{}]}}"#;
    let outcome = pump("", payload);
    assert_eq!(outcome.readings().len(), 1);
    assert_eq!(outcome.decoded.rejected, 2);
    let fault = outcome.decoded.fault.unwrap().to_string();
    assert_eq!(
        fault,
        "message on `plant/north/pump/p-7/telemetry`: temp is the text \"hot\"; expected a number, true or false"
    );
    // one wrong element of an array neither; its place is named
    let settings = "each = \"r\"\ntime = \"t\"";
    let payload = r#"{"r":[{"temp":1,"t":1700000000},{"temp":2,"pressure":3,"t":"noon"},5,{"temp":4,"t":1700000001}]}"#;
    let outcome = pump(settings, payload);
    assert_eq!(outcome.readings().len(), 2);
    assert_eq!(outcome.decoded.rejected, 3);
    let fault = outcome.decoded.fault.unwrap().to_string();
    assert!(fault.contains("r[1].t: found \"noon\", expected a time such as"), "{fault}");
}

#[test]
fn null_is_no_reading_and_unknown_is_counted() {
    let outcome = pump("", r#"{"temp":null,"pressure":1,"color":"red","more":{"a":1}}"#);
    assert_eq!(
        (outcome.decoded.readings, outcome.decoded.unknown, outcome.decoded.rejected),
        (1, 2, 0)
    );
    let strict = pump("unknown = \"reject\"", r#"{"pressure":1,"color":"red"}"#);
    assert_eq!((strict.decoded.unknown, strict.decoded.rejected), (0, 1));
    assert!(strict.decoded.fault.unwrap().to_string().contains("color is not a signal"));
    // each unknown name is told once, in however many messages it comes
    let (decoder, mut rows) = (decoder(PUMP, &json("")).unwrap(), Rows::new("pump".into()));
    for _ in 0..3 {
        decoder.decode(TOPIC, br#"{"temp":1,"color":2}"#, ARRIVAL, &mut rows).unwrap();
    }
    assert_eq!(rows.unknown_signals(), ["color"]);
    assert!(rows.unknown_signals().is_empty());
}

#[test]
fn quality_comes_with_the_reading() {
    use Quality::{Bad, Good, Uncertain};
    for (text, quality) in [
        ("true", Good),
        ("false", Bad),
        ("192", Good),
        ("64", Uncertain),
        ("2147483648", Bad),
        ("1083179008", Uncertain),
        ("\"UNCERTAIN\"", Uncertain),
        ("null", Good),
        ("{}", Uncertain),
        ("\"gibberish\"", Uncertain),
    ] {
        for payload in
            [format!(r#"{{"q":{text},"temp":1}}"#), format!(r#"{{"temp":1,"q":{text}}}"#)]
        {
            let outcome = pump("quality = \"q\"", &payload);
            assert_eq!(outcome.input.readings.quality, [quality], "{payload}");
        }
    }
    // of the whole and of a part, the worse counts
    let settings = "quality = \"q\"\nvalues = \"v\"\nvalue = \"x\"";
    let outcome = pump(settings, r#"{"v":{"temp":{"x":1,"q":"bad"},"pressure":{"x":1}},"q":64}"#);
    assert_eq!(outcome.input.readings.quality, [Bad, Uncertain]);
}

#[test]
fn times_absent_or_wrong() {
    let outcome = pump("time = \"ts\"", r#"{"temp":1,"pressure":2}"#);
    assert_eq!((outcome.decoded.undated, outcome.readings()[0].2), (2, ARRIVAL.0 as f64 / 1e6));
    assert_eq!(pump("time = \"ts\"", r#"{"temp":1,"ts":null}"#).decoded.undated, 1);
    // a reading that is removed for another reason is not said to have got the time of arrival
    let nameless = "each = \"v\"\nsignal = \"n\"\nvalue = \"x\"\ntime = \"ts\"";
    let outcome = pump(nameless, r#"{"v":[{"n":"temp","x":1},{"n":"GOOD","x":2},{"x":3}]}"#);
    let decoded = &outcome.decoded;
    assert_eq!((decoded.readings, decoded.undated), (1, 1));
    assert_eq!((decoded.unknown, decoded.rejected), (1, 1));
    let why = |payload: &str| refused("time = \"ts\"\nunit = \"s\"", payload);
    let error = why(r#"{"temp":1,"ts":1700000000000}"#);
    assert!(error.contains("ts: found the number 1700000000000"), "{error}");
    assert!(error.contains("looks like milliseconds; set unit = \"ms\""), "{error}");
    for wrong in ["true", "{}", "[1]", "\"soon\"", "1e300", "18446744073709551615"] {
        let error = why(&format!(r#"{{"temp":1,"ts":{wrong}}}"#));
        assert!(error.contains(": ts: found"), "{error}");
    }
    // 1970 and 2100 are for `clean` to judge
    for ts in [12, 4_102_444_801_i64] {
        let outcome = pump("time = \"ts\"\nunit = \"s\"", &format!(r#"{{"ts":{ts},"temp":1}}"#));
        assert_eq!(outcome.readings()[0].2, ts as f64);
    }
}

#[test]
fn what_the_broker_had_kept_does_not_get_the_time_of_its_arrival() {
    let scalar = FormatSpec::Scalar(ScalarFormat { signal: Some("pressure".into()) });
    let kept = |format: &FormatSpec, payload: &str| {
        let (decoder, mut rows) = (decoder(PUMP, format).unwrap(), Rows::new("pump".into()));
        let decoded = decoder.decode_own(TOPIC, payload.as_bytes(), None, &mut rows).unwrap();
        (decoded, rows.take().readings.ts)
    };
    let dated = r#"{"ts":1700000000500,"temp":21.5}"#;
    let (decoded, times) = kept(&json("time = \"ts\""), dated);
    assert_eq!((decoded.unwrap().readings, times), (1, vec![Timestamp(1_700_000_000_500_000)]));
    let undated =
        [(scalar, "21.5"), (json(""), dated), (json("time = \"ts\""), r#"{"temp":21.5}"#)];
    for (format, payload) in undated {
        let (decoded, times) = kept(&format, payload);
        let error = decoded.unwrap_err();
        assert_eq!((error.name(), times.len()), ("retained", 0), "{payload}: {error}");
    }
    let several = r#"[{"ts":1700000000500,"temp":21.5},{"temp":3}]"#;
    let (decoded, times) = kept(&json("time = \"ts\""), several);
    let decoded = decoded.unwrap();
    assert_eq!((decoded.rejected, times.len()), (1, 1));
    assert_eq!(decoded.fault.unwrap().name(), "retained");
}

#[test]
fn bad_payloads_are_refused_with_the_fact() {
    let cases: &[(&str, &str)] = &[
        ("speed=3", "is not JSON: expected value at byte 0 (`speed=3`)"),
        ("{\"temp\":21.5,\"pres", "it ends in the middle"),
        ("{\"temp\":NaN}", "is not JSON"),
        ("{\"temp\":NaN}", "send null"),
        ("{\"temp\":1e400}", "number out of range"),
        ("{'temp':1}", "double quotes"),
        ("{\"temp\":1} x", "trailing characters"),
        ("", "is empty"),
        ("  \n", "is empty"),
        ("5", "the payload is the number 5; expected an object or an array of objects"),
        ("\"x\"", "the payload is the text \"x\""),
        ("{\"a\":1,\n\"b\":}", "at byte 12"),
    ];
    for (payload, fact) in cases {
        let error = refused("", payload);
        assert!(error.contains(fact), "{payload}: {error}");
        assert!(error.contains(TOPIC), "{error}");
    }
    let error = refused("values = \"data.values\"", r#"{"temp":1}"#);
    assert!(error.contains("expected it at `data.values`"), "{error}");
    let error = refused("each = \"list\"", r#"{"temp":1}"#);
    assert!(error.contains("expected it at `list`"), "{error}");

    let (decoder, mut rows) = (decoder(PUMP, &json("")).unwrap(), Rows::new("pump".into()));
    let mut why = |payload: &[u8]| {
        decoder.decode(TOPIC, payload, ARRIVAL, &mut rows).unwrap_err().to_string()
    };
    assert!(why(b"{\"temp\":\"\xff\"}").contains("not UTF-8: byte 9 is 0xff"));
    let large = format!("{{\"temp\":1,\"x\":\"{}\"}}", "y".repeat(10 << 20));
    assert!(why(large.as_bytes()).contains("limits.message allows 1048576"));
    let error = decoder.decode("other/topic", b"{}", ARRIVAL, &mut rows).unwrap_err();
    assert_eq!(error.name(), "no_route");
    assert!(error.to_string().contains("fits none of `plant/{site}/pump/{asset}/telemetry`"));
    assert!(rows.take().assets.is_empty(), "refused messages leave no asset behind");
}

#[test]
fn nesting_cannot_overflow_the_stack() {
    let deep =
        |open: &str, close: &str| format!("{}1{}", open.repeat(40_000), close.repeat(40_000));
    let arrays = deep("[", "]");
    let objects = deep("{\"temp\":", "}");
    // On a small stack, as the engine's thread may have.
    let run = move || {
        for payload in [
            arrays.clone(),
            objects.clone(),
            format!("{{\"temp\":{arrays},\"pressure\":1}}"),
            format!("{{\"other\":{objects},\"pressure\":1}}"),
            format!("{{\"ts\":{arrays},\"pressure\":1}}"),
            "[".repeat(500_000),
            "{\"temp\":".repeat(100_000),
        ] {
            let outcome = decode(PUMP, &json("time = \"ts\""), TOPIC, &payload);
            assert!(outcome.map_or(0, |o| o.decoded.readings) <= 1);
        }
        let known = format!("{{\"temp\":{arrays},\"other\":{objects},\"pressure\":1}}");
        let outcome = decode(PUMP, &json(""), TOPIC, &known).unwrap();
        assert_eq!((outcome.decoded.readings, outcome.decoded.rejected), (1, 1));
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}

#[test]
fn formats_that_cannot_work_are_refused_at_the_start() {
    let why =
        |topics: &[&str], format: &FormatSpec| decoder(topics, format).unwrap_err().to_string();
    assert!(why(&["a/b"], &json("")).contains("write {asset}"));
    assert!(why(&["a/{asset}x"], &json("")).contains("whole level"));
    let scalar = FormatSpec::Scalar(ScalarFormat::default());
    assert!(why(&["{asset}/b"], &scalar).contains("write {signal}"));
    let other = FormatSpec::Scalar(ScalarFormat { signal: Some("presure".into()) });
    assert!(why(&["{asset}/b"], &other).contains("is it `pressure`?"));
    let signals = json("signals = { temprature = \"x\" }");
    assert!(why(PUMP, &signals).contains("is it `temperature`?"));
    assert!(why(PUMP, &json("time = \"a..b\"")).contains("is not a path"));
    assert!(why(PUMP, &json("time = \"a\"\nquality = \"a\"")).contains("format.json.quality"));
    assert!(why(PUMP, &json("time = \"a\"\nvalues = \"a.b\"")).contains("format.json.values"));
    assert!(why(PUMP, &json("signal = \"a\"\nvalues = \"b\"")).contains("cannot both be set"));
}

#[test]
fn filters_are_given_once() {
    let decoder = decoder(&["{asset}/x", "+/x/{asset}", "a/{asset}/#", "{asset}/x"], &json(""));
    let decoder = decoder.unwrap();
    assert_eq!(decoder.filters(), ["+/x", "+/x/+", "a/+/#"]);
    let mut rows = Rows::new("pump".into());
    for (topic, own) in [("q/x", true), ("a/b/c/d", true), ("q/y", false)] {
        assert_eq!(
            decoder.decode_own(topic, b"{}", Some(ARRIVAL), &mut rows).is_some(),
            own,
            "{topic}"
        );
    }
    assert_eq!(decoder.route(), "pump");
}
