//! Configuration files: TOML, unknown keys refused with the nearest known name.

use serde::de::DeserializeOwned;

/// Why a configuration cannot be used: file, line, cause and remedy in one sentence. The line's
/// own text is never quoted, because it may hold a secret that was put there by mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {problem}", .line.map(|l| format!(", line {l}")).unwrap_or_default())]
pub struct ConfigError {
    /// As named to the user.
    pub file: String,
    /// From 1.
    pub line: Option<usize>,
    /// Cause and remedy.
    pub problem: String,
}

/// Parses TOML into a type that derives `Deserialize` with `deny_unknown_fields`.
pub fn parse_toml<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError {
        file: file.to_owned(),
        line: error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
        problem: explain(error.message()),
    })
}

/// Turns serde's words into ours: "unknown field `x`, expected one of `a`, `b`" names the nearest.
fn explain(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return message.replace('\n', " ");
    };
    let Some((key, known)) = rest.split_once('`') else {
        return message.to_owned();
    };
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    match nearest(key, &known) {
        Some(best) => {
            format!("unknown key `{key}`: did you mean `{best}`? (known keys: {})", known.join(", "))
        }
        None => format!("unknown key `{key}`: remove it or use one of the known keys ({})", known.join(", ")),
    }
}

/// The known name that is closest to `word`, if any is close at all.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(word, name), *name))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its field names matter here")]
    struct Example {
        state_dir: String,
        socket: String,
    }

    #[test]
    fn unknown_keys_name_the_nearest_and_the_line() {
        let error =
            parse_toml::<Example>("agent.toml", "state_dir = \"/x\"\nstat_dir = \"/y\"\nsocket = \"s\"")
                .unwrap_err();
        assert_eq!(
            error.to_string(),
            "agent.toml, line 2: unknown key `stat_dir`: did you mean `state_dir`? (known keys: state_dir, socket)"
        );
        let error = parse_toml::<Example>("agent.toml", "zzz = 1").unwrap_err().to_string();
        assert!(error.contains("remove it or use one of the known keys"), "{error}");
    }

    #[test]
    fn a_secret_on_a_bad_line_is_not_repeated() {
        let error = parse_toml::<Example>("agent.toml", "token = \"hunter2\nsocket = 1").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
