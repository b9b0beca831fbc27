//! The feed over a real listener: every path's answer, the stream, and what a hostile or slow guest can do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod feed_kit;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use feed_kit::{DEADLINE, Site, alarm, plant, score, status};
use forebay::record::AlarmState::{Normal, Returned, Unacknowledged};
use forebay::record::{AlarmState, Record, Severity};
use forebay::time::{self, Span, Timestamp};
use serde_json::Value;

fn one_pump() -> (Site, Timestamp) {
    let mut site = Site::start(status());
    let end = "2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap();
    let windows = (0..100).map(|n| {
        let at = end.plus(Span::seconds(10 * n));
        Record::Score(score("pump-01", at, n as u64, if n == 99 { 1.0 } else { 0.0 }))
    });
    site.publish(windows.collect());
    (site, end)
}

/// A stream's lines, with the request already sent.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(site: &Site, query: &str, more: &str) -> Events {
        let mut stream = TcpStream::connect(site.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET /api/v1/stream{query} HTTP/1.1\r\nHost: node\r\n{more}\r\n").unwrap();
        Events(BufReader::new(stream))
    }

    /// Opened, and sure to be listening.
    fn listening(site: &Site, query: &str) -> Events {
        let mut events = Events::open(site, query, "");
        events.line(|line| line.starts_with("retry:"));
        events
    }

    fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            if wanted(line.trim_end()) {
                return line.trim_end().to_owned();
            }
        }
    }

    /// The data of the next event of this name.
    fn next(&mut self, name: &str) -> Value {
        self.line(|line| line == format!("event: {name}"));
        let data = self.line(|line| line.starts_with("data: "));
        serde_json::from_str(&data["data: ".len()..]).unwrap()
    }
}

#[test]
fn scores_come_back_in_the_records_own_shape() {
    let (site, end) = one_pump();
    let schema = serde_json::to_value(schemars::schema_for!(Record)).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let all = site.get("/api/v1/scores?pipeline=pump-health&asset=pump-01").json();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 100);
    for one in all {
        assert!(schema.is_valid(one), "{one}");
    }
    let back: Vec<Record> =
        all.iter().map(|v| serde_json::from_value(v.clone()).unwrap()).collect();
    let given = Record::Score(score("pump-01", end.plus(Span::seconds(70)), 7, 0.0));
    assert_eq!(back[7], given);

    let part = |query: &str| -> Vec<String> {
        let answer = site.get(&format!("/api/v1/scores?asset=pump-01{query}")).json();
        let ends = answer.as_array().unwrap().iter();
        ends.map(|r| r["window_end"].as_str().unwrap().to_owned()).collect()
    };
    let ends = part("&from=2026-03-01T12:00:20Z&to=2026-03-01T12:00:40Z");
    assert_eq!(ends, ["2026-03-01T12:00:20Z", "2026-03-01T12:00:30Z", "2026-03-01T12:00:40Z"]);
    assert_eq!(part("&limit=2"), ["2026-03-01T12:16:20Z", "2026-03-01T12:16:30Z"]);
    // A zone typed into an address bar as it is.
    assert_eq!(part("&from=2026-03-01T13:16:30+01:00").len(), 1);

    let latest = site.get("/api/v1/scores/latest?pipeline=pump-health").json();
    assert_eq!(latest[0]["window_end"], "2026-03-01T12:16:30Z");
    assert_eq!(site.get("/api/v1/scores/latest?pipeline=other").json(), serde_json::json!([]));
}

#[test]
fn assets_and_alarms_follow_the_records() {
    let (mut site, end) = one_pump();
    let view = |site: &Site| site.get("/api/v1/assets").json()["assets"][0].clone();
    let before = view(&site);
    assert_eq!(before["state"], "above", "the last score is over its threshold");
    assert_eq!(before["scores"][0]["name"], "anomaly", "the first model's score is first");
    assert_eq!(before["scores"][1]["threshold"], 0.5);
    assert_eq!(before["every_seconds"], 10.0);

    let at = |n: i64| end.plus(Span::seconds(n));
    site.publish(vec![
        alarm("pump-01", "wear", Unacknowledged, Severity::Low, at(1)),
        alarm("pump-01", "leak", Unacknowledged, Severity::Critical, at(2)),
        alarm("pump-01", "wear", Returned, Severity::Low, at(3)),
    ]);
    let on = site.get("/api/v1/alarms?active=true").json();
    assert_eq!(on[0]["name"], "leak", "most severe first");
    assert_eq!(
        (&on[1]["state"], &on[1]["since"]),
        (&"returned".into(), &"2026-03-01T12:00:01Z".into())
    );
    let during = view(&site);
    assert_eq!((&during["state"], &during["severity"]), (&"alarm".into(), &"critical".into()));
    assert_eq!(during["alarms"], serde_json::json!(["leak", "wear"]));

    site.publish(vec![
        alarm("pump-01", "leak", Normal, Severity::Critical, at(4)),
        alarm("pump-01", "wear", Normal, Severity::Low, at(5)),
    ]);
    assert_eq!(site.get("/api/v1/alarms?active=true").json(), serde_json::json!([]));
    assert_eq!(site.get("/api/v1/alarms").json().as_array().unwrap().len(), 5);
    let detail = site.get("/api/v1/assets/pump-health/pump-01").json();
    assert_eq!(detail["changes"][0]["at"], "2026-03-01T12:00:05Z");
    assert_eq!(detail["last"]["type"], "score");
    assert_eq!(detail["alarms"], serde_json::json!([]));
}

#[test]
fn the_node_is_described() {
    let (site, _) = one_pump();
    let told = site.get("/api/v1/status").json();
    assert_eq!((&told["node"], &told["queued"]), (&"gateway-3".into(), &28.into()));
    assert_eq!((&told["delivered"], &told["assets"]), (&9109.into(), &1.into()));
    assert_eq!(told["lanes"]["score"]["waiting_bytes"], 41_000);
    assert_eq!(told["uplink"]["up"], true);
    let pipelines = site.get("/api/v1/pipelines").json();
    assert_eq!(pipelines[0]["topics"][0], "plant/{site}/pump/{asset}/telemetry");
    assert_eq!(pipelines[0]["account"]["rejected"]["spike"], 17);
    assert_eq!(site.get("/api/v1/losses").json(), serde_json::json!([]));
}

#[test]
fn ready_says_what_it_waits_for() {
    let (site, _) = one_pump();
    assert_eq!(site.get("/healthz").code, 200);
    assert_eq!(site.get("/readyz").code, 200);
    site.status.send_modify(|s| {
        s.uplink.as_mut().unwrap().up = false;
        s.uplink.as_mut().unwrap().detail = "no route to host".into();
    });
    let ready = site.get("/readyz");
    assert_eq!(ready.code, 200, "the uplink's absence is what the outbox is for");
    assert!(ready.body.contains("no route to host"), "{}", ready.body);
    site.status.send_modify(|s| {
        s.ingest.up = false;
        s.ingest.detail = "connection refused".into();
        s.store.ok = false;
        s.store.detail = "disk full".into();
    });
    let ready = site.get("/readyz");
    assert_eq!(ready.code, 503);
    let reasons = &ready.json()["reasons"];
    assert_eq!(reasons[0], "broker mqtt://10.0.4.2:1883: connection refused");
    assert_eq!(reasons[1], "store: disk full");
    assert_eq!(site.get("/healthz").code, 200, "a broker's absence is no reason to restart");
}

#[test]
fn what_cannot_be_answered_says_what_can() {
    let (site, _) = one_pump();
    for (path, code, word) in [
        ("/api/v1/nothing", 404, "/api/v1/assets"),
        ("/api/v2/assets", 404, "/api/v1/assets"),
        ("/api/v1/assets/pump-health/pump-99", 404, "pump-99"),
        ("/api/v1/assets/pump-health/%FF", 400, "UTF-8"),
        ("/api/v1/assets?pipelin=x", 400, "pipeline, asset, limit"),
        ("/api/v1/status?x=1", 400, "no parameters"),
        ("/api/v1/scores?from=yesterday", 400, "2026-01-31T12:00:00Z"),
        ("/api/v1/scores?from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z", 400, "after"),
        ("/api/v1/scores?limit=0", 400, "1 to 10000"),
        ("/api/v1/scores?limit=99999999999999999999", 400, "1 to 10000"),
        ("/api/v1/scores?pipeline=pump-health&asset=nope", 404, "nope"),
        ("/api/v1/alarms?active=maybe", 400, "true or false"),
        ("/api/v1/chart/pump-health/pump-01", 404, ".svg"),
        ("/api/v1/chart/pump-health/nope.svg", 404, "nope"),
        ("/api/v1/chart/pump-health/pump-01.svg?score=nope", 404, "failure_risk"),
        ("/api/v1/chart/pump-health/pump-01.svg?width=100000", 400, "40 to 2000"),
        ("/api/v1/stream?type=nope", 400, "score, alarm, loss, status"),
    ] {
        let reply = site.get(path);
        assert_eq!(reply.code, code, "{path}: {}", reply.body);
        let body = reply.json();
        assert!(body["error"].is_string() && body["expected"].is_string(), "{path}");
        assert!(reply.body.contains(word), "{path}: no `{word}` in {}", reply.body);
    }
    for method in ["POST", "PUT", "DELETE"] {
        let reply = site.request(method, "/api/v1/assets");
        assert_eq!(reply.code, 405);
        assert_eq!(reply.json()["expected"], "GET or HEAD");
    }
}

#[test]
fn every_answer_is_hardened_and_heads_have_no_body() {
    let (site, _) = one_pump();
    for path in ["/", "/page.js", "/page.css", "/api/v1/assets", "/metrics", "/nothing"] {
        for method in ["GET", "HEAD"] {
            let reply = site.request(method, path);
            assert_eq!(reply.headers["x-content-type-options"], "nosniff", "{path}");
            let policy = &reply.headers["content-security-policy"];
            assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}");
            assert!(!reply.headers.contains_key("access-control-allow-origin"), "{path}");
            assert_eq!(reply.body.is_empty(), method == "HEAD", "{path}");
        }
    }
    let page = site.get("/").body;
    for elsewhere in ["http:", "https:", "//cdn", "<style", "style=", "onclick="] {
        let found = page.replace("http://www.w3.org/2000/svg", "").contains(elsewhere);
        assert!(
            !found,
            "`{elsewhere}` in the page: it must need nothing, and its policy forbids it"
        );
    }
}

#[test]
fn the_stream_delivers_scores_and_alarms_to_those_who_asked() {
    let (mut site, end) = one_pump();
    let mut all = Events::listening(&site, "");
    let mut brief = Events::listening(&site, "?brief=true&type=score");
    let mut alarms = Events::listening(&site, "?type=alarm&asset=pump-02&pipeline=pump-health");
    let next = end.plus(Span::seconds(2000));
    site.publish(vec![Record::Score(score("pump-01", next, 5, 0.0))]);
    for asset in ["pump-01", "pump-02"] {
        let raised = AlarmState::Unacknowledged;
        site.publish(vec![alarm(asset, "wear", raised, Severity::High, next)]);
    }
    let sent = all.next("score");
    assert_eq!(sent, serde_json::to_value(Record::Score(score("pump-01", next, 5, 0.0))).unwrap());
    assert_eq!(all.next("alarm")["asset"], "pump-01");
    let sent = brief.next("score");
    assert!(sent.get("features").is_none() && sent["scores"]["anomaly"].is_number());
    assert_eq!(alarms.next("alarm")["asset"], "pump-02", "the other asset's was filtered");
    let mut fresh = Events::open(&site, "?type=status", "");
    assert_eq!(fresh.next("status")["node"], "gateway-3");
    site.status.send_modify(|s| s.node = "renamed".into());
    assert_eq!(fresh.next("status")["node"], "renamed");
}

#[test]
fn a_reader_that_comes_back_is_told_what_it_missed() {
    let (mut site, end) = one_pump();
    let mut events = Events::listening(&site, "");
    let publish = |site: &mut Site, n: i64| {
        let at = end.plus(Span::seconds(5000 + 10 * n));
        site.publish(vec![Record::Score(score("pump-01", at, 1, 0.0))]);
    };
    publish(&mut site, 0);
    let id = events.line(|line| line.starts_with("id: "))["id: ".len()..].to_owned();
    drop(events);
    publish(&mut site, 1);
    publish(&mut site, 2);
    let mut again = Events::open(&site, "", &format!("Last-Event-ID: {id}\r\n"));
    assert_eq!(again.next("skipped")["count"], 2);
    let mut other = Events::open(&site, "", "Last-Event-ID: 12-3\r\n");
    other.line(|line| line.starts_with("retry:"));
    publish(&mut site, 3);
    let first = other.line(|line| line.starts_with("event: ") && line != "event: status");
    assert_eq!(first, "event: score", "ids of another run mean nothing");
}

#[test]
fn a_slow_reader_blocks_nobody_and_is_told() {
    let mut site = Site::start(status());
    let mut slow = Events::listening(&site, "");
    let mut quick = Events::listening(&site, "");
    let end = time::now();
    let window = |n: usize| score(&format!("pump-{}", n % 100), end, n as u64, 0.0);
    // Far more than the sockets' buffers and the ring hold. This thread publishes, and reads one of the two streams:
    // whoever waited for the other's reader would wait for ever, since nobody reads there before this loop has ended.
    for batch in 0..100 {
        let numbers = 100 * batch..100 * (batch + 1);
        site.handle.publish(numbers.clone().map(|n| Record::Score(window(n))).collect());
        for n in numbers {
            assert_eq!(quick.next("score")["asset"], window(n).asset, "others get everything");
        }
    }
    site.handle.publish(vec![alarm("p", "wear", AlarmState::Unacknowledged, Severity::Low, end)]);
    assert_eq!(quick.next("alarm")["name"], "wear");
    // Every score was either delivered or counted, and after them comes what is newest.
    let (mut given, mut skipped) = (0, 0);
    loop {
        match slow.line(|line| line.starts_with("event: ")).as_str() {
            "event: score" => given += 1,
            "event: skipped" => {
                let data = slow.line(|line| line.starts_with("data: "));
                let data: Value = serde_json::from_str(&data["data: ".len()..]).unwrap();
                skipped += data["count"].as_u64().unwrap();
            }
            "event: alarm" => break,
            _ => {}
        }
    }
    assert_eq!(given + skipped, 10_000);
    assert!(skipped > 0 && given > 0, "{given} given, {skipped} skipped");
}

#[test]
fn hostile_names_stay_text() {
    let mut site = Site::start(status());
    let names = [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "a/b?c#d%41&e",
        "line\nbreak\r\nevent: alarm\u{0}",
        "#A10051",
        "..",
        "",
        "ünï ⚙️",
    ];
    let mut events = Events::listening(&site, "");
    for name in names {
        site.publish(vec![
            Record::Score(score(name, time::now(), 1, 0.0)),
            alarm(name, "<b>wear</b>", AlarmState::Unacknowledged, Severity::Low, time::now()),
        ]);
        assert_eq!(events.next("score")["asset"], *name, "the stream's framing holds");
        assert_eq!(events.next("alarm")["name"], "<b>wear</b>");
    }
    let listed = site.get("/api/v1/assets").json();
    assert_eq!(listed["total"], names.len());
    for name in names.iter().filter(|name| !["", ".."].contains(name)) {
        let coded: Vec<String> = name.bytes().map(|b| format!("%{b:02X}")).collect();
        let coded = coded.concat();
        let chart = site.get(&format!("/api/v1/chart/pump-health/{coded}.svg"));
        assert_eq!(chart.code, 200, "{name:?}: {}", chart.body);
        assert_eq!(chart.headers["content-type"], "image/svg+xml");
        for bad in ["<script", "<img", "\u{0}"] {
            assert!(!chart.body.contains(bad), "{name:?}: {}", chart.body);
        }
        assert!(name.contains('#') || !chart.body.contains("A1005"), "{name:?}");
        let detail = site.get(&format!("/api/v1/assets/pump-health/{coded}"));
        assert_eq!(detail.json()["asset"]["asset"], *name);
    }
    let page = site.get("/").body;
    assert!(names[..4].iter().all(|name| !page.contains(name)), "the page is the same for all");
}

#[test]
fn charts_are_drawn_for_scores_and_features() {
    let mut site = Site::start(status());
    plant(&mut site);
    let plain = site.get("/api/v1/chart/pump-health/pump-04.svg").body;
    assert!(plain.contains("var(--chart-line") && plain.contains("var(--chart-threshold"));
    assert!(plain.contains("var(--chart-alarm"), "the alarm's time is marked");
    assert!(plain.contains("pump-04: anomaly over time"));
    let feature = site.get("/api/v1/chart/pump-health/pump-04.svg?score=flow.std").body;
    assert!(feature.contains("flow.std") && !feature.contains("var(--chart-threshold"));
    let small = site.get("/api/v1/chart/pump-health/pump-04.svg?width=200&height=50").body;
    assert!(!small.contains("<text"), "a small one has no axes");
    let lines = |body: &str| body.matches("var(--chart-line, #1668b8)\" stroke-width").count();
    let gap = site.get("/api/v1/chart/pump-health/pump-06.svg").body;
    assert_eq!(lines(&gap), lines(&plain) + 1, "the line breaks where windows are missing");
}

#[test]
fn metrics_are_openmetrics() {
    let (mut site, end) = one_pump();
    site.publish(vec![alarm("p", "w", AlarmState::Unacknowledged, Severity::High, end)]);
    for pipeline in &site.status.borrow().pipelines {
        site.metrics.set_pipeline(&pipeline.name, &pipeline.account);
    }
    let reply = site.get("/metrics");
    assert!(
        reply.headers["content-type"].starts_with("application/openmetrics-text; version=1.0.0")
    );
    assert!(reply.body.ends_with("# EOF\n"));
    let mut families = std::collections::BTreeMap::new();
    for line in reply.body.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
            let name = series.split('{').next().unwrap();
            assert!(
                name.starts_with("forebay_") || name == "process_resident_memory_bytes",
                "{name}"
            );
            let (family, kind) =
                families.iter().rfind(|(f, _)| name.starts_with(f.as_str())).expect(line);
            assert_eq!(kind == "counter", name == format!("{family}_total"), "{line}");
        }
    }
    assert!(reply.body.contains("\nforebay_alarms_active{severity=\"high\"} 1\n"));
    let memory = reply.body.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes "));
    assert!(memory.unwrap().parse::<u64>().unwrap() > 1 << 20);
}

#[test]
fn a_flood_of_assets_is_refused_at_the_limit_and_counted() {
    let mut site = Site::start(status());
    let end = time::now();
    for batch in 0..101_u64 {
        let windows = (0..100).map(|n| {
            let mut one = score(&format!("pump-{}", 100 * batch + n), end, 1, 0.0);
            one.features.clear();
            Record::Score(one)
        });
        site.publish(windows.collect());
    }
    let listed = site.get("/api/v1/assets?limit=5").json();
    assert_eq!(
        (listed["total"].as_u64(), listed["assets"].as_array().unwrap().len()),
        (Some(10_000), 5)
    );
    assert_eq!(site.get("/api/v1/status").json()["feed_skipped"], 100);
    assert!(site.get("/metrics").body.contains("forebay_feed_skipped_total 100\n"));
}

#[test]
fn streams_have_a_limit_and_their_places_come_back() {
    let site = Site::start(status());
    let mut open: Vec<Events> = (0..64).map(|_| Events::listening(&site, "")).collect();
    let refused = site.get("/api/v1/stream");
    assert_eq!(refused.code, 503);
    assert!(refused.body.contains("too many streams"), "{}", refused.body);
    assert_eq!(site.get("/api/v1/assets").code, 200);
    open.clear();
    site.until("a place comes back", || {
        let mut events = Events::open(&site, "", "");
        events.line(|line| line.starts_with("HTTP/1.1")).contains("200")
    });
}

#[test]
fn stopping_ends_streams_and_frees_the_port() {
    let (site, _) = one_pump();
    let mut events = Events::listening(&site, "");
    let mut idle = TcpStream::connect(site.address).unwrap();
    idle.write_all(b"GET / HT").unwrap();
    let address = site.address.to_string();
    let start = time::monotonic();
    site.end();
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    let mut rest = Vec::new();
    let _ = events.0.read_to_end(&mut rest);
    Site::start_at(&address, status()).end();
}
