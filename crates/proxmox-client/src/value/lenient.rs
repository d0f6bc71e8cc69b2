//! Reading values whose types wobble (`pve/facts.md` 3.12, 12.1): integers come as numbers,
//! strings, floats or `1.1e+15`; booleans as 0, 1, "0", "1", "" or true. A value that cannot be
//! read is `None`, never a made-up zero: unknown is a value.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// 2^53: above it a float no longer names one integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

pub(crate) fn as_f64(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        // Rust also reads "inf" and "NaN"; the filter below refuses both.
        Value::String(text) => text.trim().parse().ok()?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    number.is_finite().then_some(number)
}

pub(crate) fn as_u64(value: &Value) -> Option<u64> {
    let exact = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(flag) => return Some(u64::from(*flag)),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    exact.or_else(|| {
        let number = as_f64(value)?;
        // Truncation is meant: byte counts computed by Perl carry fractions.
        (0.0..=EXACT).contains(&number).then_some(number as u64)
    })
}

pub(crate) fn as_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if text.is_empty() => Some(false),
        Value::Number(_) | Value::String(_) => match as_u64(value)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Any scalar as text; structures as their JSON.
pub(crate) fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(u8::from(*flag).to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    }
}

pub(crate) fn f64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Ok(as_f64(&Value::deserialize(deserializer)?))
}

pub(crate) fn u64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(as_u64(&Value::deserialize(deserializer)?))
}

pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Ok(as_bool(&Value::deserialize(deserializer)?))
}

pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(as_text(&Value::deserialize(deserializer)?))
}

/// Text that is always there; empty if it is not.
pub(crate) fn string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(as_text(&Value::deserialize(deserializer)?).unwrap_or_default())
}

/// Numbers from an array of numbers or strings (`loadavg`).
pub(crate) fn f64_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(items) => items.iter().filter_map(as_f64).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Vec::new(),
    })
}

/// Texts from an array (`san`).
pub(crate) fn text_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(items) => items.iter().filter_map(as_text).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Vec::new(),
    })
}

/// `prod;web` as Proxmox joins tags; commas and blanks separate too.
pub(crate) fn tags<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(as_text(&Value::deserialize(deserializer)?).map(|text| split_list(&text)).unwrap_or_default())
}

/// Splits `a;b`, `a,b`, `a b` and drops empty parts.
pub(crate) fn split_list(text: &str) -> Vec<String> {
    text.split([';', ',', ' ', '\t']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn integers_in_every_dress() {
        for (value, number) in [
            (json!(101), Some(101)),
            (json!("101"), Some(101)),
            (json!(101.9), Some(101)),
            (json!(1.125_899_906_842_62e15), Some(1_125_899_906_842_620)),
            (json!("1.12589990684262e+15"), Some(1_125_899_906_842_620)),
            (json!(u64::MAX), Some(u64::MAX)),
            (json!(-1), None),
            (json!("-1"), None),
            (json!(1e300), None),
            (json!("N/A"), None),
            (json!(""), None),
            (json!("inf"), None),
            (json!("NaN"), None),
            (json!(null), None),
            (json!([1]), None),
        ] {
            assert_eq!(as_u64(&value), number, "{value}");
        }
        assert_eq!(as_f64(&json!("4.49")), Some(4.49));
        assert_eq!(as_f64(&json!("infinity")), None);
    }

    #[test]
    fn booleans_in_every_dress() {
        for yes in [json!(1), json!("1"), json!(true), json!(1.0)] {
            assert_eq!(as_bool(&yes), Some(true), "{yes}");
        }
        for no in [json!(0), json!("0"), json!(false), json!("")] {
            assert_eq!(as_bool(&no), Some(false), "{no}");
        }
        for unknown in [json!(2), json!("yes"), json!(null), json!([])] {
            assert_eq!(as_bool(&unknown), None, "{unknown}");
        }
    }
}
