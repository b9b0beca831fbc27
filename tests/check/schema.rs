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

/// Signals that cannot be calculated.
const CALCULATED: &str = r#"
name = "pump"

[[signal]]
name = "early"
unit = "1"
from = "vibration_rms * 2"

[[signal]]
name = "vibration_rms"
unit = "mm/s"

[[signal]]
name = "pressure"
unit = "bar"

[[signal]]
name = "near"
unit = "1"
from = "presure / 2"

[[signal]]
name = "itself"
unit = "1"
from = "itself + 1"

[[signal]]
name = "cut_off"
unit = "1"
from = "(pressure + 2"

[[signal]]
name = "strange"
unit = "1"
from = "mean(pressure) & 1"

[[signal]]
name = "few"
unit = "1"
from = "if(pressure > 1, 2)"

[[signal]]
name = "number"
unit = "1"
from = "pressure * 1.2.3"

[[signal]]
name = "empty"
unit = "1"
from = ""

[[signal]]
name = "measured_too"
unit = "1"
from = "pressure / 10"
aliases = ["m"]
min = 0.0
max_rate = 1.0
every = "1s"

[[signal]]
name = "wrong_type"
unit = "1"
from = 3
"#;

#[test]
fn signals_that_cannot_be_calculated() {
    let long = format!(
        "name = \"pump\"\n[[signal]]\nname = \"a\"\nunit = \"1\"\n[[signal]]\nname = \"b\"\nunit = \"1\"\nfrom = \"{}a\"\n",
        "a + ".repeat(130)
    );
    let told = [CALCULATED, &long].map(|text| node(&[("schemas/pump.toml", text)]));
    snapshot("schema-calculated", &told.join("\n----\n\n"));
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
