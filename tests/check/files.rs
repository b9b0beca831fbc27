//! Files that cannot be read, are not what they should be, or do not go together.

use serde_json::Value;

use crate::{CONFIG, PIPELINE, SCHEMA, check, node, run_in, snapshot, told, with, write};

#[test]
fn text_that_is_not_toml() {
    let config = "node = gateway-1\n[mqtt\nurl = \"mqtt://x\"\n[store]\ntick = 100ms\npath = \"a\ntick_readings = 1 000\n[feed]\nhistory = 1\nhistory = 2\nlistn = \"x\"\n";
    let pipeline = with(PIPELINE, &[("[\"mean\", \"std\"] }", "[\"mean\" \"std\" }")]);
    let schema = with(
        SCHEMA,
        &[("aliases = [\"vib\"]", "aliases = [\"vib\""), ("unit = \"bar\"", "unit: \"bar\"")],
    );
    let files = [
        ("config.toml", config),
        ("pipelines/pump.toml", &pipeline),
        ("schemas/pump.toml", &schema),
    ];
    snapshot("files-syntax", &node(&files));
}

#[test]
fn files_that_cannot_be_read() {
    let latin = b"node = \"K\xf6ln\"\n".as_slice();
    let large = vec![b'#'; (1 << 20) + 1];
    let one = |name: &str, content: &[u8]| told(&check(&[(name, content)], &[name], &[]));
    let told = [
        one("config.toml", latin),
        one("config.toml", b"\x00\xff\xfe"),
        one("pipelines/large.toml", &large),
        one("pipelines/empty.toml", b""),
        one("schemas/empty.toml", b"\n\n"),
        one("config.toml", b""),
        one("notes.toml", b"colour = \"blue\"\n"),
        one("notes.txt", b"just words, no keys\n"),
        told(&check(&[], &["missing.toml"], &[])),
        told(&check(&[("folder/x.txt", b"")], &["folder"], &[])),
        told(&check(&[], &[], &[])),
    ];
    snapshot("files-unreadable", &told.join("\n----\n\n"));
}

#[test]
fn a_byte_order_mark_and_foreign_line_ends_are_fine() {
    let windows = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let (config, schema, pipeline) = (windows(CONFIG), windows(SCHEMA), windows(PIPELINE));
    let files = [
        ("config.toml", config.as_str()),
        ("schemas/pump.toml", &schema),
        ("pipelines/pump.toml", &pipeline),
    ];
    assert_eq!(node(&files), "no problems in 3 files\n");
    let wrong = windows(&with(PIPELINE, &[("\"std\"", "\"sdt\"")]));
    snapshot("files-windows", &node(&[("pipelines/pump.toml", &wrong)]));
}

#[test]
fn names_that_files_share_or_miss() {
    let other = with(PIPELINE, &[("schema = \"pump\"", "schema = \"pmup\"")]);
    let files = [
        ("schemas/second.toml", SCHEMA),
        ("pipelines/second.toml", other.as_str()),
        ("pipelines/readme.md", "no pipeline"),
    ];
    snapshot("files-names", &node(&files));
}

#[test]
fn folders_that_are_empty_or_missing() {
    let config = "node = \"a\"\npipelines = \"pipes\"\nschemas = \"config.toml\"\n";
    let missing = told(&check(&[("config.toml", config.as_bytes())], &[], &[]));
    let files: &[(&str, &[u8])] =
        &[("config.toml", CONFIG.as_bytes()), ("schemas/x.txt", b""), ("pipelines/x.txt", b"")];
    snapshot("files-folders", &[missing, told(&check(files, &[], &[]))].join("\n----\n\n"));
}

#[test]
fn a_problem_of_the_schema_is_not_told_twice_as_one_of_the_pipeline() {
    let schema = with(SCHEMA, &[("name = \"pressure\"", "nam = \"pressure\"")]);
    let pipeline = with(PIPELINE, &[("clean = {}", "clean = { units = { pressure = \"psi\" } }")]);
    let told = node(&[("schemas/pump.toml", &schema), ("pipelines/pump.toml", &pipeline)]);
    assert!(told.contains("unknown key `nam`") && told.ends_with("1 error in 3 files\n"), "{told}");
}

#[test]
fn files_are_told_apart_by_what_is_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = with(PIPELINE, &[("\"std\"", "\"sdt\"")]);
    let schema = with(SCHEMA, &[("unit = \"bar\"", "unti = \"bar\"")]);
    let files: &[(&str, &[u8])] = &[
        ("a.toml", b"node = \"a\"\nmqqt = 1\npipelines = \".\"\nschemas = \".\"\n"),
        ("deep/b.toml", pipeline.as_bytes()),
        ("deep/c.toml", schema.as_bytes()),
    ];
    write(folder.path(), files);
    let told = |arguments: &[&str]| told(&run_in(folder.path(), arguments, &[]));
    let pipeline = told(&["deep/b.toml"]);
    assert!(
        pipeline.contains("deep/c.toml:") && pipeline.contains("unknown key `unti`"),
        "{pipeline}"
    );
    assert!(
        pipeline.contains("deep/b.toml:") && pipeline.contains("no feature `sdt`"),
        "{pipeline}"
    );
    assert!(pipeline.ends_with("in 2 files\n"), "{pipeline}");
    assert_eq!(told(&["deep"]), pipeline);
    assert!(told(&["deep/c.toml"]).ends_with("1 error in 1 file\n"));
}

#[test]
fn the_same_for_programs() {
    let pipeline =
        with(PIPELINE, &[("\"std\"", "\"sdt\""), ("schema = \"pump\"", "schema  =  \"pmup\"")]);
    let files: &[(&str, &[u8])] = &[
        ("config.toml", CONFIG.as_bytes()),
        ("schemas/pump.toml", SCHEMA.as_bytes()),
        ("pipelines/pump.toml", pipeline.as_bytes()),
    ];
    let output = check(files, &["--json"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let problems: Value = serde_json::from_slice(&output.stdout).unwrap();
    let schema = &problems[0];
    assert_eq!(schema["file"], "pipelines/pump.toml");
    assert_eq!(
        (&schema["line"], &schema["column"], &schema["end_column"]),
        (&2.into(), &12.into(), &18.into())
    );
    assert_eq!((&schema["severity"], &schema["suggestion"]), (&"error".into(), &"\"pump\"".into()));
    assert_eq!((&schema["found"], &schema["expected"]), (&"`pmup`".into(), &"`pump`".into()));
    assert_eq!(problems[1]["message"], "there is no feature `sdt`");
    assert_eq!(problems[1]["suggestion"], "\"std\"");
    let fine = check(&files[..2], &["--json", "schemas/pump.toml"], &[]);
    assert_eq!(fine.status.code(), Some(0));
    assert_eq!(serde_json::from_slice::<Value>(&fine.stdout).unwrap(), Value::Array(Vec::new()));
}
