// The page's life: it asks the API once, then follows the stream. Names come from machines: they are only ever text.
"use strict";
const $ = (id) => document.getElementById(id);
const keyOf = (r) => JSON.stringify([r.pipeline, r.asset]);
const assets = new Map(); // key -> { view, at, card, visible, dirty, ... }
const alarms = new Map(); // key of alarm -> active alarm
let changes = [], node = null, shown = null, metric = null, lastWord = 0, lastTry = 0, source = null, reloading = false;
let isLoaded = false; // until the first lists are here, nothing is said about what there is not

function el(tag, props = {}, ...kids) {
  const made = Object.assign(document.createElement(tag), props);
  made.append(...kids);
  return made;
}
const SEVERITY = { critical: "‼ Critical", high: "! High", medium: "▲ Medium", low: "• Low" };
const STATE = { alarm: "! Alarm", above: "▲ Above threshold", silent: "◌ Silent", unscored: "? Not scored", normal: "✓ Normal" };
const ORDER = Object.keys(STATE);
const ALARM_STATE = { unacknowledged: "active", acknowledged: "active, acknowledged", returned: "over, not acknowledged", shelved: "shelved" };
const CHANGE = { unacknowledged: "raised", acknowledged: "acknowledged", returned: "over, not acknowledged", shelved: "shelved", normal: "back to normal" };
const VERDICT = { true: "judged: something was wrong", false: "judged: false alarm", unsure: "judged: unsure" };
// The state in words, with what an operator said of it.
const words = (a, names) => names[a.state] + (a.until ? " until " + clock(a.until) : "") + (a.by ? " by " + a.by : "") + (a.reason ? ": " + a.reason : "");
function pill(state, text) { const p = el("span", { className: "pill", textContent: text }); p.dataset.state = state; return p; }
const number = (v) => v == null ? "–" : Math.abs(v) >= 1e5 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(1) : String(+v.toPrecision(3));
const whole = (n) => n >= 1e6 ? (n / 1e6).toFixed(1) + " M" : Math.round(n).toLocaleString();
function ago(seconds) {
  if (seconds < 90) return Math.max(0, Math.round(seconds)) + " s ago";
  if (seconds < 5400) return Math.round(seconds / 60) + " min ago";
  return seconds < 172800 ? Math.round(seconds / 3600) + " h ago" : Math.round(seconds / 86400) + " days ago";
}
function clock(text) {
  const at = new Date(text), today = at.toDateString() === new Date().toDateString();
  return today ? at.toLocaleTimeString() : at.toLocaleString();
}
const href = (r) => "#/" + encodeURIComponent(r.pipeline) + "/" + encodeURIComponent(r.asset);
const api = (path) => fetch("/api/v1/" + path).then((r) => r.ok ? r.json() : Promise.reject(new Error(r.status)));

// --- the node
function showStatus(status) {
  node = status;
  document.title = (status.alarms_active ? "(" + status.alarms_active + ") " : "") + status.node + " · Forebay";
  $("node").textContent = status.node;
  const link = (l) => l ? [l.up ? "● up" : "○ down", l.up ? l.target : l.detail || l.target, l.up ? "" : "off"] : ["– none", "records stay here", ""];
  const up = link(status.uplink), bytes = Object.values(status.lanes).reduce((n, l) => n + l.waiting_bytes, 0);
  if (status.uplink && !status.uplink.up) up[2] = "warn";
  const tiles = [
    ["Broker", ...link(status.ingest)], ["Uplink", ...up],
    ["Readings", whole(status.readings_per_second) + " /s", "", ""],
    ["Waiting", whole(status.queued), !status.queued ? "" : bytes < 1e5 ? Math.round(bytes / 1e3) + " kB" : (bytes / 1e6).toFixed(1) + " MB", ""],
    ["Delivered", whole(status.delivered), status.outages ? status.outages + " outages bridged" : "", ""],
    ["Dropped", whole(status.evicted), status.evicted ? "by limits of the store" : "nothing lost", status.evicted ? "off" : ""],
  ];
  if (!status.store.ok) tiles.push(["Store", "○ failing", status.store.detail, "off"]);
  if (status.models_refused.length) tiles.push(["Model files", "○ refused", status.models_refused.join("; "), "off"]);
  tiles.push(["Models", status.runtime || "–", "Forebay " + status.version, ""]);
  $("strip").replaceChildren(...tiles.map(([name, value, more, cls]) =>
    el("div", { className: cls }, el("dt", { textContent: name }), el("dd", { textContent: value }, el("small", { textContent: more, title: more })))));
  const empty = isLoaded && assets.size === 0;
  $("empty").hidden = !empty;
  if (empty) $("empty").replaceChildren(...hints(status));
}
function hints(status) {
  if (!status.pipelines.length) return [el("p", { textContent: "No pipeline is configured. Put a pipeline file into the pipelines folder and start the node again." })];
  const first = status.ingest.up ? "Connected to " + status.ingest.target + ", and no window has been computed since the node started. Waiting for messages on:"
    : "The broker is not connected: " + (status.ingest.detail || status.ingest.target) + ". Once it is, messages are awaited on:";
  const topics = status.pipelines.flatMap((p) => p.topics.map((t) => el("code", { textContent: t + "   → " + p.name })));
  return [el("p", { textContent: first }), ...topics, el("p", { className: "sub", textContent: "A machine appears here with its first complete window. Messages that cannot be read are counted at /metrics (forebay_messages_rejected_total)." })];
}
function connection(state, text) { $("stream").dataset.state = state; $("stream").textContent = text; }

// --- alarms
const alarmKey = (a) => JSON.stringify([a.pipeline, a.asset, a.name]);
function alarmRow(a, time, ...rest) {
  const value = number(a.value) + (a.limit == null ? "" : " (limit " + number(a.limit) + ")");
  const row = el("tr", { className: a.state });
  for (const kid of [pill(a.severity, SEVERITY[a.severity]), el("a", { href: href(a), textContent: a.asset }), a.name, a.on + " " + value, clock(time), ...rest]) row.append(el("td", {}, kid));
  return row;
}
function showAlarms() {
  const rank = Object.keys(SEVERITY);
  const silent = (a) => a.state === "shelved", shelved = [...alarms.values()].filter(silent).length;
  const on = [...alarms.values()].sort((a, b) => silent(a) - silent(b) || rank.indexOf(a.severity) - rank.indexOf(b.severity) || (a.since < b.since ? 1 : -1));
  $("alarm-count").textContent = on.length - shelved + (shelved ? " · " + shelved + " shelved" : "");
  $("no-alarms").hidden = !isLoaded || on.length > shelved;
  $("alarms").hidden = on.length === 0;
  $("who").hidden = on.length === 0 || !node || !node.commands;
  const { alarm, act } = document.activeElement.dataset;
  $("alarms").querySelector("tbody").replaceChildren(...on.slice(0, 200).map((a) => alarmRow(a, a.since, judged(words(a, ALARM_STATE), a.verdict), deeds(a))));
  if (alarm) { // whoever was at a button of this alarm stays with it
    const same = [...document.querySelectorAll("#alarms button")].filter((b) => b.dataset.alarm === alarm);
    const next = same.find((b) => b.dataset.act === act) || same[0];
    if (next) next.focus();
  }
  $("recent").hidden = changes.length === 0;
  // A verdict on what is over stands at the alarm's last change.
  const last = new Set(), verdict = (a) => last.has(alarmKey(a)) ? null : last.add(alarmKey(a)) && a.state === "normal" && verdicts.get(alarmKey(a));
  $("changes").querySelector("tbody").replaceChildren(...changes.slice(0, 50).map((a) => alarmRow(a, a.at, judged(words(a, CHANGE), verdict(a)), a.state === "normal" ? deeds(a) : "")));
}
const verdicts = new Map(); // key of alarm -> the verdict on the last time it was raised, as far as it was heard
const judged = (text, verdict) => verdict ? text + " · " + VERDICT[verdict] : text;
function takeVerdict(r) {
  const key = alarmKey(r), on = alarms.get(key), time = (text) => new Date(text).getTime();
  if (on && (time(on.since) <= time(r.window_start) || time(on.since) > time(r.window_end))) return; // about an earlier time
  if (on) on.verdict = r.verdict;
  verdicts.set(key, r.verdict);
  showAlarms();
}
// What an operator can do to an alarm. What they did shows when the node says so, here and to everybody.
const asked = new Set(); // keys of alarms whose command is on its way
function deeds(a) {
  const key = alarmKey(a), place = el("span", { className: "tabs" });
  const add = (text, act) => {
    const b = el("button", { type: "button", textContent: text, onclick: () => { if (!asked.has(key)) act(); } });
    b.setAttribute("aria-label", text + " " + a.name + " on " + a.asset);
    b.setAttribute("aria-disabled", asked.has(key));
    Object.assign(b.dataset, { alarm: key, act: text });
    place.append(b);
  };
  if (!node || !node.commands) return place;
  if (a.state === "unacknowledged" || a.state === "returned") add("Acknowledge", () => command("ack", a));
  if (a.state === "shelved") add("Unshelve", () => command("unshelve", a)); else if (a.state !== "normal") add("Shelve", () => askShelve(a));
  add("Judge", () => askVerdict(a));
  return place;
}
async function command(path, a, more) {
  const key = alarmKey(a), by = $("by").value.trim(), what = a.name + " on " + a.asset + ": ";
  let good = false, said;
  asked.add(key);
  showAlarms();
  try {
    const body = JSON.stringify({ pipeline: a.pipeline, asset: a.asset, alarm: a.name, ...(by && { by }), ...more });
    const answer = await fetch("/api/v1/alarms/" + path, { method: "POST", headers: { "content-type": "application/json" }, body });
    const told = await answer.json();
    good = answer.ok;
    said = !good ? told.error + "; expected: " + told.expected : path === "judge" ? "the verdict is kept" : told.state ? CHANGE[told.state] : "accepted, and not yet carried out";
  } catch { said = "the node does not answer, so it may not have been done"; }
  asked.delete(key);
  $("said").textContent = what + said;
  $("said").dataset.state = good ? "normal" : "alarm";
  showAlarms();
}
let toShelve = null;
function askShelve(a) {
  toShelve = a;
  $("shelve-what").textContent = a.name + " on " + a.asset + " stays silent for that time, whatever happens. If it is on after it, it is raised again.";
  $("shelve").showModal();
}
let toJudge = null;
function askVerdict(a) {
  toJudge = a;
  $("judge-what").textContent = "Was something wrong with " + a.asset + " when " + a.name + " was raised the last time? What was measured then is kept with the answer.";
  $("judge").showModal();
}
function takeAlarm(a) {
  const key = alarmKey(a), before = alarms.get(key);
  if (a.state === "unacknowledged") verdicts.delete(key);
  if (a.state === "normal") alarms.delete(key);
  else alarms.set(key, { ...a, ...(before && a.state !== "unacknowledged" ? { since: before.since, verdict: before.verdict } : { since: a.at }) });
  changes = [a, ...changes].slice(0, 50);
  $("announce").textContent = `${SEVERITY[a.severity].slice(2)} alarm ${a.name} on ${a.asset}: ${words(a, CHANGE)}`;
  showAlarms();
  if (assets.has(keyOf(a))) { restate(assets.get(keyOf(a))); assets.get(keyOf(a)).dirty = true; } else reload();
  if (shown === keyOf(a)) wantDetail = true;
}

// --- assets
function restate(entry) {
  const v = entry.view, silent = Math.max(60, 5 * (v.every_seconds || 0));
  const mine = [...alarms.values()].filter((a) => a.pipeline === v.pipeline && a.asset === v.asset), was = v.state;
  const on = mine.filter((a) => a.state !== "shelved");
  entry.shelved = mine.length - on.length;
  entry.age = v.age_seconds + (Date.now() - entry.at) / 1000;
  v.alarms = on.map((a) => a.name);
  entry.worst = Math.min(9, ...on.map((a) => Object.keys(SEVERITY).indexOf(a.severity)));
  v.state = on.length ? "alarm" : entry.age > silent ? "silent"
    : v.scores.some((s) => s.value != null && s.threshold != null && s.value >= s.threshold) ? "above"
    : v.scores.some((s) => s.value == null) ? "unscored" : "normal";
  unsorted = unsorted || was !== v.state || !entry.card.isConnected;
  if (entry.visible || was !== v.state || !entry.card.isConnected) paintCard(entry);
}
function makeCard(entry) {
  const parts = { name: el("b"), state: el("span"), sub: el("div"), scores: el("div"), spark: el("div"), left: el("span"), right: el("span") };
  parts.sub.className = "sub"; parts.scores.className = "scores"; parts.spark.className = "spark";
  const link = el("a", { href: href(entry.view) }, el("div", { className: "name" }, parts.name, parts.state), parts.sub, parts.scores, parts.spark, el("div", { className: "foot" }, parts.left, parts.right));
  entry.card = el("li", {}, link);
  entry.card.entry = entry;
  Object.assign(entry, { parts, link, visible: false, dirty: true });
  watcher.observe(entry.card);
}
function paintCard(entry) {
  const v = entry.view, p = entry.parts;
  const look = v.state === "alarm" ? Object.keys(SEVERITY)[entry.worst] : v.state;
  entry.link.className = look;
  p.name.textContent = v.asset;
  p.state.className = "pill"; p.state.dataset.state = look;
  p.state.textContent = v.state === "alarm" ? SEVERITY[look] + " alarm" : STATE[v.state];
  p.sub.textContent = [v.alarms.join(", "), entry.shelved && entry.shelved + " shelved", v.pipeline, ...Object.values(v.tags || {})].filter(Boolean).join(" · ");
  p.scores.replaceChildren(...v.scores.map((s) => el("span", { className: s.value != null && s.threshold != null && s.value >= s.threshold ? "over" : "" },
    el("b", { textContent: number(s.value) }), " " + s.name.replaceAll("_", " ") + (s.threshold == null ? "" : " / " + number(s.threshold)))));
  p.left.textContent = v.window_end ? "window " + ago(entry.age) : "no window since the node started";
  p.right.textContent = v.coverage == null ? "" : Math.round(100 * v.coverage) + " % covered";
  sift(entry);
}
const byName = new Intl.Collator(undefined, { numeric: true });
const order = (a, b) => ORDER.indexOf(a.view.state) - ORDER.indexOf(b.view.state) || a.worst - b.worst
  || byName.compare(a.view.asset, b.view.asset) || byName.compare(a.view.pipeline, b.view.pipeline);
let unsorted = true;
function sift(entry) {
  const text = $("filter").value.toLowerCase(), only = $("only").value;
  entry.card.hidden = !(entry.view.asset + " " + entry.view.pipeline).toLowerCase().includes(text) || (only !== "" && only !== entry.view.state);
}
// Cards stand with those that need somebody first; only those out of place are moved.
function arrange() {
  if (!unsorted) return;
  unsorted = false;
  let at = $("cards").firstChild;
  for (const entry of [...assets.values()].sort(order)) {
    if (entry.card === at) at = at.nextSibling; else $("cards").insertBefore(entry.card, at);
  }
}
function takeView(view) {
  const key = keyOf(view), entry = assets.get(key) || { key };
  Object.assign(entry, { view, at: Date.now(), dirty: true });
  if (!entry.card) makeCard(entry);
  assets.set(key, entry);
  restate(entry);
}
function takeScore(r) {
  const entry = assets.get(keyOf(r));
  if (!entry) return reload();
  const v = entry.view, models = r.models || [], main = models.length ? models[0].output : Object.keys(r.scores)[0];
  if (v.window_end && r.window_end > v.window_end) v.every_seconds = (new Date(r.window_end) - new Date(v.window_end)) / 1000;
  const threshold = (name) => models.length ? (models.find((m) => m.output === name) || {}).threshold : name === main ? r.threshold : null;
  v.scores = Object.entries(r.scores).map(([name, value]) => ({ name, value, threshold: threshold(name) })).sort((a, b) => (b.name === main) - (a.name === main));
  Object.assign(v, { window_end: r.window_end, coverage: r.coverage, age_seconds: 0 });
  Object.assign(entry, { at: Date.now(), dirty: true });
  restate(entry);
  if (shown === entry.key) wantDetail = true;
}
const watcher = new IntersectionObserver((seen) => { for (const s of seen) if ((s.target.entry.visible = s.isIntersecting)) paintCard(s.target.entry); }, { rootMargin: "100px" });

// --- charts: at most one a second for each asset in sight
async function chart(place, view, options) {
  const query = new URLSearchParams({ ...options, offset: -new Date().getTimezoneOffset() });
  const answer = await fetch(`/api/v1/chart/${encodeURIComponent(view.pipeline)}/${encodeURIComponent(view.asset)}.svg?${query}`);
  if (!answer.ok) return;
  const svg = new DOMParser().parseFromString(await answer.text(), "image/svg+xml").documentElement;
  if (svg.nodeName === "svg") place.replaceChildren(document.importNode(svg, true));
}
let busy = 0;
function drawCharts() {
  if (document.hidden) return;
  for (const entry of assets.values()) {
    if (busy >= 4) break;
    if (!entry.dirty || !entry.visible || shown) continue;
    entry.dirty = false; busy++;
    chart(entry.parts.spark, entry.view, { width: Math.min(600, Math.max(120, entry.parts.spark.clientWidth)), height: 56 })
      .catch(() => { entry.dirty = true; }).finally(() => { if (--busy === 3) drawCharts(); });
  }
}

// --- one asset
let wantDetail = false;
async function route() {
  const [, pipeline, asset] = location.hash.split("/");
  const was = shown;
  try { shown = asset === undefined ? null : JSON.stringify([decodeURIComponent(pipeline), decodeURIComponent(asset)]); } catch { shown = null; }
  $("overview").hidden = !!shown; $("detail").hidden = !shown;
  if (was !== shown) { metric = null; window.scrollTo(0, 0); $("chart").replaceChildren(); }
  if (shown) { await showDetail(); if (was !== shown) $("detail-title").focus(); } else drawCharts();
}
async function showDetail() {
  const key = shown, [pipeline, name] = JSON.parse(key), focused = document.activeElement.dataset.metric;
  $("detail-title").textContent = name;
  let body;
  try { body = await api("assets/" + encodeURIComponent(pipeline) + "/" + encodeURIComponent(name)); }
  catch (e) { $("detail-facts").textContent = e.message === "404" ? "This asset has not been seen since the node started." : "The node does not answer."; return; }
  if (shown !== key) return;
  const view = body.asset, last = body.last, names = view.scores.map((s) => s.name);
  if (metric === null) metric = names[0] || Object.keys(last ? last.features : {})[0] || "";
  $("detail-state").replaceChildren(pill(view.state, STATE[view.state]));
  $("detail-facts").textContent = [pipeline, ...Object.entries(view.tags).map(([k, v]) => k + " " + v),
    last && last.model && last.model + " " + (last.model_version || "").slice(0, 12),
    last && "window " + clock(last.window_start) + " – " + clock(last.window_end),
    last && Math.round(100 * last.coverage) + " % covered"].filter(Boolean).join(" · ");
  const tab = (text, which) => { const b = el("button", { type: "button", textContent: text, onclick: () => { metric = which; showDetail(); } }); b.setAttribute("aria-pressed", metric === which); b.dataset.metric = which; return b; };
  $("metrics").replaceChildren(...view.scores.map((s) => tab(s.name.replaceAll("_", " ") + " " + number(s.value), s.name)), ...(metric && !names.includes(metric) ? [tab(metric, metric)] : []));
  const most = Math.max(...(last ? last.contributions || [] : []).map((c) => Math.abs(c.value)), 1e-300);
  $("contributions").replaceChildren(...(last && last.contributions || []).slice(0, 8).map((c) => {
    const bar = el("i"); bar.style.width = 100 * Math.abs(c.value) / most + "%";
    return el("li", {}, el("span", { textContent: c.name }), el("span", { className: "meter" }, bar), number(c.value));
  }));
  if (!$("contributions").children.length) $("contributions").append(el("li", { className: "sub", textContent: "The model does not say." }));
  $("history").replaceChildren(...body.changes.slice(0, 20).map((a) => el("li", {}, pill(a.severity, SEVERITY[a.severity]), ` ${a.name} ${words(a, CHANGE)}, ${clock(a.at)}, ${a.on} ${number(a.value)}`)));
  if (!body.changes.length) $("history").append(el("li", { className: "sub", textContent: "No alarm since the node started." }));
  document.querySelector("figcaption .limit").hidden = !names.includes(metric);
  $("legend").textContent = metric.replaceAll("_", " ");
  showFeatures(last ? last.features : {}, tab);
  if (focused) { const again = document.querySelector(`[data-metric="${CSS.escape(focused)}"]`); if (again) again.focus(); }
  await chart($("chart"), view, { score: metric, width: Math.min(1300, Math.max(200, $("chart").clientWidth)), height: 280 }).catch(() => {});
}
function showFeatures(features, tab) {
  const split = (name) => { const dot = name.lastIndexOf("."); return dot < 0 ? [name, ""] : [name.slice(0, dot), name.slice(dot + 1)]; };
  const rows = [...new Set(Object.keys(features).map((n) => split(n)[0]))], columns = [...new Set(Object.keys(features).map((n) => split(n)[1]))];
  const heading = (text, scope) => { const h = el("th", { textContent: text }); h.scope = scope; return h; };
  const cell = (row, column) => { const name = column ? row + "." + column : row; return el("td", {}, name in features ? tab(number(features[name]), name) : ""); };
  $("features").replaceChildren(el("thead", {}, el("tr", {}, heading("Signal", "col"), ...columns.map((c) => heading(c, "col")))),
    el("tbody", {}, ...rows.map((r) => el("tr", {}, heading(r, "row"), ...columns.map((c) => cell(r, c))))));
}

// --- keeping up
async function reload() {
  if (reloading) return;
  reloading = true;
  try {
    const [status, list, on, recent] = await Promise.all([api("status"), api("assets?limit=2000"), api("alarms?active=true"), api("alarms?limit=50")]);
    isLoaded = true;
    alarms.clear();
    for (const a of on) { alarms.set(alarmKey(a), a); if (a.verdict) verdicts.set(alarmKey(a), a.verdict); }
    changes = recent;
    const present = new Set(list.assets.map(keyOf));
    for (const [key, entry] of assets) if (!present.has(key)) { watcher.unobserve(entry.card); entry.card.remove(); assets.delete(key); }
    for (const view of list.assets) takeView(view);
    $("asset-count").textContent = list.total > list.assets.length ? list.assets.length + " of " + list.total : list.total;
    arrange(); showStatus(status); showAlarms();
    if (shown) wantDetail = true;
  } catch { /* the stream says that the node is away */ }
  // New assets come in bunches: not more than one reload a second for all of them.
  setTimeout(() => { reloading = false; }, 1000);
}
function lost() {
  connection("lost", "✕ disconnected");
  $("banner").hidden = false;
  document.body.className = "stale";
  $("banner").textContent = "Disconnected from the node: what is shown is from " + new Date(lastWord || Date.now()).toLocaleTimeString() + ". Trying again…";
}
function listen() {
  if (source) source.close();
  lastTry = Date.now();
  source = new EventSource("/api/v1/stream?brief=true");
  const on = (name, take) => source.addEventListener(name, (e) => { lastWord = Date.now(); take(JSON.parse(e.data)); });
  source.onopen = () => { lastWord = Date.now(); connection("live", "● live"); $("banner").hidden = true; document.body.className = ""; reloading = false; reload(); };
  source.onerror = lost;
  on("score", takeScore); on("alarm", takeAlarm); on("verdict", takeVerdict); on("status", showStatus);
  on("skipped", () => { reload(); }); on("loss", () => {});
}
// A connection can die without a word; the node's status comes at least every 10 s.
setInterval(() => {
  const silent = Date.now() - Math.max(lastWord, lastTry) > 25000;
  if (source.readyState === EventSource.CLOSED || silent) { lost(); listen(); }
}, 3000);
setInterval(() => { arrange(); drawCharts(); if (shown && wantDetail && !document.hidden) { wantDetail = false; showDetail(); } }, 1000);
setInterval(() => { for (const entry of assets.values()) restate(entry); }, 5000);
for (const id of ["filter", "only"]) $(id).addEventListener("input", () => { for (const entry of assets.values()) sift(entry); });
try { $("by").value = localStorage.getItem("by") || ""; } catch { /* no place to remember a name */ }
$("by").addEventListener("change", () => { try { localStorage.setItem("by", $("by").value); } catch { /* then it is asked again */ } });
for (const button of document.querySelectorAll("#shelve button")) button.addEventListener("click", () => {
  const reason = $("shelve-reason").value.trim();
  $("shelve").close();
  if (button.dataset.for) { command("shelve", toShelve, { for: button.dataset.for, ...(reason && { reason }) }); $("shelve-reason").value = ""; }
});
for (const button of document.querySelectorAll("#judge button")) button.addEventListener("click", () => {
  const fault = $("judge-fault").value.trim(), note = $("judge-note").value.trim(), verdict = button.dataset.verdict;
  $("judge").close();
  if (verdict) { command("judge", toJudge, { verdict, ...(fault && { fault }), ...(note && { note }) }); $("judge-fault").value = $("judge-note").value = ""; }
});
window.addEventListener("hashchange", route);
window.addEventListener("resize", () => { wantDetail = true; for (const entry of assets.values()) entry.dirty = true; });
listen(); route();
