//! Mistakes in asset schemas.

use crate::{node, snapshot};

#[test]
fn signals_that_cannot_be() {
    let schema = r#"
name = "pump"
kind = "centrifugal"

[[signal]]
name = "vibration_rms"
unit = "mm/s"
aliases = ["vib", "pressure"]
min = 50
max = 0

[[signal]]
name = "pressure"
unit = ""
max_rate = 0
resolution = -0.1

[[signal]]
name = "bearing temp"
units = "degC"
every = "0s"

[[signal]]
name = "vib"
unit = "°C"
min = "0"
max = nan

[[signal]]
unit = "furlong"
alias = ["x"]
"#;
    snapshot("schema-rules", &node(&[("schemas/pump.toml", schema)]));
}

#[test]
fn a_schema_without_signals() {
    let told = [
        node(&[("schemas/pump.toml", "name = \"pump\"\n")]),
        node(&[("schemas/pump.toml", "name = \"pump\"\nsignal = []\n")]),
        node(&[("schemas/pump.toml", "name = \"pump\"\n[signal]\nname = \"a\"\nunit = \"1\"\n")]),
        node(&[("schemas/pump.toml", "name = \"\"\n[[signal]]\nname = \"a\"\nunit = \"1\"\n")]),
    ];
    snapshot("schema-empty", &told.join("\n----\n\n"));
}

#[test]
fn signals_that_cannot_be_calculated() {
    let schema = r#"
name = "mill"

[[signal]]
name = "torque"
unit = "Nm"

[[signal]]
name = "power"
unit = "W"
from = "torque * sped"
max = 9000

[[signal]]
name = "twice"
unit = "W"
from = "2 * (power"

[[signal]]
name = "early"
unit = "1"
from = "tork + mean(power)"
"#;
    snapshot("schema-calculated", &node(&[("schemas/mill.toml", schema)]));
}
