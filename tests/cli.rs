//! The command line as its users meet it: help, exit codes, schemas, completion, `doctor`.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "common/bin.rs"]
mod bin;

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use forebay::demo::ports::free_port;
use serde_json::Value;

fn forebay(arguments: &[&str], folder: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = bin::forebay();
    command.args(arguments).current_dir(folder).envs(variables.iter().copied()).output().unwrap()
}

fn here(arguments: &[&str]) -> Output {
    forebay(arguments, Path::new(env!("CARGO_MANIFEST_DIR")), &[])
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const COMMANDS: [&str; 10] = [
    "demo",
    "run",
    "replay",
    "check",
    "train",
    "doctor",
    "schema",
    "completion",
    "bench",
    "torture",
];

#[test]
fn every_command_explains_itself() {
    let all = out(&here(&["--help"]));
    for name in COMMANDS {
        assert!(all.contains(&format!("  {name} ")), "{name} is not in\n{all}");
        let help = here(&[name, "--help"]);
        assert_eq!(help.status.code(), Some(0));
        let text = out(&help);
        assert!(text.contains("Usage: forebay"), "{text}");
        // Every option says what it does: a flag's line is followed by words, or has them behind it.
        for (line, next) in text.lines().zip(text.lines().skip(1)) {
            let bare = line.trim_start().starts_with('-');
            let words = line.trim().contains("  ") || next.starts_with("          ");
            assert!(!bare || line.trim_start().starts_with("- ") || words, "{name}: {line}");
        }
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for arguments in [
        &[][..],
        &["rnu"],
        &["replay"],
        &["replay", "--pipeline", "x.toml"],
        &["train", "--pipeline", "x.toml"],
        &["demo", "--duration", "5"],
        &["demo", "--pumps", "0"],
        &["schema", "configs"],
        &["check", "--colour"],
        &["completion", "cmd"],
    ] {
        let output = here(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}\n{}", err(&output));
        assert_eq!(out(&output), "");
    }
    assert!(err(&here(&["repaly"])).contains("'replay'"));
    let told = err(&here(&["demo", "--duration", "5"]));
    assert!(told.contains("like \"250ms\", \"5s\" or \"10m\""), "{told}");
}

#[test]
fn a_wrong_log_filter_is_told_and_nothing_is_done() {
    let output = here(&["--log", "forebay=loud", "schema", "config"]);
    assert_eq!((output.status.code(), out(&output)), (Some(1), String::new()));
    assert!(err(&output).starts_with("error: the log filter `forebay=loud` cannot be used"));
}

#[test]
fn the_committed_json_schemas_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/json");
    for name in ["config", "pipeline", "schema", "record"] {
        let output = here(&["schema", name]);
        let committed = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        assert!(
            out(&output) == committed,
            "schemas/json/{name}.json has drifted; `forebay schema --write schemas/json` renews it"
        );
        let schema: Value = serde_json::from_str(&committed).unwrap();
        assert!(jsonschema::draft202012::meta::is_valid(&schema), "{name}");
    }
    let all: Value = serde_json::from_str(&out(&here(&["schema"]))).unwrap();
    assert_eq!(all.as_object().unwrap().len(), 4);
    let other = tempfile::tempdir().unwrap();
    let written = forebay(&["schema", "record", "--write", "new/json"], other.path(), &[]);
    assert_eq!((written.status.code(), out(&written)), (Some(0), String::new()));
    assert_eq!(std::fs::read_dir(other.path().join("new/json")).unwrap().count(), 1);
}

#[test]
fn the_shipped_files_fit_their_json_schemas() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, name) in [
        ("config.toml", "config"),
        ("pipelines/bearing.toml", "pipeline"),
        ("pipelines/pump.toml", "pipeline"),
        ("pipelines/skab.toml", "pipeline"),
        ("schemas/bearing.toml", "schema"),
        ("schemas/pump.toml", "schema"),
        ("schemas/skab.toml", "schema"),
    ] {
        let value: Value =
            toml::from_str(&std::fs::read_to_string(root.join(file)).unwrap()).unwrap();
        let schema =
            std::fs::read_to_string(root.join(format!("schemas/json/{name}.json"))).unwrap();
        let schema: Value = serde_json::from_str(&schema).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let wrong: Vec<String> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert_eq!(wrong, Vec::<String>::new(), "{file}");
    }
}

#[test]
fn shells_get_their_completion() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = out(&here(&["completion", shell]));
        assert!(COMMANDS.iter().all(|name| script.contains(name)), "{shell}");
    }
}

#[test]
fn doctor_looks_at_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let output = forebay(
        &["doctor", "--json"],
        folder.path(),
        &[("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")],
    );
    assert_eq!(output.status.code(), Some(0), "{}", out(&output));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all["version"], env!("CARGO_PKG_VERSION"));
    let of = |what: &str| {
        all["findings"].as_array().unwrap().iter().find(|f| f["what"] == what).cloned()
    };
    for what in ["build", "processor", "memory", "runtime", "clock", "config"] {
        assert!(of(what).is_some_and(|f| !f["found"].as_str().unwrap().is_empty()), "{what}");
    }
    // A library that was named and is not there is passed over, with its reason.
    let passed = of("passed over").unwrap();
    assert!(passed["found"].as_str().unwrap().contains("/nowhere/libonnxruntime.so"), "{passed}");
    let text = out(&forebay(&["doctor"], folder.path(), &[]));
    assert!(text.contains("\nok    runtime ") || text.contains("runtime "), "{text}");
}

#[test]
fn an_argument_that_is_nearly_right_is_taken_or_told() {
    let folder = tempfile::tempdir().unwrap();
    let shut = format!("127.0.0.1:{}", free_port().unwrap());
    for (arguments, part) in [
        (["doctor", "--timeout", "1d"].as_slice(), "days are written in hours"),
        (&["model", "list", "--node", &shut], "no answer from http://127.0.0.1:"),
        (&["model", "list", "--node", "mqtt://a"], "http:// or https://, not mqtt://"),
    ] {
        let output = forebay(arguments, folder.path(), &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(part), "{arguments:?}: {told}");
    }
}

#[test]
fn doctor_tells_a_silent_broker_from_none() {
    let folder = tempfile::tempdir().unwrap();
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = silent.local_addr().unwrap();
    let shut = format!("127.0.0.1:{}", free_port().unwrap());
    let config = format!(
        "node = \"a\"\n[feed]\nlisten = \"{open}\"\n[mqtt]\nurl = \"mqtt://{open}\"\n[uplink.targets.cloud.http]\nurl = \"http://{shut}/x\"\n[store]\npath = \"data\"\n"
    );
    std::fs::write(folder.path().join("node.toml"), config).unwrap();
    for sub in ["schemas", "pipelines", "data"] {
        std::fs::create_dir(folder.path().join(sub)).unwrap();
    }
    let arguments = ["doctor", "--config", "node.toml", "--timeout", "300ms"];
    let output = forebay(&arguments, folder.path(), &[]);
    let text = out(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("takes connections, but no session: no answer within 0.3 s"), "{text}");
    assert!(text.contains(&format!("{shut} cannot be reached")), "{text}");
    assert!(
        text.contains(&format!("{open} cannot be listened on: Address already in use")),
        "{text}"
    );
    assert!(text.contains("ok    config ") && text.contains("data: 0 B, can be written"), "{text}");
}
