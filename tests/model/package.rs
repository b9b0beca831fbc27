//! The contract in a model's file: what it says, that it is tried, and who signed it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use forebay::model::build::{Dim, Kind};
use forebay::model::golden::Golden;
use forebay::model::logistic::{self, LogisticOptions};
use forebay::model::metadata::{Meaning, Metadata};
use forebay::model::pca::{self, PcaOptions};
use forebay::model::runtime::{Backend, Provider, Settings};
use forebay::model::signature::{PublicKey, SigningKey};
use forebay::model::{Host, HostError, Model, ModelError, ModelFile, Trust};
use prost::Message;
use tract_onnx::pb;

use crate::train::{labelled, machine};
use crate::{open, runtime, sum};

fn pca_model() -> Vec<u8> {
    pca::train(&machine(200, 8, 2), &PcaOptions::default()).unwrap().0
}

/// The file after a change to its protobuf.
fn changed(bytes: &[u8], change: impl FnOnce(&mut pb::ModelProto)) -> Vec<u8> {
    let mut proto = pb::ModelProto::decode(bytes).unwrap();
    change(&mut proto);
    proto.encode_to_vec()
}

fn note(proto: &mut pb::ModelProto, key: &str, value: &str) {
    let key = format!("forebay.{key}");
    proto.metadata_props.retain(|note| note.key != key);
    proto.metadata_props.push(pb::StringStringEntryProto { key, value: value.to_owned() });
}

fn error(bytes: &[u8]) -> ModelError {
    Model::from_bytes(runtime(), Path::new("changed.onnx"), bytes).unwrap_err()
}

#[test]
fn a_trained_model_carries_its_whole_contract() {
    let (set, labels) = labelled(300, 9);
    let logistic = logistic::train(&set, &labels, &LogisticOptions::default()).unwrap().0;
    for (bytes, meaning) in
        [(pca_model(), Meaning::Score), (logistic, Meaning::Probability { horizon: None })]
    {
        let model = open(&bytes);
        let Metadata { outputs, threshold_by, data_digest, baseline, golden, .. } = &model.metadata;
        assert_eq!(outputs.as_ref().unwrap()["score"], meaning);
        let named: Vec<&String> = outputs.as_ref().unwrap().keys().collect();
        assert!(named.iter().all(|name| model.signature.output(name).is_some()), "{named:?}");
        assert!(!threshold_by.as_ref().unwrap().is_empty());
        assert_eq!(data_digest.as_ref().unwrap().len(), 64);
        let baseline = baseline.as_ref().unwrap();
        assert_eq!(baseline.inputs.len(), model.metadata.features.as_ref().unwrap().len());
        let rising = |edges: &[f32; 11]| edges.windows(2).all(|pair| pair[0] <= pair[1]);
        assert!(baseline.inputs.iter().chain([&baseline.score]).all(rising), "{baseline:?}");
        assert_eq!(golden.as_ref().unwrap().input.len(), 5);
    }
}

#[test]
fn other_training_data_has_another_digest() {
    let digest = |seed| {
        let bytes = pca::train(&machine(60, 4, seed), &PcaOptions::default()).unwrap().0;
        open(&bytes).metadata.data_digest.unwrap()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}

/// One weight more or less is another model: it opens, it runs, and it answers wrongly.
#[test]
fn a_model_that_answers_otherwise_is_refused_with_the_numbers() {
    let bytes = changed(&pca_model(), |proto| {
        let weights = &mut proto.graph.as_mut().unwrap().initializer;
        let factor = weights.iter_mut().find(|tensor| tensor.name == "t2_factor").unwrap();
        factor.raw_data = 5.0_f32.to_le_bytes().to_vec();
    });
    let error = error(&bytes);
    assert!(matches!(error, ModelError::NotGolden { .. }), "{error}");
    let text = error.to_string();
    let name = runtime().name();
    for part in ["changed.onnx", "output `score`, row", "expected 0.", &name] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn golden_vectors_that_cannot_be_run_are_told() {
    let with = |golden: &Golden| {
        let text = serde_json::to_string(golden).unwrap();
        error(&changed(&pca_model(), |proto| note(proto, "golden", &text))).to_string()
    };
    let good = open(&pca_model()).metadata.golden.unwrap();
    let empty = Golden { input: Vec::new(), outputs: BTreeMap::new(), ..good.clone() };
    assert!(with(&empty).contains("0 rows"), "{}", with(&empty));
    let mut other = good.clone();
    other.outputs = BTreeMap::from([("verdict".to_owned(), vec![vec![1.0]; 5])]);
    assert!(with(&other).contains("no output `verdict`"), "{}", with(&other));
    let wide = Golden { shape: vec![3], input: vec![vec![0.0; 3]; 5], ..good };
    assert!(with(&wide).contains("but was given"), "{}", with(&wide));
    // One that cannot be read counts as absent, and `fit` names it.
    let bytes = changed(&pca_model(), |proto| note(proto, "golden", "{\"shape\":true}"));
    assert_eq!(open(&bytes).metadata.unreadable, ["forebay.golden"]);
}

fn nothing() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn trusted(key: &SigningKey) -> Trust {
    Trust::new(vec![key.public()], true)
}

fn refusal(bytes: &[u8], trust: &Trust) -> String {
    let error = ModelFile::of(Path::new("signed.onnx"), bytes.to_vec(), trust).unwrap_err();
    assert!(matches!(error, ModelError::Untrusted { .. }), "{error}");
    error.to_string()
}

#[test]
fn a_signature_covers_every_byte_and_changes_nothing_else() {
    let (key, _) = SigningKey::make().unwrap();
    let bytes = pca_model();
    let signed = key.sign(&bytes, &nothing());
    assert_eq!(&signed[..bytes.len()], &bytes[..], "it is only appended");
    assert_eq!(key.sign(&signed, &nothing()), signed, "one that is there is replaced");
    let file = ModelFile::of(Path::new("signed.onnx"), signed.clone(), &trusted(&key)).unwrap();
    assert_eq!((file.signed_by, file.signed_with), (Some(key.public()), Some(key.public().name())));
    Model::load(
        runtime(),
        &Settings::default(),
        ModelFile::of(Path::new("s"), signed.clone(), &trusted(&key)).unwrap(),
    )
    .unwrap();
    let every = (0..signed.len()).step_by(97).chain(signed.len() - 140..signed.len());
    for place in every {
        let mut broken = signed.clone();
        broken[place] ^= 0x10;
        refusal(&broken, &trusted(&key));
    }
    for end in [bytes.len(), bytes.len() / 2, 0] {
        refusal(&signed[..end], &trusted(&key));
    }
    // Written otherwise, the same signature would make another file of it, with another digest.
    let (front, digits) = signed.split_at(signed.len() - 128);
    let again = |digits: &[u8]| [front, digits].concat();
    assert_eq!(again(digits), signed);
    let upper = again(&digits.to_ascii_uppercase());
    assert_ne!(upper, signed);
    refusal(&upper, &trusted(&key));
    if let Some(place) = (0..128).step_by(2).find(|place| digits[*place] == b'0') {
        let mut plus = digits.to_vec();
        plus[place] = b'+';
        refusal(&again(&plus), &trusted(&key));
    }
    let longer = [signed.as_slice(), &changed(&[], |proto| note(proto, "threshold", "9"))].concat();
    assert!(refusal(&longer, &trusted(&key)).contains("is not signed"));
}

#[test]
fn whom_a_node_believes() {
    let ((ours, _), (theirs, _)) = (SigningKey::make().unwrap(), SigningKey::make().unwrap());
    let bytes = pca_model();
    let take = |bytes: &[u8], trust: &Trust| {
        ModelFile::of(Path::new("signed.onnx"), bytes.to_vec(), trust).map(|file| file.signed_by)
    };
    assert!(refusal(&bytes, &trusted(&ours)).contains("forebay model sign"));
    let text = refusal(&theirs.sign(&bytes, &nothing()), &trusted(&ours));
    assert!(text.contains(&theirs.public().name()) && text.contains("models.keys"), "{text}");
    // Where no signature is asked for, a stranger's says nothing, and one of ours must still be right.
    let lenient = Trust::new(vec![ours.public()], false);
    assert_eq!(take(&bytes, &lenient).unwrap(), None);
    assert_eq!(take(&theirs.sign(&bytes, &nothing()), &lenient).unwrap(), None);
    assert_eq!(take(&ours.sign(&bytes, &nothing()), &lenient).unwrap(), Some(ours.public()));
    let mut broken = ours.sign(&bytes, &nothing());
    broken[40] ^= 1;
    assert!(refusal(&broken, &lenient).contains("was changed after it was signed"));
    let both = Trust::new(vec![ours.public(), theirs.public()], true);
    assert_eq!(take(&theirs.sign(&bytes, &nothing()), &both).unwrap(), Some(theirs.public()));
}

fn forebay(arguments: &[&str]) -> Output {
    let mut command = crate::bin::forebay();
    command.env("NO_COLOR", "1").args(arguments).output().unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let output = forebay(arguments);
    let (out, err) = (output.stdout, String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}: {err}");
    String::from_utf8(out).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn keys_are_made_models_signed_looked_at_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let (model, key) = (at("pump.onnx"), at("key.pem"));
    std::fs::write(&model, pca_model()).unwrap();
    let made = forebay(&["model", "keygen", "--out", path(&key)]);
    let public = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let name = public.parse::<PublicKey>().unwrap().name();
    let told = String::from_utf8(made.stderr).unwrap();
    assert!(told.contains(&format!("signatures name it {name}")), "{told}");
    let again = forebay(&["model", "keygen", "--out", path(&key)]);
    assert!(!again.status.success(), "a key that is there is not written over");

    let before = printed(&["model", "inspect", path(&model)]);
    assert!(
        before.contains("signature     not signed") && before.contains("how unlike normal"),
        "{before}"
    );
    let refused = forebay(&["model", "verify", path(&model), "--key", &public]);
    assert_eq!(refused.status.code(), Some(1));
    printed(&["model", "sign", path(&model), "--key", path(&key)]);
    let verified = printed(&["model", "verify", path(&model), "--key", &public]);
    assert!(verified.contains("gives its 5 golden answers"), "{verified}");
    assert!(verified.contains(&format!("signed with the key {name}: valid")), "{verified}");
    let by_file = printed(&["model", "inspect", path(&model), "--key", path(&key)]);
    assert!(by_file.contains(&format!("signed with the key {name}: valid")), "{by_file}");
    let without = printed(&["model", "inspect", path(&model)]);
    assert!(
        without.contains(&format!("key {name}: whether that is valid cannot be told")),
        "{without}"
    );
    wrong_signatures(&model, &public);
    let outside = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/outside");
    let elsewhere = folder.path().join("elsewhere.onnx");
    let arguments =
        ["model", "sign", path(&outside), "--key", path(&key), "--out", path(&elsewhere)];
    let output = forebay(&arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("sign it where it is"), "{told}");
    assert!(!elsewhere.exists());
    let json = printed(&["model", "inspect", path(&model), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["outputs"][0]["meaning"]["means"], "score");
    assert_eq!(json["golden"]["input"].as_array().unwrap().len(), 5);
    assert!(json["threshold"].as_f64().is_some() && json["unreadable"] == serde_json::json!([]));

    std::fs::write(&key, "no key").unwrap();
    let output = forebay(&["model", "sign", path(&model), "--key", path(&key)]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("holds no ed25519 private key"), "{told}");
}

/// What `--key` says of a signed model that is not what was signed, or by somebody else.
fn wrong_signatures(model: &Path, public: &str) {
    let (other, _) = SigningKey::make().unwrap();
    let other = other.public().to_string();
    let changed = model.with_extension("changed.onnx");
    let mut bytes = std::fs::read(model).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&changed, bytes).unwrap();
    let cases = [
        (model, other.as_str(), "which `models.keys` does not hold"),
        (&changed, public, "was changed after it was signed"),
        (model, "b034d952abaac149", "a public key is 64 hex digits"),
    ];
    for (model, key, part) in cases {
        for action in ["verify", "inspect"] {
            let output = forebay(&["model", action, path(model), "--key", key]);
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && told.contains(part), "{action}: {told}");
        }
    }
}

#[test]
fn a_key_of_openssl_signs() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out", path(&key)])
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "openssl is missing");
        eprintln!("skipped: openssl is not installed");
        return;
    }
    let key = SigningKey::read(&key).unwrap();
    let signed = key.sign(&pca_model(), &nothing());
    ModelFile::of(Path::new("signed.onnx"), signed, &trusted(&key)).unwrap();
}

#[test]
fn a_host_opens_what_it_trusts() {
    let (key, _) = SigningKey::make().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pump.onnx");
    let library = runtime().library.clone().map(|(_, path)| path);
    let host = Host { library, trust: trusted(&key), ..Host::default() };
    std::fs::write(&file, pca_model()).unwrap();
    let error = host.open(&file).unwrap_err();
    assert!(matches!(error, HostError::Model(ModelError::Untrusted { .. })), "{error}");
    std::fs::write(&file, key.sign(&pca_model(), &nothing())).unwrap();
    assert_eq!(host.open(&file).unwrap().signed_by, Some(key.public()));
    let small = Host { largest: Some(1000), ..host };
    let error = small.open(&file).unwrap_err().to_string();
    assert!(error.contains("with its weights; `models.largest` allows 1000 B"), "{error}");
}

/// A copy of a model whose weights lie beside it.
fn outside() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/outside");
    let [model, weights] = ["model.onnx", "weights.bin"].map(|name| {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
        folder.path().join(name)
    });
    (folder, model, weights)
}

#[test]
fn weights_beside_a_model_are_signed_with_it() {
    let (folder, model, weights) = outside();
    let (key, _) = SigningKey::make().unwrap();
    let file = ModelFile::read(folder.path(), &Trust::default()).unwrap();
    let (digest, name) = (file.digest.clone(), file.name());
    assert_eq!((name.as_str(), file.beside().len()), ("model", 1));
    assert_eq!(file.size(), file.bytes.len() as u64 + std::fs::metadata(&weights).unwrap().len());
    // Signed without its weights, they could be anybody's.
    std::fs::write(&model, key.sign(&file.bytes, &nothing())).unwrap();
    let error = ModelFile::read(&model, &trusted(&key)).unwrap_err().to_string();
    assert!(error.contains("has weights in `weights.bin` that are not those"), "{error}");

    let signed = key.sign(&file.bytes, &file.beside());
    assert_eq!(key.sign(&signed, &file.beside()), signed);
    std::fs::write(&model, &signed).unwrap();
    let file = ModelFile::read(&model, &trusted(&key)).unwrap();
    Model::load(runtime(), &Settings::default(), file).unwrap();
    let mut changed = std::fs::read(&weights).unwrap();
    changed[100] ^= 1;
    std::fs::write(&weights, &changed).unwrap();
    let error = ModelFile::read(&model, &trusted(&key)).unwrap_err();
    assert!(matches!(error, ModelError::Untrusted { .. }), "{error}");
    // Whom nobody asks for a signature, it is another model.
    let (other, _, weights) = outside();
    std::fs::write(weights, &changed).unwrap();
    let other = ModelFile::read(other.path(), &Trust::default()).unwrap();
    assert_ne!(other.digest, digest);
}

/// Says of a tensor where it is.
fn set(tensor: &mut pb::TensorProto, key: &str, value: &str) {
    tensor.external_data.retain(|entry| entry.key != key);
    let (key, value) = (key.to_owned(), value.to_owned());
    tensor.external_data.push(pb::StringStringEntryProto { key, value });
}

#[test]
fn weights_that_are_not_as_the_model_says_are_told() {
    let told = |change: fn(&mut pb::TensorProto)| {
        let (_folder, model, _) = outside();
        let bytes = changed(&std::fs::read(&model).unwrap(), |proto| {
            change(&mut proto.graph.as_mut().unwrap().initializer[0]);
        });
        std::fs::write(&model, bytes).unwrap();
        ModelFile::read(&model, &Trust::default()).unwrap_err().to_string()
    };
    for place in ["../weights.bin", "/etc/passwd", "a/../../b", ""] {
        let (_folder, model, _) = outside();
        let bytes = changed(&std::fs::read(&model).unwrap(), |proto| {
            set(&mut proto.graph.as_mut().unwrap().initializer[0], "location", place);
        });
        std::fs::write(&model, bytes).unwrap();
        let error = ModelFile::read(&model, &Trust::default()).unwrap_err().to_string();
        assert!(error.contains("outside of its folder"), "{place}: {error}");
    }
    assert!(told(|t| set(t, "location", "none.bin")).contains("none.bin cannot be read"));
    assert!(told(|t| set(t, "offset", "1000000")).contains("it needs 100"));
    assert!(told(|t| set(t, "offset", "18446744073709551615")).contains("beyond any file"));
    assert!(told(|t| set(t, "length", "3")).contains("has 3 bytes of"));
    let (_huge, model, _) = outside();
    let bytes = changed(&std::fs::read(&model).unwrap(), |proto| {
        let all = &mut proto.graph.as_mut().unwrap().initializer;
        let mut tensor = all[0].clone();
        tensor.dims = vec![1 << 61];
        tensor.data_type = pb::tensor_proto::DataType::Float as i32;
        set(&mut tensor, "length", &(1_u64 << 63).to_string());
        set(&mut tensor, "offset", "0");
        let mut second = tensor.clone();
        set(&mut second, "offset", "1");
        all.extend([tensor, second]);
    });
    std::fs::write(&model, bytes).unwrap();
    let error = ModelFile::read(&model, &Trust::default()).unwrap_err().to_string();
    assert!(error.contains("beyond any size"), "{error}");
    assert!(told(|t| t.external_data.clear()).contains("in none that it names"));

    let (folder, model, weights) = outside();
    let alone = std::fs::read(&model).unwrap();
    let error = Model::from_bytes(runtime(), &model, &alone).unwrap_err();
    assert!(matches!(error, ModelError::External { .. }), "{error}");
    std::fs::write(folder.path().join("second.onnx"), &alone).unwrap();
    let error = ModelFile::read(folder.path(), &Trust::default()).unwrap_err().to_string();
    assert!(error.contains("a folder with 2 ONNX files"), "{error}");
    std::fs::remove_file(folder.path().join("second.onnx")).unwrap();
    // A link out of the folder is no file in it.
    let elsewhere = tempfile::tempdir().unwrap();
    let there = elsewhere.path().join("weights.bin");
    std::fs::rename(&weights, &there).unwrap();
    std::os::unix::fs::symlink(&there, &weights).unwrap();
    let error = ModelFile::read(&model, &Trust::default()).unwrap_err().to_string();
    assert!(error.contains("lie outside of its folder"), "{error}");
}

#[test]
fn weights_that_cannot_be_pushed_are_told_before_anything_is_sent() {
    let push = |model: &Path| {
        let node = "http://127.0.0.1:1"; // nobody
        let output = forebay(&["model", "push", path(model), "--node", node]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let (folder, model, weights) = outside();
    assert!(push(&model).contains("no answer from"), "these can be");
    let bytes = std::fs::read(&model).unwrap();
    let below = folder.path().join("w");
    std::fs::create_dir(&below).unwrap();
    std::fs::copy(&weights, below.join("w.bin")).unwrap();
    let each = |place: &dyn Fn(usize) -> String| {
        changed(&bytes, |proto| {
            let all = &mut proto.graph.as_mut().unwrap().initializer;
            let first = all[0].clone();
            (0..16).for_each(|_| all.push(first.clone()));
            all.iter_mut().enumerate().for_each(|(at, t)| set(t, "location", &place(at)));
        })
    };
    std::fs::write(&model, each(&|_| "w/w.bin".to_owned())).unwrap();
    let told = push(&model);
    assert!(told.contains("`w/w.bin`") && told.contains("save them in one"), "{told}");
    for at in 0..32 {
        std::fs::copy(&weights, folder.path().join(format!("{at}.bin"))).unwrap();
    }
    std::fs::write(&model, each(&|at| format!("{at}.bin"))).unwrap();
    let told = push(&model);
    assert!(told.contains("files") && told.contains("at most 15"), "{told}");
}

#[test]
fn a_provider_that_is_not_there_leaves_the_work_to_the_processor() {
    let bytes = sum(2, Kind::Float32, Dim::Batch).finish();
    let settings = Settings {
        // None of these can be had on a machine that builds this.
        providers: vec![Provider::CoreMl, Provider::TensorRt],
        ..Settings::default()
    };
    let file = ModelFile::of(Path::new("m.onnx"), bytes, &Trust::default()).unwrap();
    let model = Model::load(runtime(), &settings, file).unwrap();
    let expected = match runtime().backend {
        Backend::OnnxRuntime => format!("{} (cpu)", runtime().name()),
        Backend::Tract => "tract".into(),
    };
    assert_eq!(model.runs_on(), expected);
}
