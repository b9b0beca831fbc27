//! Topics of records: a template from the config, filled in with a record's own names.
//!
//! `uplink/mqtt.rs` and `feed/mqtt.rs` call it. A name that comes from outside (an asset's id) is cleaned, so that
//! it can neither add a level to a topic nor make one that a broker refuses.

use super::SetupError;

/// Longest name that goes into a topic, in bytes: MQTT counts a whole topic's in 16 bits.
const NAME_MAX: usize = 200;

/// A topic with places for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Node,
    Pipeline,
    Asset,
    Kind,
    Lane,
}

/// What a record is about. A record that has no such name has an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names<'a> {
    /// The node.
    pub node: &'a str,
    /// The pipeline.
    pub pipeline: &'a str,
    /// The asset.
    pub asset: &'a str,
    /// `score`, `alarm`, `raw` or `loss`.
    pub kind: &'a str,
    /// `alarm`, `score`, `feature` or `raw`.
    pub lane: &'a str,
}

impl Template {
    /// Reads a template such as `forebay/{node}/{pipeline}/{asset}/{type}`.
    ///
    /// # Errors
    /// It is empty, has wildcards, or a place that is not known.
    pub fn parse(text: &str) -> Result<Template, SetupError> {
        let wrong = || SetupError::Range {
            key: "topic",
            found: format!("`{text}`"),
            expected: "a topic without + and #, with {node}, {pipeline}, {asset}, {type} and {lane} as places",
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(wrong)?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match name {
                "node" => Part::Node,
                "pipeline" => Part::Pipeline,
                "asset" => Part::Asset,
                "type" => Part::Kind,
                "lane" => Part::Lane,
                _ => return Err(wrong()),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let text_is_wrong = |part: &Part| matches!(part, Part::Text(text) if text.len() > NAME_MAX || text.contains(['+', '#', '}', '\0']));
        if parts.is_empty() || parts.len() > 64 || parts.iter().any(text_is_wrong) {
            return Err(wrong());
        }
        Ok(Template(parts))
    }

    /// Whether it has places for what only a single record has.
    pub fn names_one_record(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Pipeline | Part::Asset | Part::Kind))
    }

    /// The topic of a record with these names.
    pub fn fill(&self, names: &Names<'_>) -> String {
        let mut topic = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => topic.push_str(text),
                Part::Node => push_clean(&mut topic, names.node),
                Part::Pipeline => push_clean(&mut topic, names.pipeline),
                Part::Asset => push_clean(&mut topic, names.asset),
                Part::Kind => push_clean(&mut topic, names.kind),
                Part::Lane => push_clean(&mut topic, names.lane),
            }
        }
        topic
    }
}

/// A topic one level below another.
pub fn below(topic: &str, name: &str) -> String {
    let mut topic = format!("{topic}/");
    push_clean(&mut topic, name);
    topic
}

fn push_clean(topic: &mut String, name: &str) {
    let start = topic.len();
    for c in name.chars() {
        if topic.len() - start + c.len_utf8() > NAME_MAX {
            break;
        }
        // `$` at the start of a topic is the broker's own.
        let unfit = matches!(c, '+' | '#' | '/' | '$') || c.is_control();
        topic.push(if unfit { '_' } else { c });
    }
    if topic.len() == start {
        topic.push('_');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_cannot_change_the_shape_of_a_topic() {
        let template = Template::parse("forebay/{node}/{pipeline}/{asset}/{type}").unwrap();
        let long = "ä".repeat(500);
        for asset in ["pump-07", "a/b", "+", "#", "", "a\0b", "$SYS", long.as_str()] {
            let names = Names { node: "gw", pipeline: "p", asset, kind: "score", lane: "score" };
            let topic = template.fill(&names);
            assert_eq!(topic.split('/').count(), 5, "{topic}");
            assert!(!topic.contains(['+', '#', '\0', '$']) && !topic.contains("//"), "{topic}");
            assert!(topic.len() < 300);
        }
        let names =
            Names { node: "gw", pipeline: "p", asset: "pump-07", kind: "alarm", lane: "alarm" };
        assert_eq!(template.fill(&names), "forebay/gw/p/pump-07/alarm");
        assert_eq!(Template::parse("all").unwrap().fill(&names), "all");
        assert_eq!(below("all", "dry run/#"), "all/dry run__");
    }

    #[test]
    fn wrong_templates_are_refused() {
        for text in ["", "a/+/b", "a/#", "a/{asset", "a/{site}", "a}/b"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
