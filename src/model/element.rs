//! The types of numbers in ONNX tensors, and how Forebay's float64 becomes them and comes back.
//!
//! `onnx` reads them from a file, `loaded` converts with them. It promises that a number which does not fit is brought
//! to the nearest that does: whole numbers are rounded (half to even) and kept within their type's range.

use std::fmt;

use half::f16;
use tract_onnx::pb::tensor_proto::DataType;

/// The type of a tensor's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32 bit floating point.
    Float32,
    /// 64 bit floating point: what Forebay computes with.
    Float64,
    /// 16 bit floating point.
    Float16,
    /// Whole numbers with a sign.
    Int8,
    /// Whole numbers with a sign.
    Int16,
    /// Whole numbers with a sign.
    Int32,
    /// Whole numbers with a sign.
    Int64,
    /// Whole numbers from 0 on.
    UInt8,
    /// Whole numbers from 0 on.
    UInt16,
    /// Whole numbers from 0 on.
    UInt32,
    /// Whole numbers from 0 on.
    UInt64,
    /// Yes or no.
    Bool,
    /// Text: labels.
    Text,
    /// Anything else, by ONNX's number for it.
    Other(i32),
}

impl Element {
    /// The one with ONNX's number.
    pub fn of(number: i32) -> Element {
        match DataType::try_from(number) {
            Ok(DataType::Float) => Element::Float32,
            Ok(DataType::Double) => Element::Float64,
            Ok(DataType::Float16) => Element::Float16,
            Ok(DataType::Int8) => Element::Int8,
            Ok(DataType::Int16) => Element::Int16,
            Ok(DataType::Int32) => Element::Int32,
            Ok(DataType::Int64) => Element::Int64,
            Ok(DataType::Uint8) => Element::UInt8,
            Ok(DataType::Uint16) => Element::UInt16,
            Ok(DataType::Uint32) => Element::UInt32,
            Ok(DataType::Uint64) => Element::UInt64,
            Ok(DataType::Bool) => Element::Bool,
            Ok(DataType::String) => Element::Text,
            _ => Element::Other(number),
        }
    }

    /// Whether readings can be turned into it, and it into a score.
    pub fn is_number(self) -> bool {
        !matches!(self, Element::Text | Element::Other(_))
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Element::Float32 => "float32",
            Element::Float64 => "float64",
            Element::Float16 => "float16",
            Element::Int8 => "int8",
            Element::Int16 => "int16",
            Element::Int32 => "int32",
            Element::Int64 => "int64",
            Element::UInt8 => "uint8",
            Element::UInt16 => "uint16",
            Element::UInt32 => "uint32",
            Element::UInt64 => "uint64",
            Element::Bool => "bool",
            Element::Text => "text",
            Element::Other(number) => {
                return match DataType::try_from(*number) {
                    Ok(known) => f.write_str(&known.as_str_name().to_lowercase()),
                    Err(_) => write!(f, "type {number}"),
                };
            }
        })
    }
}

/// A number as it goes into a tensor.
pub(super) trait Number: Copy {
    /// The nearest to a float64.
    fn near(value: f64) -> Self;
}

macro_rules! whole {
    ($($number:ty)*) => {$(
        impl Number for $number {
            fn near(value: f64) -> Self {
                // The cast keeps what is too large or too small at the end of the range.
                value.round_ties_even() as $number
            }
        }
    )*};
}

whole!(i8 i16 i32 i64 u8 u16 u32 u64);

impl Number for f32 {
    fn near(value: f64) -> Self {
        value as f32
    }
}

impl Number for f64 {
    fn near(value: f64) -> Self {
        value
    }
}

impl Number for f16 {
    fn near(value: f64) -> Self {
        // Beyond its range there is only infinity, of which no model makes a score.
        f16::from_f64(value.clamp(f16::MIN.to_f64(), f16::MAX.to_f64()))
    }
}

impl Number for bool {
    fn near(value: f64) -> Self {
        value != 0.0
    }
}

/// Does `$work` with `$number` as the type of `$element`'s numbers; `$otherwise` where they are none.
macro_rules! with_number {
    ($element:expr, $number:ident => $work:expr, $otherwise:expr) => {{
        use $crate::model::element::Element as E;
        macro_rules! with {
            ($type:ty) => {{
                type $number = $type;
                $work
            }};
        }
        match $element {
            E::Float32 => with!(f32),
            E::Float64 => with!(f64),
            E::Float16 => with!(half::f16),
            E::Int8 => with!(i8),
            E::Int16 => with!(i16),
            E::Int32 => with!(i32),
            E::Int64 => with!(i64),
            E::UInt8 => with!(u8),
            E::UInt16 => with!(u16),
            E::UInt32 => with!(u32),
            E::UInt64 => with!(u64),
            E::Bool => with!(bool),
            E::Text | E::Other(_) => $otherwise,
        }
    }};
}
pub(super) use with_number;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_does_not_fit_becomes_the_nearest_that_does() {
        assert_eq!([0.5, 1.5, -2.5, 300.0, -300.0].map(i8::near), [0, 2, -2, 127, -128]);
        assert_eq!([-1.0, 255.4, 1e9].map(u8::near), [0, 255, 255]);
        assert_eq!(f16::near(1e9), f16::MAX);
        assert_eq!([0.0, -0.5].map(bool::near), [false, true]);
    }
}
