//! Mistakes in pipelines.

use crate::{PIPELINE, node, snapshot, with};

fn pipeline(text: &str) -> String {
    node(&[("pipelines/pump.toml", text)])
}

#[test]
fn keys_types_and_choices() {
    let text = r#"
title = "pump"
schema = "pumps"
topics = "plant/{asset}"
format = "json"

[time]
lateness = 2
idel = "30s"
earliest = 2020-01-01

[[stage]]
clean = { duplicates = "frist", spikes = { hampel = { width = "7", sigma = 4 } }, stuck_after = "10 minuts" }
[[stage]]
resample = { fill = "lineal", max_gap = "5" }
[[stage]]
window = { lenght = "60s", every = "10s", lateness = "2s", features = ["mean", "stdd", 3], min_coverage = "0.8" }
[[stage]]
smooth = { width = 3 }
[[stage]]
score = { model = "m.onnx", input = "features", treshold = 0.9 }
emit = { lane = "score" }
[[stage]]
emit = { lane = "scores" }
[[stage]]
"#;
    snapshot("pipeline-keys", &pipeline(text));
}

#[test]
fn topics() {
    let text = with(
        PIPELINE,
        &[(
            r#"["plant/{site}/pump/{asset}"]"#,
            r#"[
  "plant/{machine}/telemetry",
  "plant/pump-{asset}/x",
  "plant/{asset}/{asset}",
  "plant/{asset}/{}",
  "plant/#/{asset}",
  "plant/a+/{asset}",
  "",
  "ok/{asset}",
  "ok/{asset}",
]"#,
        )],
    );
    snapshot("pipeline-topics", &pipeline(&text));
}

#[test]
fn formats() {
    let format = |text: &str| {
        let to = format!("topics = [\"plant/{{site}}/pump/{{asset}}\"]\nformat = {text}");
        pipeline(&with(PIPELINE, &[("topics = [\"plant/{site}/pump/{asset}\"]", &to)]))
    };
    let told = [
        format(
            r#"{ json = { time = "$.data..ts", unit = "ms", signals = { vib = "a.b", presure = "p" } } }"#,
        ),
        format(r#"{ json = { unit = "millis", signal = "name", values = "data" } }"#),
        format(r#"{ json = { unit = "ms" } }"#),
        format(r#"{ json = { time = "ts", quality = "ts" } }"#),
        format("{ scalar = {} }"),
        format(r#"{ scalar = { signal = "vibration" } }"#),
        format("{ sparkplug = {} }"),
    ];
    snapshot("pipeline-formats", &told.join("\n----\n\n"));
}

#[test]
fn recordings_and_times() {
    let recording =
        |text: &str| pipeline(&with(PIPELINE, &[("\n[[stage]]", &format!("{text}\n[[stage]]"))]));
    let told = [
        recording(
            r#"recording = { delimiter = ", ", time_format = "YYYY-MM-DD", zone = "Berlin", signal = "name", signals = { presure = "P" } }"#,
        ),
        recording(
            r#"recording = { time_format = "%H:%M:%S", zone = "Europe/Berlni", value = "v" }"#,
        ),
        recording(
            r#"time = { idle = "0s", lateness = "3 days", earliest = "2120-01-01T00:00:00Z" }"#,
        ),
        recording(r#"time = { lateness = "48h" }"#),
    ];
    snapshot("pipeline-recordings", &told.join("\n----\n\n"));
}

#[test]
fn the_order_of_stages() {
    let head = "name = \"pump\"\nschema = \"pump\"\ntopics = [\"{asset}\"]\n";
    let clean = "[[stage]]\nclean = {}\n";
    let resample = "[[stage]]\nresample = { every = \"1s\" }\n";
    let window = "[[stage]]\nwindow = { length = \"60s\", features = [\"mean\"] }\n";
    let emit = |lane: &str| format!("[[stage]]\nemit = {{ lane = \"{lane}\" }}\n");
    let (feature, score, raw, alarm) = (emit("feature"), emit("score"), emit("raw"), emit("alarm"));
    let raise = "[[stage]]\nalarm = { name = \"a\", on = \"pressure.mean\", raise = 9 }\n";
    let orders: Vec<Vec<&str>> = vec![
        vec![],
        vec![clean, resample, window],
        vec![resample, clean, window, &feature],
        vec![clean, window, resample, &feature],
        vec![clean, window, raise],
        vec![clean, clean, resample, resample, window, window, &feature],
        vec![clean, &feature, resample, &score, window, &score, &raw, &alarm, &feature, &feature],
        vec![clean, raise, resample],
    ];
    let told: Vec<String> =
        orders.iter().map(|order| pipeline(&format!("{head}{}", order.concat()))).collect();
    snapshot("pipeline-order", &told.join("\n----\n\n"));
    let fine = [vec![clean, &raw, resample, window, &feature], vec![&raw, resample, window, raise]];
    for order in fine {
        assert_eq!(pipeline(&format!("{head}{}", order.concat())), "no problems in 3 files\n");
    }
}

#[test]
fn cleaning_and_the_grid() {
    let text = with(
        PIPELINE,
        &[
            (
                "clean = {}",
                r#"clean = { bad_quality = "clamp", stuck = "clamp", stuck_after = "1s", spikes = { hampel = { width = 2, sigmas = 0 } }, units = { pressure = "psy", vibration_rms = "degF", presure = "kPa" } }"#,
            ),
            (r#"{ every = "1s" }"#, r#"{ every = "1s", max_gap = "500ms" }"#),
        ],
    );
    let zero = with(
        PIPELINE,
        &[
            ("clean = {}", r#"clean = { stuck = "mark" }"#),
            (r#"{ every = "1s" }"#, r#"{ every = "0s" }"#),
        ],
    );
    snapshot("pipeline-clean", &[pipeline(&text), pipeline(&zero)].join("\n----\n\n"));
}

#[test]
fn windows() {
    let window = |text: &str| {
        let from = r#"{ length = "60s", every = "10s", features = ["mean", "std"] }"#;
        pipeline(&with(PIPELINE, &[(from, text)]))
    };
    let told = [
        window(
            r#"{ length = "60500ms", every = "300ms", features = ["median", "p95", "p05", "q99", "rms", "rms", "avrage", "wavelet"], signals = ["vib", "vibration_rms", "vibration_rms", "temperature"], min_coverage = 80 }"#,
        ),
        window(r#"{ length = "0s", every = "0s", features = [], signals = [] }"#),
        window(r#"{ length = "1s", every = "10s", features = ["mean"] }"#),
        window(r#"{ length = "100h", features = ["mean"] }"#),
    ];
    snapshot("pipeline-windows", &told.join("\n----\n\n"));
}

/// A pipeline of a vibration beside a shaft's speed.
fn with_bearing(stages: &str) -> String {
    let signals = [("vibration", "g"), ("speed", "rpm"), ("load", "%")];
    let signal = |(name, unit)| format!("[[signal]]\nname = \"{name}\"\nunit = \"{unit}\"\n");
    let schema = format!("name = \"pump\"\n{}", signals.map(signal).concat());
    let head = "name = \"pump\"\nschema = \"pump\"\ntopics = [\"{asset}\"]\n";
    let text = format!("{head}{stages}[[stage]]\nemit = {{ lane = \"feature\" }}\n");
    node(&[("schemas/pump.toml", &schema), ("pipelines/pump.toml", &text)])
}

#[test]
fn spectra_and_bearings() {
    let stages = |every: &str, window: &str| {
        let resample = format!("[[stage]]\nresample = {{ every = \"{every}\" }}\n");
        with_bearing(&format!(
            "{resample}[[stage]]\n[stage.window]\nsignals = [\"vibration\"]\n{window}\n"
        ))
    };
    let told = [
        stages("1s/0", "length = \"2s\"\nfeatures = [\"rms\"]"),
        stages("25.6kHz", "length = \"2s\"\nfeatures = [\"rms\"]"),
        stages("1us", "length = \"2s\"\nfeatures = [\"rms\"]"),
        stages("1s/12000", "length = \"2100us\"\nfeatures = [\"rms_10_1000\", \"rms_0_20\"]"),
        stages(
            "1s/12000",
            "length = \"2s\"\nfeatures = [\"rms_10_8000\", \"rms_1000_10\", \"rms_010_20\", \"bpfo\", \"bpf\"]",
        ),
        stages(
            "1s/12000",
            "length = \"2s\"\nfeatures = [\"rms\"]\nbearing = { speed = { rpm = 1797 } }",
        ),
        stages(
            "1s/12000",
            r#"length = "300ms"
features = ["bpfo"]
bearing = { speed = { rpm = 1797 }, geometry = { balls = 9, ball = 39.04, pitch = 7.94, angle = 90 }, orders = { bpfo = 3.6, bpfi = 5.4, bsf = 2.4, ftf = 0.4 } }"#,
        ),
        stages(
            "1s/12000",
            r#"length = "500ms"
features = ["bpfo"]
bearing = { speed = { rpm = 1797 }, geometry = { balls = 1, ball = 39.04, pitch = 7.94, angle = 90 }, band = [6000, 2000] }"#,
        ),
        stages(
            "1s/1000",
            r#"length = "2s"
features = ["bpfo"]
bearing = { speed = { rpm = 1797 }, orders = { bpfo = 5.42, bpfi = 3.58, bsf = 0.0, ftf = 2.4 }, band = [400, 900] }"#,
        ),
        stages(
            "1s/12000",
            r#"length = "2s"
features = ["bpfo"]
bearing = { speed = { signal = "load" }, orders = { bpfo = 3.58, bpfi = 5.42, bsf = 2.36, ftf = 0.4 } }"#,
        ),
        with_bearing(
            r#"[[stage]]
resample = { every = "1s/12000" }
[[stage]]
[stage.window]
length = "2s"
features = ["bpfo"]
bearing = { speed = { signal = "sped" }, orders = { bpfo = 3.58, bpfi = 5.42, bsf = 2.36, ftf = 0.4 } }
[[stage]]
[stage.window]
length = "2s"
features = ["bpfo"]
bearing = { speed = { signal = "speed" }, orders = { bpfo = 3.58, bpfi = 5.42, bsf = 2.36, ftf = 0.4 } }
"#,
        ),
        stages(
            "1s/12000",
            "length = \"2s\"\nfeatures = [\"bpfo\"]\nbearing = { speed = { rpm = -5, hz = 3 }, geometry = { balls = 9.5, ball = 1 } }",
        ),
    ];
    snapshot("pipeline-spectra", &told.join("\n----\n\n"));
}

#[test]
fn scores_and_alarms() {
    let from = "[[stage]]\nalarm = { name = \"vibration\", on = \"vibration_rms.mean\", raise = 7.1, clear = 4.5 }\n";
    let to = r#"
[[stage]]
score = { model = "m.onnx", output = "anomaly" }
[[stage]]
score = { model = "m.onnx", output = "anomaly" }
[[stage]]
score = { model = "m.onnx", output = "pressure.mean" }
[[stage]]
score = { model = "m.onnx", output = "failure risk", batch = 5000, recalibrate = { half_life = "1m", most = 9.0 } }
[[stage]]
alarm = { name = "", on = "anomoly" }
[[stage]]
alarm = { name = "b", on = "vibration_rms.max", raise = 7 }
[[stage]]
alarm = { name = "b", on = "late", raise = 0.9 }
[[stage]]
alarm = { name = "c", on = "anomaly", raise = 0.7, clear = 0.9 }
[[stage]]
alarm = { name = "d", on = "pressure.mean", below = true, raise = 2.0, clear = 1.5 }
[[stage]]
alarm = { name = "e", on = "pressure.mean" }
[[stage]]
alarm = { name = "f", on = "anomaly", below = true, on_delay = "48h", severity = "urgent" }
[[stage]]
score = { model = "m.onnx", output = "late" }
"#;
    snapshot("pipeline-scores", &pipeline(&with(PIPELINE, &[(from, to)])));
}
