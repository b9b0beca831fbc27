//! Expressions of signals: what calculated signals are made of.
//!
//! `check` reads them for mistakes, `stage/resample` computes them for every row. Reading is by recursive descent, into
//! a tree that refers to signals by index. Everything is a number: true is 1, and 0 is false. A missing signal (NaN), or
//! a result that is no finite number, makes the result missing; nothing can fail while it runs. Texts and trees have
//! limits. It knows nothing of units.

use std::fmt::Write as _;

use super::Schema;

/// Longest expression, in bytes.
pub const LONGEST: usize = 500;
/// Most operators and functions within each other.
pub const DEEPEST: usize = 50;

/// Why an expression cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; expected {expected}")]
pub struct ExpressionError {
    /// What is wrong.
    pub reason: String,
    /// What could stand there.
    pub expected: String,
    /// Where, in bytes from its start.
    pub at: usize,
    /// The name that is no signal, if that is it.
    pub unknown: Option<String>,
}

impl ExpressionError {
    /// The place in the expression `text`, for people.
    pub fn found(&self, text: &str) -> String {
        let rest = text.get(self.at..).unwrap_or_default();
        if rest.trim().is_empty() {
            return "the end of the expression".into();
        }
        let mut found = String::from("`");
        found.extend(rest.chars().take(20));
        if rest.chars().count() > 20 {
            found.push('…');
        }
        let column = text.get(..self.at).unwrap_or_default().chars().count() + 1;
        let _ = write!(found, "` at character {column}"); // writing to a String cannot fail
        found
    }
}

/// An expression that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    tree: Tree,
    signals: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Number(f64),
    Signal(usize),
    Call(Operation, Vec<Tree>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
    Negate,
    Not,
    And,
    Or,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Equal,
    NotEqual,
    Abs,
    Sqrt,
    Exp,
    Ln,
    Log10,
    Sin,
    Cos,
    Floor,
    Ceil,
    Round,
    Min,
    Max,
    If,
}

/// Functions by name, with the least and the greatest number of arguments.
const FUNCTIONS: &[(&str, Operation, usize, usize)] = &[
    ("abs", Operation::Abs, 1, 1),
    ("sqrt", Operation::Sqrt, 1, 1),
    ("exp", Operation::Exp, 1, 1),
    ("ln", Operation::Ln, 1, 1),
    ("log10", Operation::Log10, 1, 1),
    ("sin", Operation::Sin, 1, 1),
    ("cos", Operation::Cos, 1, 1),
    ("floor", Operation::Floor, 1, 1),
    ("ceil", Operation::Ceil, 1, 1),
    ("round", Operation::Round, 1, 2),
    ("min", Operation::Min, 2, 2),
    ("max", Operation::Max, 2, 2),
    ("if", Operation::If, 3, 3),
];

/// Operators between two values, loosest first; those of one line bind alike.
const BINARY: &[&[(&str, Operation)]] = &[
    &[("||", Operation::Or)],
    &[("&&", Operation::And)],
    &[
        ("<=", Operation::AtMost),
        (">=", Operation::AtLeast),
        ("==", Operation::Equal),
        ("!=", Operation::NotEqual),
        ("<", Operation::Less),
        (">", Operation::Greater),
    ],
    &[("+", Operation::Add), ("-", Operation::Subtract)],
    &[("*", Operation::Multiply), ("/", Operation::Divide)],
];

const VALUE: &str = "a number, a signal, a function or `(`";

impl Expression {
    /// Reads `text`, in which each of `signals` may stand.
    pub fn parse(text: &str, signals: &[&str]) -> Result<Expression, ExpressionError> {
        let mut reader = Reader { text, at: 0, names: signals, depth: 0, used: Vec::new() };
        if text.len() > LONGEST {
            let reason = format!("it has {} characters", text.len());
            return Err(reader.error(reason, format!("at most {LONGEST}: divide it")));
        }
        let tree = reader.binary(0)?;
        if !reader.rest().is_empty() {
            return Err(reader.error("it goes on where it could end", "an operator, or its end"));
        }
        let mut signals = reader.used;
        signals.sort_unstable();
        signals.dedup();
        Ok(Expression { tree, signals })
    }

    /// The expressions of a schema, by signal; none of those that are measured.
    pub fn of_schema(schema: &Schema) -> Result<Vec<Option<Expression>>, ExpressionError> {
        let names: Vec<&str> = schema.signals.iter().map(|s| s.name.as_str()).collect();
        let one = |(index, signal): (usize, &super::Signal)| {
            signal.from.as_ref().map(|from| Expression::parse(from, &names[..index])).transpose()
        };
        schema.signals.iter().enumerate().map(one).collect()
    }

    /// The signals in it, by index, ascending.
    pub fn signals(&self) -> &[usize] {
        &self.signals
    }

    /// Its value for a row of all signals; NaN where it is missing.
    pub fn value(&self, row: &[f64]) -> f64 {
        if self.signals.iter().any(|&signal| row[signal].is_nan()) {
            return f64::NAN;
        }
        let value = self.tree.value(row);
        if value.is_finite() { value } else { f64::NAN }
    }
}

impl Tree {
    fn value(&self, row: &[f64]) -> f64 {
        let (operation, parts) = match self {
            Tree::Number(number) => return *number,
            Tree::Signal(signal) => return row[*signal],
            Tree::Call(operation, parts) => (*operation, parts),
        };
        let part = |at: usize| parts.get(at).map_or(0.0, |part| part.value(row));
        let a = part(0);
        // Only the branch that counts is computed, so that the other may divide by zero.
        if operation == Operation::If {
            return if a == 0.0 { part(2) } else { part(1) };
        }
        let b = part(1);
        let truth = |is: bool| f64::from(is);
        match operation {
            Operation::Add => a + b,
            Operation::Subtract => a - b,
            Operation::Multiply => a * b,
            Operation::Divide => a / b,
            Operation::Power => a.powf(b),
            Operation::Negate => -a,
            Operation::Not => truth(a == 0.0),
            Operation::And => truth(a != 0.0 && b != 0.0),
            Operation::Or => truth(a != 0.0 || b != 0.0),
            // A comparison with what is no number says nothing.
            _ if a.is_nan() || b.is_nan() => f64::NAN,
            Operation::Less => truth(a < b),
            Operation::AtMost => truth(a <= b),
            Operation::Greater => truth(a > b),
            Operation::AtLeast => truth(a >= b),
            Operation::Equal => truth(a == b),
            Operation::NotEqual => truth(a != b),
            Operation::Abs => a.abs(),
            Operation::Sqrt => a.sqrt(),
            Operation::Exp => a.exp(),
            Operation::Ln => a.ln(),
            Operation::Log10 => a.log10(),
            Operation::Sin => a.sin(),
            Operation::Cos => a.cos(),
            Operation::Floor => a.floor(),
            Operation::Ceil => a.ceil(),
            Operation::Round => {
                let factor = 10_f64.powi(b.clamp(0.0, 12.0) as i32);
                (a * factor).round() / factor
            }
            Operation::Min => a.min(b),
            Operation::Max | Operation::If => a.max(b),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    names: &'a [&'a str],
    depth: usize,
    used: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn error(&self, reason: impl Into<String>, expected: impl Into<String>) -> ExpressionError {
        ExpressionError {
            reason: reason.into(),
            expected: expected.into(),
            at: self.at,
            unknown: None,
        }
    }

    /// What is still to read, without leading white space.
    fn rest(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    /// Passes `token` if it is next.
    fn pass(&mut self, token: &str) -> bool {
        let next = self.rest().starts_with(token);
        if next {
            self.at += token.len();
        }
        next
    }

    fn deeper(&mut self) -> Result<(), ExpressionError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            let reason = format!("more than {DEEPEST} parentheses, signs or functions");
            return Err(self.error(reason, "fewer: divide it"));
        }
        Ok(())
    }

    fn binary(&mut self, level: usize) -> Result<Tree, ExpressionError> {
        let Some(operators) = BINARY.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        let mut chained = 0;
        while let Some((_, operation)) = operators.iter().find(|(token, _)| self.pass(token)) {
            let right = self.binary(level + 1)?;
            left = Tree::Call(*operation, vec![left, right]);
            chained += 1;
            if chained > DEEPEST {
                let reason = format!("more than {DEEPEST} operators in a row");
                return Err(self.error(reason, "fewer: divide it"));
            }
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Tree, ExpressionError> {
        for (token, operation) in [("-", Operation::Negate), ("!", Operation::Not)] {
            if self.pass(token) {
                self.deeper()?;
                let tree = Tree::Call(operation, vec![self.unary()?]);
                self.depth -= 1;
                return Ok(tree);
            }
        }
        let base = self.atom()?;
        if !self.pass("^") {
            return Ok(base);
        }
        self.deeper()?;
        let tree = Tree::Call(Operation::Power, vec![base, self.unary()?]);
        self.depth -= 1;
        Ok(tree)
    }

    fn atom(&mut self) -> Result<Tree, ExpressionError> {
        if self.pass("(") {
            self.deeper()?;
            let tree = self.binary(0)?;
            self.depth -= 1;
            return if self.pass(")") {
                Ok(tree)
            } else {
                Err(self.error("a parenthesis is not closed", "`)` or an operator"))
            };
        }
        let rest = self.rest();
        let quoted = rest.strip_prefix('`').and_then(|rest| rest.split_once('`'));
        if let Some((name, _)) = quoted {
            return self.signal(name, name.len() + 2);
        }
        if rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return self.number(rest);
        }
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let name = rest.split(|c| !is_name(c)).next().unwrap_or_default();
        if name.is_empty() {
            return Err(self.error("a value is missing", VALUE));
        }
        let after = rest.get(name.len()..).unwrap_or_default().trim_start();
        if after.starts_with('(') {
            return self.function(name);
        }
        if name == "pi" && !self.names.contains(&name) {
            self.at += name.len();
            return Ok(Tree::Number(std::f64::consts::PI));
        }
        self.signal(name, name.len())
    }

    fn number(&mut self, rest: &str) -> Result<Tree, ExpressionError> {
        let mut length = 0;
        let mut before = ' ';
        for c in rest.chars() {
            let in_exponent = matches!(before, 'e' | 'E') && matches!(c, '+' | '-');
            if !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || in_exponent) {
                break;
            }
            length += c.len_utf8();
            before = c;
        }
        let text = rest.get(..length).unwrap_or_default();
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
        let Some(number) = number else {
            return Err(
                self.error(format!("`{text}` is no number"), "a number such as 1380 or 8.6")
            );
        };
        self.at += length;
        Ok(Tree::Number(number))
    }

    fn signal(&mut self, name: &str, length: usize) -> Result<Tree, ExpressionError> {
        let Some(index) = self.names.iter().position(|other| *other == name) else {
            let reason = format!("no signal `{name}` stands before it in the schema");
            let names: Vec<String> = self.names.iter().map(|name| format!("`{name}`")).collect();
            let expected =
                if names.is_empty() { "a measured signal first".into() } else { names.join(", ") };
            let error = self.error(reason, expected);
            return Err(ExpressionError { unknown: Some(name.to_owned()), ..error });
        };
        self.at += length;
        self.used.push(index);
        Ok(Tree::Signal(index))
    }

    fn function(&mut self, name: &str) -> Result<Tree, ExpressionError> {
        let Some((_, operation, least, most)) = FUNCTIONS.iter().find(|f| f.0 == name) else {
            let names: Vec<&str> = FUNCTIONS.iter().map(|f| f.0).collect();
            return Err(self.error(format!("there is no function `{name}`"), names.join(", ")));
        };
        let start = self.at;
        self.at += name.len();
        self.pass("(");
        self.deeper()?;
        let mut parts = vec![self.binary(0)?];
        while self.pass(",") {
            parts.push(self.binary(0)?);
        }
        self.depth -= 1;
        if !self.pass(")") {
            return Err(self.error(format!("`{name}(` is not closed"), "`,`, `)` or an operator"));
        }
        if (*least..=*most).contains(&parts.len()) {
            return Ok(Tree::Call(*operation, parts));
        }
        self.at = start;
        let count = if least == most { least.to_string() } else { format!("{least} or {most}") };
        let reason = format!("`{name}` is given {} values", parts.len());
        Err(self.error(reason, format!("`{name}` with {count}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 3] = ["a", "b", "air-temp"];

    fn value(text: &str) -> f64 {
        Expression::parse(text, &NAMES).unwrap().value(&[2.0, -3.0, 300.5])
    }

    #[test]
    fn operators_bind_as_in_mathematics() {
        for (text, expected) in [
            ("1 + 2 * 3", 7.0),
            ("(1 + 2) * 3", 9.0),
            ("2 - 3 - 4", -5.0),
            ("16 / 4 / 2", 2.0),
            ("-2 ^ 2", -4.0),
            ("2 ^ 3 ^ 2", 512.0),
            ("2 ^ -1", 0.5),
            ("1e3 + 1.5E-1", 1000.15),
            ("a * b + `air-temp`", 294.5),
            ("!(a < 1) && b < 0 || 0", 1.0),
            ("1 + 1 == 2", 1.0),
            ("a<=2 && a>=2 && a!=3", 1.0),
            ("if(b > 0, 1 / 0, abs(b))", 3.0),
            ("round(2.345, 1) + round(2.5)", 5.3),
            ("max(a, b) - min(a, b)", 5.0),
            ("sqrt(16) + floor(1.9) + ceil(1.1) + ln(exp(1)) + log10(100)", 10.0),
            ("cos(0) + sin(0) + pi - pi", 1.0),
        ] {
            assert!((value(text) - expected).abs() < 1e-12, "{text} is {}", value(text));
        }
    }

    #[test]
    fn what_is_missing_stays_missing() {
        let row = [f64::NAN, 1.0, 2.0];
        for (text, missing) in [("a < 1", true), ("if(b, b, a)", true), ("b + 1", false)] {
            let expression = Expression::parse(text, &NAMES).unwrap();
            assert_eq!(expression.value(&row).is_nan(), missing, "{text}");
        }
        for text in ["1 / 0", "sqrt(b)", "ln(0)", "sqrt(b) < 1", "1e308 * 10"] {
            assert!(value(text).is_nan(), "{text}");
        }
        assert_eq!(Expression::parse("b + a * a", &NAMES).unwrap().signals(), [0, 1]);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, at, reason) in [
            ("", 0, "a value is missing"),
            ("a +", 3, "a value is missing"),
            ("a b", 2, "it goes on"),
            ("(a", 2, "not closed"),
            ("a + c", 4, "no signal `c`"),
            ("mean(a)", 0, "no function `mean`"),
            ("min(a)", 0, "given 1 values"),
            ("min(a, b", 8, "not closed"),
            ("1.2.3", 0, "no number"),
            ("2x", 0, "no number"),
            ("a & b", 2, "it goes on"),
        ] {
            let error = Expression::parse(text, &NAMES).unwrap_err();
            assert!(error.at == at && error.reason.contains(reason), "{text}: {error:?}");
        }
        let deep = format!("{}a{}", "(".repeat(60), ")".repeat(60));
        let long = "a+".repeat(240) + "a";
        for text in
            [deep, "-".repeat(200) + "a", "a^".repeat(90) + "a", long, "a+".repeat(300) + "a"]
        {
            assert!(Expression::parse(&text, &NAMES).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-ab0-9.+*/^()!<>=&|, `é]{0,60}") {
            match Expression::parse(&text, &NAMES) {
                Ok(expression) => {
                    let value = expression.value(&[1.0, 2.0, 3.0]);
                    prop_assert!(value.is_nan() || value.is_finite());
                }
                Err(error) => prop_assert!(text.get(error.at..).is_some(), "{error:?}"),
            }
        }
    }
}
