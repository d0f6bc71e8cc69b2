//! Request parameters: decoding as Proxmox VE does it, and the schema check.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::world::Refusal;

/// A parameter's type in the schema.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ty {
    /// 0 or 1.
    Bool,
    /// A whole number of at least this.
    Int(i64),
    /// A VMID.
    Vmid,
    /// A snapshot name.
    SnapName,
    /// The id of an API token.
    TokenId,
    /// One of these words.
    Enum(&'static [&'static str]),
    /// Any text of at most this many characters.
    Text(usize),
    /// Any text.
    Any,
}

/// One line of a schema: name, type, and whether it may be missing.
pub(crate) struct Field(pub(crate) &'static str, pub(crate) Ty, pub(crate) bool);

/// Parameters by name; a repeated key keeps all its values.
#[derive(Debug, Default, Clone)]
pub(crate) struct Params(BTreeMap<String, Vec<String>>);

impl Params {
    /// Decodes `a=b&c=d`. Separators are `&` and `;`, and only the text between the first and the
    /// second `=` counts, which is why clients must percent-encode both inside values.
    pub(crate) fn from_form(text: &[u8]) -> Params {
        let mut params = Params::default();
        for pair in text.split(|b| matches!(b, b'&' | b';')) {
            let mut parts = pair.split(|b| *b == b'=');
            let key = unescape(parts.next().unwrap_or_default(), true);
            let value = unescape(parts.next().unwrap_or_default(), true);
            if !key.is_empty() {
                params.0.entry(key).or_default().push(value);
            }
        }
        params
    }

    /// Takes the members of a JSON object; booleans become 0 and 1.
    pub(crate) fn from_json(body: &[u8]) -> Result<Params, Refusal> {
        let malformed = || Refusal {
            newline: false,
            ..Refusal::new(
                501,
                "malformed JSON string, neither tag, array, object, number, string or atom, at character offset 0",
            )
        };
        let Ok(Value::Object(map)) = serde_json::from_slice(body) else {
            return Err(malformed());
        };
        let text = |value: Value| match value {
            Value::String(text) => text,
            Value::Bool(flag) => u8::from(flag).to_string(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let entries = map.into_iter().map(|(key, value)| {
            let values = match value {
                Value::Array(items) => items.into_iter().map(text).collect(),
                one => vec![text(one)],
            };
            (key, values)
        });
        Ok(Params(entries.collect()))
    }

    /// Adds the query's parameters, which win over those of the body.
    pub(crate) fn override_with(&mut self, query: Params) {
        self.0.extend(query.0);
    }

    /// Adds a parameter from the path; a different value elsewhere is refused.
    pub(crate) fn bind_path(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        if let Some(given) = self.0.get(name)
            && given.as_slice() != [value.to_owned()]
        {
            return Err(Refusal::parameter(
                name,
                "duplicate parameter (already defined in URI) with conflicting values!",
            ));
        }
        self.0.insert(name.to_owned(), vec![value.to_owned()]);
        Ok(())
    }

    /// Sets a parameter.
    pub(crate) fn put(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), vec![value.to_owned()]);
    }

    /// Removes a parameter and gives its value.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)?.into_iter().next()
    }

    /// The value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|v| v.first()).map(String::as_str)
    }

    /// All values of a parameter that is a list.
    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a checked boolean is 1.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    /// A checked number.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(|v| v.parse().ok())
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Checks the parameters against a schema.
    pub(crate) fn check(&self, fields: &[Field]) -> Result<(), Refusal> {
        let errors = self.errors(fields, |_| false);
        if errors.is_empty() { Ok(()) } else { Err(Refusal::parameters(errors)) }
    }

    /// The errors of a schema check; `known` names further properties the caller checks itself.
    pub(crate) fn errors(&self, fields: &[Field], known: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
        let mut errors = BTreeMap::new();
        for Field(name, ty, optional) in fields {
            let text = match self.0.get(*name).map(Vec::as_slice) {
                None if *optional => continue,
                None => Some("property is missing and it is not optional".to_owned()),
                Some([value]) => ty.refuse(value),
                Some(_) => Some("type check ('string') failed - got 'ARRAY'".to_owned()),
            };
            if let Some(text) = text {
                errors.insert((*name).to_owned(), text);
            }
        }
        for name in self.0.keys() {
            if !known(name) && !fields.iter().any(|f| f.0 == name) {
                let text = "property is not defined in schema and the schema does not allow \
                            additional properties";
                errors.insert(name.clone(), text.to_owned());
            }
        }
        errors
    }
}

impl Ty {
    /// Why the value is refused, if it is.
    fn refuse(self, value: &str) -> Option<String> {
        match self {
            Ty::Bool if matches!(value, "0" | "1") => None,
            Ty::Bool => Some(format!("type check ('boolean') failed - got '{value}'")),
            Ty::Int(least) => match value.parse::<i64>() {
                Err(_) => Some(format!("type check ('integer') failed - got '{value}'")),
                Ok(n) if n < least => Some(format!("value must have a minimum value of {least}")),
                Ok(_) => None,
            },
            Ty::Vmid => match value.parse::<i64>() {
                Err(_) => Some(format!("type check ('integer') failed - got '{value}'")),
                Ok(100..=999_999_999) if !value.starts_with(['+', '0']) => None,
                Ok(_) => Some("invalid format - value does not look like a valid VM ID\n".to_owned()),
            },
            Ty::TokenId => {
                let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
                let first = value.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
                let pattern = "value does not match the regex pattern";
                (!first || value.len() < 2 || !value.bytes().all(good)).then(|| pattern.to_owned())
            }
            Ty::SnapName => {
                if !is_config_id(value) {
                    return Some(format!("invalid format - invalid configuration ID '{value}'\n"));
                }
                Ty::Text(40).refuse(value)
            }
            Ty::Enum(words) => (!words.contains(&value)).then(|| {
                let all = words.join(", ");
                format!("value '{value}' does not have a value in the enumeration '{all}'")
            }),
            Ty::Text(most) => {
                (value.chars().count() > most).then(|| format!("value may only be {most} characters long"))
            }
            Ty::Any => None,
        }
    }
}

/// `^[a-z][a-z0-9_-]+$` in any case.
fn is_config_id(text: &str) -> bool {
    let (Some(first), true) = (text.bytes().next(), text.len() >= 2) else {
        return false;
    };
    first.is_ascii_alphabetic() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Percent-decodes; an escape that is none stays as it is.
pub(crate) fn unescape(text: &[u8], plus_is_space: bool) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'+' && plus_is_space {
            out.push(b' ');
            continue;
        }
        if byte == b'%'
            && let Some((digits, tail)) = tail.split_at_checked(2)
            && let Ok([value]) = data_encoding::HEXLOWER_PERMISSIVE.decode(digits).as_deref()
        {
            out.push(*value);
            rest = tail;
            continue;
        }
        out.push(byte);
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_rules() {
        let p = Params::from_form(b"a=1;b=x%3Dy&net0=name=eth0,bridge=x&d=%C3%A4+z&&=q&e");
        assert_eq!(p.get("a"), Some("1"));
        assert_eq!(p.get("b"), Some("x=y"));
        assert_eq!(p.get("net0"), Some("name"), "what follows the second = is lost");
        assert_eq!(p.get("d"), Some("ä z"));
        assert_eq!(p.get("e"), Some(""));
        assert_eq!(p.names().count(), 5);
    }

    #[test]
    fn bad_escapes_stay() {
        for bad in ["%", "%4", "%zz", "%%", "a%2"] {
            assert_eq!(unescape(bad.as_bytes(), false), bad);
        }
        assert_eq!(unescape(b"%41%2f%ff", false), "A/\u{fffd}");
        assert_eq!(unescape("%ä".as_bytes(), false), "%ä");
    }

    #[test]
    fn json_bodies() {
        let p = Params::from_json(br#"{"a":true,"b":5,"c":"x","d":null}"#).unwrap();
        assert_eq!((p.get("a"), p.get("b"), p.get("d")), (Some("1"), Some("5"), Some("")));
        for bad in ["", "[1]", "{", "nul", "\"x\"", "{\"a\":"] {
            assert_eq!(Params::from_json(bad.as_bytes()).unwrap_err().status, 501, "{bad}");
        }
    }

    #[test]
    fn schema_texts() {
        let refuse = |ty: Ty, v: &str| ty.refuse(v).unwrap_or_default();
        assert_eq!(refuse(Ty::Vmid, "abc"), "type check ('integer') failed - got 'abc'");
        for bad in ["99", "-1", "1000000000", "0100", "+100"] {
            assert!(refuse(Ty::Vmid, bad).contains("valid VM ID"), "{bad}");
        }
        assert_eq!(refuse(Ty::SnapName, &"a".repeat(41)), "value may only be 40 characters long");
        assert_eq!(refuse(Ty::SnapName, &"a".repeat(40)), "");
        for bad in ["a", "1bad name!", "a.b", "", "ä1", "-a"] {
            assert!(refuse(Ty::SnapName, bad).contains("invalid configuration ID"), "{bad}");
        }
        let twice = Params::from_form(b"x=1&x=2");
        assert!(twice.check(&[Field("x", Ty::Bool, false)]).is_err());
    }

    #[test]
    fn path_conflicts_are_refused() {
        let mut p = Params::from_form(b"vmid=101");
        assert!(p.bind_path("vmid", "101").is_ok());
        assert_eq!(p.bind_path("vmid", "100").unwrap_err().status, 400);
    }
}
