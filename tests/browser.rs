//! The page in a real Chromium: what happens in the plant shows up without a reload, in light and dark, on any width.
//!
//! Chromium is driven over its own DevTools protocol, through a pipe. Where it is not installed these tests say so
//! and pass; with `CI` set they fail. `FOREBAY_SCREENSHOTS=DIR` keeps pictures (base64 of PNG).

#![allow(clippy::print_stderr, reason = "a skipped test says so")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod feed_kit;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use feed_kit::works::Works;
use feed_kit::{DEADLINE, Site, alarm, plant, score, status};
use forebay::feed::NodeStatus;
use forebay::record::{AlarmState, Record, Severity};
use forebay::time;
use serde_json::{Value, json};

/// A page in a browser of its own.
struct Browser {
    child: Child,
    input: ChildStdin,
    answers: mpsc::Receiver<Value>,
    session: String,
    last: u64,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None`, with a line that says why, where Chromium is not installed.
    fn start() -> Option<Browser> {
        let names = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
        let Some(program) = names.into_iter().find(|name| std::path::Path::new(name).exists())
        else {
            assert!(std::env::var_os("CI").is_none(), "CI must have chromium installed");
            eprintln!("skipped: no chromium at {}", names.join(", "));
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // The browser takes commands on descriptor 3 and answers on 4, each ended by a zero byte.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", program])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let answers = read_answers(child.stdout.take().unwrap());
        let session = String::new();
        let mut browser = Browser { child, input, answers, session, last: 0, _profile: profile };
        let made = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": made["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", &attach);
        browser.session.push_str(session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    /// Sends a command and waits for its answer.
    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_empty() {
            command["sessionId"] = self.session.clone().into();
        }
        self.input.write_all(command.to_string().as_bytes()).unwrap();
        self.input.write_all(&[0]).unwrap();
        self.input.flush().unwrap();
        loop {
            let answer = self.answers.recv_timeout(DEADLINE).expect("chromium answers");
            if answer["id"] == self.last {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// What an expression in the page comes to.
    fn eval(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", &params);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Polls until the expression is true.
    fn until(&mut self, expression: &str) {
        let start = time::monotonic();
        while self.eval(expression) != true {
            if start.elapsed() > DEADLINE {
                let text = self.eval("document.body.innerText");
                panic!("never true: {expression}\npage:\n{}", text.as_str().unwrap_or_default());
            }
        }
    }

    /// Opens the page and waits until its stream is up.
    fn open(&mut self, site: &Site, width: u32, dark: bool) {
        self.look(width, dark);
        self.call("Page.navigate", &json!({ "url": format!("http://{}/", site.address) }));
        self.until("!!document.querySelector('#stream[data-state=live]')");
        // Whoever reloads loses this mark.
        self.eval("window.opened = 'once'");
    }

    fn look(&mut self, width: u32, dark: bool) {
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// Keeps a picture, where somebody wants to look at it.
    fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("FOREBAY_SCREENSHOTS") else { return };
        self.until("![...document.querySelectorAll('.spark')].some(s => { const r = s.getBoundingClientRect(); return r.top < 900 && r.height && !s.firstChild; })");
        let size = self.eval("Math.min(4000, document.documentElement.scrollHeight)");
        let width = self.eval("innerWidth");
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": size, "scale": 1 });
        let picture = json!({ "format": "png", "clip": clip, "captureBeyondViewport": true });
        let answer = self.call("Page.captureScreenshot", &picture);
        let file = std::path::Path::new(&folder).join(format!("{name}.png.b64"));
        std::fs::write(file, answer["data"].as_str().unwrap()).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to close, it takes its children along and leaves its folder alone.
        self.session.clear();
        let _ = self.input.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        while self.answers.recv_timeout(Duration::from_secs(5)).is_ok() {}
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_answers(output: ChildStdout) -> mpsc::Receiver<Value> {
    let (sender, answers) = mpsc::sync_channel(1024);
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut bytes = Vec::new();
        while output.read_until(0, &mut bytes).is_ok_and(|n| n > 0) {
            bytes.pop();
            if let Ok(value) = serde_json::from_slice(&bytes) {
                let _ = sender.send(value);
            }
            bytes.clear();
        }
    });
    answers
}

#[test]
fn an_alarm_and_a_score_appear_without_a_reload() {
    let Some(mut browser) = Browser::start() else { return };
    let mut site = Site::start(status());
    plant(&mut site);
    browser.open(&site, 1280, false);
    browser.until("document.querySelectorAll('#cards > li').length === 12");
    browser.until("document.querySelector('#cards .spark svg') !== null");
    browser.until("document.querySelectorAll('#alarms tbody tr').length === 3");
    let now = time::now();
    site.publish(vec![alarm(
        "pump-05",
        "dry running",
        AlarmState::Unacknowledged,
        Severity::Critical,
        now,
    )]);
    browser.until("document.querySelector('#alarms').innerText.includes('dry running')");
    browser.until(
        "document.querySelector('#announce').textContent.includes('dry running on pump-05')",
    );
    let state =
        "[...document.querySelectorAll('#cards a')].find(a => a.innerText.includes('pump-05'))";
    browser.until(&format!(
        "{state}.className === 'critical' && {state}.innerText.includes('Critical alarm')"
    ));
    let mut one = score("pump-05", now, 1, 0.0);
    one.scores.insert("anomaly".into(), Some(7.77));
    site.publish(vec![Record::Score(one)]);
    browser.until(&format!("{state}.innerText.includes('7.77')"));
    site.publish(vec![alarm(
        "pump-05",
        "dry running",
        AlarmState::Normal,
        Severity::Critical,
        now,
    )]);
    browser.until("!document.querySelector('#alarms').innerText.includes('dry running')");
    assert_eq!(browser.eval("window.opened"), "once", "the page was never loaded again");
}

#[test]
fn an_operator_acknowledges_and_shelves_without_a_reload() {
    let Some(mut browser) = Browser::start() else { return };
    let mut works = Works::start();
    works.run(0.0);
    works.run(5.0);
    browser.open(&works.site, 1280, false);
    let alarms = "document.querySelector('#alarms').innerText";
    let button =
        |label: &str| format!("document.querySelector('#alarms [aria-label=\"{label}\"]')");
    let ack = button("Acknowledge seized on m0");
    browser.until(&format!("!!{ack}"));
    browser.eval("(b => { b.value = 'anna'; b.dispatchEvent(new Event('change')); })(document.querySelector('#by'))");
    browser.eval(&format!("{ack}.focus()"));
    browser.picture("alarms-1280-light");
    browser.eval(&format!("{ack}.click()"));
    browser.until(&format!("{ack}.getAttribute('aria-disabled') === 'true'"));
    works.obey();
    browser.until(&format!("{alarms}.includes('active, acknowledged by anna')"));
    browser.until(&format!("{ack} === null"));
    assert_eq!(
        browser.eval("document.activeElement.getAttribute('aria-label')"),
        "Shelve seized on m0",
        "the keyboard stays with the alarm"
    );
    browser.until(
        "document.querySelector('#said').textContent.includes('seized on m0: acknowledged')",
    );

    browser.eval(&format!("{}.click()", button("Judge seized on m0")));
    browser.until("document.querySelector('#judge').open");
    browser.eval("document.querySelector('#judge [data-verdict=\"false\"]').click()");
    works.obey();
    browser.until(&format!("{alarms}.includes('by anna · judged: false alarm')"));
    let listed = works.site.get("/api/v1/alarms?active=true").json();
    let verdict = |name: &str| {
        listed.as_array().unwrap().iter().find(|a| a["name"] == name).unwrap()["verdict"].clone()
    };
    assert_eq!((verdict("seized"), verdict("high")), ("false".into(), Value::Null));

    // On a phone, in the dark.
    browser.look(375, true);
    browser.eval(&format!("{}.click()", button("Shelve high on m0")));
    browser.until("document.querySelector('#shelve').open");
    browser.picture("shelve-375-dark");
    browser.eval("document.querySelector('#shelve-reason').value = 'bearing is changed'");
    browser.eval("document.querySelector('#shelve [data-for=\"8h\"]').click()");
    works.obey();
    browser.until(&format!("{alarms}.includes('by anna: bearing is changed')"));
    browser.until("document.querySelector('#alarm-count').textContent === '1 · 1 shelved'");
    browser.until("document.documentElement.scrollWidth <= innerWidth");
    browser.picture("alarms-375-dark");
    works.run(0.0);
    works.run(0.0);
    browser.until("!document.querySelector('#no-alarms').hidden");
    browser.eval(&format!("{}.click()", button("Unshelve high on m0")));
    works.obey();
    browser.until("document.querySelector('#alarms').hidden");
    assert_eq!(browser.eval("window.opened"), "once", "the page was never loaded again");
}

#[test]
fn a_command_that_is_refused_is_said() {
    let Some(mut browser) = Browser::start() else { return };
    let mut works = Works::start();
    works.run(0.0);
    works.run(5.0);
    browser.open(&works.site, 1280, true);
    let ack = "document.querySelector('#alarms [aria-label=\"Acknowledge high on m0\"]')";
    browser.until(&format!("!!{ack}"));
    // Somebody else was quicker, and this page still has the button under its finger.
    let body = "{\"pipeline\":\"rig\",\"asset\":\"m0\",\"alarm\":\"high\"}";
    assert_eq!(works.post("/api/v1/alarms/ack", body).code, 200);
    browser.eval("void command('ack', { pipeline: 'rig', asset: 'm0', name: 'high' })");
    works.obey();
    browser.until(
        "document.querySelector('#said').textContent.includes('there is nothing to acknowledge')",
    );
    // A node that takes no commands offers none.
    works.site.status.send_modify(|s| s.commands = false);
    browser.eval("listen()");
    browser.until("document.querySelectorAll('#alarms button').length === 0");
}

#[test]
fn a_lost_node_is_said_and_found_again() {
    let Some(mut browser) = Browser::start() else { return };
    let mut site = Site::start(status());
    site.publish(vec![Record::Score(score("pump-01", time::now(), 1, 0.0))]);
    let address = site.address.to_string();
    browser.open(&site, 1280, false);
    browser.until("document.querySelector('#cards .spark svg') !== null");
    site.end();
    browser.until("document.querySelector('#stream').textContent.includes('disconnected')");
    browser.until("!document.querySelector('#banner').hidden");
    browser.picture("lost");
    let mut site = Site::start_at(&address, status());
    site.publish(vec![Record::Score(score("pump-02", time::now(), 1, 0.0))]);
    browser.until("!!document.querySelector('#stream[data-state=live]')");
    browser.until("document.querySelector('#cards').innerText.includes('pump-02')");
    browser.until("document.querySelector('#banner').hidden");
    assert_eq!(browser.eval("window.opened"), "once");
}

#[test]
fn hostile_names_are_only_text() {
    let Some(mut browser) = Browser::start() else { return };
    let mut site = Site::start(status());
    let name = "<img src=x onerror=\"window.broken=1\"><script>window.broken=1</script>";
    let mut one = score(name, time::now(), 1, 0.0);
    one.pipeline = "</b>&amp;".into();
    one.features.insert("<s>x</s>.mean".into(), Some(1.0));
    one.contributions[0].name = "<u>y</u>".into();
    site.publish(vec![Record::Score(one)]);
    site.publish(vec![alarm(name, name, AlarmState::Unacknowledged, Severity::Low, time::now())]);
    browser.open(&site, 1280, false);
    browser.until("document.querySelector('#alarms').innerText.includes('onerror')");
    browser.until("document.querySelector('#cards .spark svg') !== null");
    browser.eval("document.querySelector('#cards a[href*=\"amp\"]').click()");
    browser.until("document.querySelector('#detail-title').textContent.startsWith('<img')");
    browser.until("document.querySelector('#chart svg title') !== null");
    browser.until("document.querySelector('#contributions').innerText.includes('<u>y</u>')");
    let injected =
        browser.eval("document.querySelectorAll('main img, main script, main s, main u').length");
    assert_eq!(injected, 0);
    assert_eq!(browser.eval("window.broken === undefined"), true);
}

#[test]
fn an_asset_is_shown_in_detail() {
    let Some(mut browser) = Browser::start() else { return };
    let mut site = Site::start(status());
    plant(&mut site);
    browser.open(&site, 1280, false);
    browser.until("document.querySelectorAll('#cards > li').length === 12");
    browser.eval("document.querySelector('#cards a').click()");
    browser.until(
        "document.querySelector('#chart svg title')?.textContent.startsWith('pump-04: anomaly')",
    );
    assert_eq!(browser.eval("document.querySelectorAll('#features tbody tr').length"), 8);
    browser.picture("detail-light");
    browser.eval("document.querySelector('#features td button').click()");
    browser.until(
        "document.querySelector('#chart svg title').textContent.includes('bearing_temp.crest')",
    );
    let risen = score("pump-04", time::now(), 3, 8.0);
    let text = "document.querySelector('#metrics').innerText";
    site.publish(vec![Record::Score(risen)]);
    browser.until(&format!("{text}.includes('8.')"));
    for (width, dark) in [(1280, true), (375, false), (320, true)] {
        browser.look(width, dark);
        browser.until("document.documentElement.scrollWidth <= innerWidth");
        let drawn = "Math.abs(document.querySelector('#chart svg').width.baseVal.value \
            - document.querySelector('#chart').clientWidth) < 2";
        browser.until(drawn);
        browser.picture(&format!("detail-{width}"));
    }
    browser.eval("history.back()");
    browser.until("!document.querySelector('#overview').hidden");
}

#[test]
fn it_fits_every_width_in_both_schemes() {
    let Some(mut browser) = Browser::start() else { return };
    let mut site = Site::start(status());
    plant(&mut site);
    for (width, dark) in [(1440, false), (1440, true), (768, false), (375, false), (320, true)] {
        browser.open(&site, width, dark);
        browser.until("document.querySelectorAll('#cards > li').length === 12");
        browser.until("document.querySelector('#cards .spark svg') !== null");
        let over = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll,.hidden') \
            && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className).join()";
        assert_eq!(browser.eval(over), "", "sticks out at {width} px");
        let scheme = if dark { "dark" } else { "light" };
        browser.picture(&format!("overview-{width}-{scheme}"));
    }
}

#[test]
fn with_nothing_to_show_it_says_what_it_waits_for() {
    let Some(mut browser) = Browser::start() else { return };
    let site = Site::start(status());
    browser.open(&site, 1280, false);
    browser.until("document.querySelector('#empty').innerText.includes('plant/{site}/pump/{asset}/telemetry')");
    browser.picture("empty");
    site.status.send_modify(|s| {
        s.ingest.up = false;
        s.ingest.detail = "connection refused".into();
        s.uplink = None;
    });
    browser.until("document.querySelector('#empty').innerText.includes('connection refused')");
    browser.picture("empty-down");
    site.status.send_modify(|s| *s = NodeStatus::default());
    browser
        .until("document.querySelector('#empty').innerText.includes('No pipeline is configured')");
}

#[test]
fn hundreds_of_assets_stay_usable() {
    let Some(mut browser) = Browser::start() else { return };
    let mut site = Site::start(status());
    for n in 0..600_u64 {
        site.publish(vec![Record::Score(score(&format!("pump-{n}"), time::now(), n, 0.0))]);
    }
    browser.open(&site, 1280, false);
    browser.until("document.querySelectorAll('#cards > li').length === 600");
    browser.until("document.querySelectorAll('#cards .spark svg').length >= 8");
    let order = browser.eval("[...document.querySelectorAll('#cards b')].length && [...document.querySelectorAll('.name b')].slice(0, 11).map(b => b.textContent).join()");
    assert_eq!(
        order,
        "pump-0,pump-1,pump-2,pump-3,pump-4,pump-5,pump-6,pump-7,pump-8,pump-9,pump-10"
    );
    let drawn = browser.eval("document.querySelectorAll('#cards .spark svg').length").as_u64();
    assert!(drawn.unwrap() < 60, "only those in sight are drawn: {drawn:?}");
    browser.eval("(f => { f.value = 'pump-59'; f.dispatchEvent(new Event('input')); })(document.querySelector('#filter'))");
    browser.until("document.querySelectorAll('#cards > li:not([hidden])').length === 11");
    site.publish(vec![alarm(
        "pump-444",
        "wear",
        AlarmState::Unacknowledged,
        Severity::High,
        time::now(),
    )]);
    browser.eval("(f => { f.value = ''; f.dispatchEvent(new Event('input')); })(document.querySelector('#filter'))");
    browser.until("document.querySelector('#cards b').textContent === 'pump-444'");
}
