use forebay::demo::train::*;
use forebay::model::Runtime;
#[test]
fn full() {
    let pipeline = toml::from_str(&std::fs::read_to_string("pipelines/pump.toml").unwrap()).unwrap();
    let schema = toml::from_str(&std::fs::read_to_string("schemas/pump.toml").unwrap()).unwrap();
    let made = make_models(&pipeline, &schema, Runtime::find(None).unwrap(), Effort::FULL).unwrap();
    made.write(std::path::Path::new("pipelines/models")).unwrap();
    println!("{}", made.report);
}
