//! Operators over HTTP, with a real engine behind it: what they do shows everywhere, what cannot be done is said, and
//! what a foreign page makes a browser send is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod feed_kit;

use std::io::{Read, Write};
use std::net::TcpStream;

use feed_kit::works::Works;
use feed_kit::{DEADLINE, Site, post, status};
use forebay::feed::command::{BODY_MAX, WAITING};
use forebay::time;

/// Headers of a request, the answer's code, and a word in it.
type Tricked<'a> = (&'a [(&'a str, &'a str)], u16, &'a str);

fn ask(alarm: &str, more: &str) -> String {
    format!("{{\"pipeline\":\"rig\",\"asset\":\"m0\",\"alarm\":\"{alarm}\"{more}}}")
}

/// The states of the alarms that are listed, by name.
fn listed(works: &Works) -> Vec<(String, String)> {
    let listed = works.site.get("/api/v1/alarms?active=true").json();
    let of = |alarm: &serde_json::Value, key: &str| alarm[key].as_str().unwrap().to_owned();
    listed.as_array().unwrap().iter().map(|a| (of(a, "name"), of(a, "state"))).collect()
}

fn states(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

#[test]
fn an_alarm_is_acknowledged_once_and_a_latched_one_waits_for_it() {
    let mut works = Works::start();
    works.run(0.0);
    works.run(5.0);
    assert_eq!(listed(&works), states(&[("seized", "unacknowledged"), ("high", "unacknowledged")]));
    let reply = works.post("/api/v1/alarms/ack", &ask("high", ",\"by\":\" anna \""));
    assert_eq!((reply.code, &reply.json()["state"]), (200, &"acknowledged".into()));
    let again = works.post("/api/v1/alarms/ack", &ask("high", ""));
    assert_eq!(again.code, 409, "{}", again.body);
    assert!(again.body.contains("is acknowledged: there is nothing"), "{}", again.body);
    works.run(0.0);
    works.run(0.0);
    assert_eq!(listed(&works), states(&[("seized", "returned")]), "the other one cleared");
    let reply = works.post("/api/v1/alarms/ack", &ask("seized", ",\"by\":\"anna\""));
    assert_eq!((reply.code, &reply.json()["state"]), (200, &"normal".into()));
    assert_eq!(listed(&works), []);
    let changes = works.site.get("/api/v1/alarms").json();
    assert_eq!((&changes[0]["state"], &changes[0]["by"]), (&"normal".into(), &"anna".into()));
    let schema = serde_json::to_value(schemars::schema_for!(forebay::record::Record)).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for change in changes.as_array().unwrap() {
        assert!(schema.is_valid(change), "{change}");
    }
}

#[test]
fn a_shelved_alarm_is_listed_and_asks_for_nothing() {
    let mut works = Works::start();
    works.run(0.0);
    works.run(3.5);
    let more = ",\"for\":\"2h\",\"reason\":\"bearing is changed\",\"by\":\"anna\"";
    let reply = works.post("/api/v1/alarms/shelve", &ask("high", more));
    assert_eq!((reply.code, &reply.json()["state"]), (200, &"shelved".into()), "{}", reply.body);
    let on = works.site.get("/api/v1/alarms?active=true").json();
    assert_eq!(
        (&on[0]["state"], &on[0]["reason"]),
        (&"shelved".into(), &"bearing is changed".into())
    );
    let until: time::Timestamp = on[0]["until"].as_str().unwrap().parse().unwrap();
    let left = until.since(time::now()).as_seconds();
    assert!((7100.0..=7200.0).contains(&left), "{left}");
    assert_eq!(works.site.get("/api/v1/status").json()["alarms_active"], 0);
    assert_eq!(works.site.get("/api/v1/assets").json()["assets"][0]["state"], "normal");
    let metrics = works.site.get("/metrics").body;
    assert!(metrics.contains("forebay_alarms_active{severity=\"high\"} 0\n"), "{metrics}");
    let refused = works.post("/api/v1/alarms/ack", &ask("high", ""));
    assert_eq!(refused.code, 409);
    // It clears and comes again unheard.
    works.run(0.0);
    works.run(3.5);
    assert_eq!(listed(&works), states(&[("high", "shelved")]));
    let reply = works.post("/api/v1/alarms/unshelve", &ask("high", ""));
    assert_eq!((reply.code, &reply.json()["state"]), (200, &"unacknowledged".into()));
    assert_eq!(works.post("/api/v1/alarms/unshelve", &ask("high", "")).code, 409);
}

#[test]
fn an_alarm_is_judged_also_when_it_is_over() {
    let mut works = Works::start();
    works.run(0.0);
    let early = works.post("/api/v1/alarms/judge", &ask("high", ",\"verdict\":\"true\""));
    assert_eq!(early.code, 409, "{}", early.body);
    assert!(early.body.contains("never raised"), "{}", early.body);
    works.run(3.5);
    works.run(0.0);
    works.run(0.0);
    let raised = works.site.get("/api/v1/alarms").json();
    let raised = raised.as_array().unwrap();
    let first = |change: &&serde_json::Value| {
        change["name"] == "high" && change["state"] == "unacknowledged"
    };
    let raised = raised.iter().find(first).unwrap()["at"].as_str().unwrap();
    let more = format!(
        ",\"verdict\":\"true\",\"raised\":\"{raised}\",\"fault\":\"bearing\",\"by\":\"anna\""
    );
    let reply = works.post("/api/v1/alarms/judge", &ask("high", &more));
    assert_eq!((reply.code, &reply.json()["state"]), (200, &"normal".into()), "{}", reply.body);
}

#[test]
fn what_was_on_is_listed_after_a_start_and_can_still_be_acknowledged() {
    let mut works = Works::start();
    works.run(0.0);
    works.run(5.0);
    works.run(0.0);
    works.run(0.0);
    works.post("/api/v1/alarms/shelve", &ask("high", ",\"for\":\"8h\""));
    let before = works.site.get("/api/v1/alarms?active=true").json();
    let mut works = works.restart();
    assert_eq!(works.site.get("/api/v1/alarms?active=true").json(), before);
    assert_eq!(listed(&works), states(&[("seized", "returned"), ("high", "shelved")]));
    assert_eq!(works.post("/api/v1/alarms/ack", &ask("seized", "")).code, 200);
    assert_eq!(listed(&works), states(&[("high", "shelved")]));
}

#[test]
fn what_is_not_there_is_said() {
    let mut works = Works::start();
    works.run(0.0);
    for (body, word) in [
        (ask("high", "").replace("rig", "pumps"), "no pipeline `pumps`"),
        (ask("high", "").replace("m0", "m7"), "no asset `m7`"),
        (ask("low", ""), "has no alarm `low`; it has `high`"),
    ] {
        let reply = works.post("/api/v1/alarms/ack", &body);
        assert_eq!(reply.code, 404, "{}", reply.body);
        assert!(reply.body.contains(word), "{}", reply.body);
    }
}

#[test]
fn a_request_that_makes_no_sense_never_reaches_the_engine() {
    let mut site = Site::start(status());
    let long = "x".repeat(300);
    let cases = [
        ("ack", String::new(), "EOF"),
        ("ack", "[]".into(), "expected"),
        ("ack", "{\"pipeline\":\"rig\"}".into(), "asset"),
        ("ack", ask("high", ",\"for\":\"2h\""), "only shelve takes `for`"),
        ("unshelve", ask("high", ",\"reason\":\"x\""), "only shelve takes `reason`"),
        ("ack", ask("high", ",\"bye\":\"anna\""), "unknown field `bye`"),
        ("ack", ask("high", ",\"by\":7"), "string"),
        ("ack", ask("high", &format!(",\"by\":\"{long}\"")), "`by` is too long"),
        ("ack", ask("high", ",\"by\":\"a\\nb\""), "line break"),
        ("ack", ask("high", ",\"verdict\":\"true\""), "only judge takes `verdict`"),
        ("judge", ask("high", ""), "`verdict` is missing"),
        (
            "judge",
            ask("high", ",\"verdict\":\"maybe\""),
            "`verdict` is \\\"maybe\\\"; it is a text",
        ),
        (
            "judge",
            ask("high", ",\"verdict\":true"),
            "`verdict` is true; it is a text: \\\"true\\\"",
        ),
        ("judge", ask("high", &format!(",\"verdict\":\"true\",\"fault\":\"{long}\"")), "`fault`"),
        ("shelve", ask("high", ""), "`for` is missing"),
        ("shelve", ask("high", ",\"for\":\"soon\""), "not a length of time"),
        ("shelve", ask("high", ",\"for\":\"1d\""), "days are written in hours"),
        ("shelve", ask("high", ",\"for\":\"-2h\""), "negative"),
        ("shelve", ask("high", ",\"for\":\"0s\""), "`for` is `0s`"),
        ("shelve", ask("high", ",\"for\":\"169h\""), "`for` is `169h`"),
        ("shelve", ask("high", &format!(",\"for\":\"1h\",\"reason\":\"{long}\"")), "`reason`"),
    ];
    for (verb, body, word) in cases {
        let reply = post(site.address, &format!("/api/v1/alarms/{verb}"), &[], &body);
        assert_eq!(reply.code, 400, "{body}: {}", reply.body);
        assert!(reply.body.contains(word), "{body}: no `{word}` in {}", reply.body);
    }
    let huge = " ".repeat(BODY_MAX + 1);
    assert_eq!(post(site.address, "/api/v1/alarms/ack", &[], &huge).code, 413);
    let read = site.get("/api/v1/alarms/ack");
    assert_eq!((read.code, &read.json()["expected"]), (405, &"POST".into()));
    assert!(site.orders.as_mut().unwrap().take().is_empty());
}

#[test]
fn a_foreign_page_gets_nothing_done() {
    let mut site = Site::start(status());
    let (port, path, body) = (site.address.port(), "/api/v1/alarms/ack", ask("high", ""));
    let here = format!("127.0.0.1:{port}");
    let evil = format!("evil.example:{port}");
    let evil_origin = format!("http://{evil}");
    let cases: [Tricked<'_>; 8] = [
        // A form, or a fetch that a browser lets any page make.
        (&[("content-type", "text/plain")], 415, "text/plain"),
        (&[("content-type", "application/x-www-form-urlencoded")], 415, "urlencoded"),
        (&[("content-type", "")], 415, "declared"),
        // A page of another site, of a file, of another port of this machine.
        (&[("origin", "https://evil.example")], 403, "evil.example"),
        (&[("origin", "null")], 403, "null"),
        (&[("origin", "http://127.0.0.1:1")], 403, "127.0.0.1:1"),
        // A name of somebody else's that resolves to this machine.
        (&[("host", &evil), ("origin", &evil_origin)], 403, "feed.hosts"),
        (&[("host", &evil)], 403, "feed.hosts"),
    ];
    for (headers, code, word) in cases {
        let reply = post(site.address, path, headers, &body);
        assert_eq!(reply.code, code, "{headers:?}: {}", reply.body);
        assert!(reply.body.contains(word), "{headers:?}: {}", reply.body);
    }
    // What a browser asks before it sends JSON elsewhere is not answered with a yes.
    let asked = site.request("OPTIONS", path);
    assert_eq!(asked.code, 405);
    assert!(asked.headers.keys().all(|name| !name.starts_with("access-control")));
    assert!(site.orders.as_mut().unwrap().take().is_empty(), "nothing came through");
    // Our own page, and a name that the config knows.
    let ours = format!("http://{here}");
    let cases: [&[(&str, &str)]; 3] = [
        &[("host", &here), ("origin", &ours)],
        &[("host", "gateway.plant"), ("origin", "https://gateway.plant")],
        &[("content-type", "application/json; charset=utf-8")],
    ];
    for headers in cases {
        let (address, body) = (site.address, body.clone());
        let headers: Vec<(String, String)> =
            headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let sent = std::thread::spawn(move || {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            post(address, path, &headers, &body).code
        });
        let mut orders = site.orders.take().unwrap();
        let mut taken = Vec::new();
        site.until("the command comes through", || {
            taken.extend(orders.take());
            !taken.is_empty()
        });
        site.orders = Some(orders);
        drop(taken);
        assert_eq!(sent.join().unwrap(), 503, "nobody carried it out, and that is said");
    }
}

#[test]
fn a_node_that_takes_no_commands_says_so() {
    let site = Site::start(forebay::feed::NodeStatus { commands: false, ..status() });
    let reply = post(site.address, "/api/v1/alarms/ack", &[], &ask("high", ""));
    assert_eq!(reply.code, 403);
    assert!(reply.body.contains("feed.commands = true"), "{}", reply.body);
    assert_eq!(site.get("/api/v1/status").json()["commands"], false);
}

#[test]
fn the_queue_has_an_end_and_an_engine_that_is_busy_is_not_waited_for() {
    let site = Site::start(status());
    let body = ask("high", "");
    let open = || {
        let mut stream = TcpStream::connect(site.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let (host, length) = (site.address, body.len());
        write!(
            stream,
            "POST /api/v1/alarms/ack HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    };
    let answer = |mut stream: TcpStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let waiting: Vec<TcpStream> = (0..=WAITING).map(|_| open()).collect();
    let answers: Vec<String> = waiting.into_iter().map(answer).collect();
    let of =
        |code: &str| answers.iter().filter(|a| a.starts_with(&format!("HTTP/1.1 {code}"))).count();
    assert_eq!((of("202"), of("503")), (WAITING, 1), "{:?}", answers.last());
    let full = answers.iter().find(|a| a.contains("503")).unwrap();
    assert!(full.contains("too many commands wait"), "{full}");
}
