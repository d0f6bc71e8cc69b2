//! OpenSSH's `allowed_signers` against a policy, in the part of it that means the same in both (`security.md`
//! 1.3). Pure.
//!
//! OpenSSH skips a line that it cannot read, takes a line without `namespaces` for every purpose, and matches
//! principals by pattern. Here the first bad line refuses the file, and each line says what it is for.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use protocol::HostName;

use super::{Authority, Credential, Operator, Policy, PolicyDocument};
use crate::keys::OperatorKey;
use crate::keys::cert::is_principal;
use crate::namespace::Namespace;

/// Largest file, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;

/// Why a file is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct LineError {
    /// From 1.
    pub line: usize,
    /// Cause and remedy.
    pub why: String,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// From 1.
    pub line: usize,
    /// For a key the operator's name alone.
    pub principals: Vec<String>,
    /// Whether the key is a CA.
    pub cert_authority: bool,
    /// What the signatures may be for.
    pub namespaces: BTreeSet<&'static str>,
    /// The key.
    pub key: OperatorKey,
}

/// Reads a file, or refuses all of it.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, LineError> {
    let refuse = |line, why: &str| LineError { line, why: why.to_owned() };
    if bytes.len() > MAX_BYTES {
        return Err(refuse(1, "the file is larger than 256 KiB"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| refuse(1, "the file is not UTF-8"))?;
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            let entry = entry(number + 1, line);
            entries.push(entry.map_err(|why| LineError { line: number + 1, why })?);
        }
    }
    Ok(entries)
}

fn entry(line: usize, text: &str) -> Result<Entry, String> {
    let (names, rest) = word(text)?;
    let principals: Vec<String> = names.split(',').map(str::to_owned).collect();
    if let Some(bad) = principals.iter().find(|name| !is_principal(name)) {
        return Err(format!(
            "principal {bad:?} is a pattern or no plain word: a policy names each operator, without *, ? and !"
        ));
    }
    // What does not begin like a key is options.
    let (first, after) = word(rest)?;
    let is_key = OperatorKey::from_line(rest).is_ok();
    let (options, key) = if is_key { ("", rest) } else { (first, after) };
    let (mut cert_authority, mut namespaces) = (false, None);
    for option in split(options).into_iter().filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
        match (name.to_ascii_lowercase().as_str(), value) {
            ("cert-authority", None) if !cert_authority => cert_authority = true,
            ("namespaces", Some(list)) if namespaces.is_none() => namespaces = Some(self::namespaces(list)?),
            ("cert-authority" | "namespaces", _) => {
                return Err(format!("option {name} stands twice or has no proper value"));
            }
            ("valid-after" | "valid-before", _) => {
                return Err(format!(
                    "{name} has no counterpart in a policy: take the key out when its time is over, or use certificates, which expire"
                ));
            }
            _ => return Err(format!("option {name:?} is not known here: remove it")),
        }
    }
    let namespaces = namespaces.ok_or(
        "it has no namespaces=\"…\", so OpenSSH would take its signatures for every purpose: write what it is for",
    )?;
    if !cert_authority && principals.len() != 1 {
        return Err("a key belongs to one operator: write one principal".to_owned());
    }
    let key = OperatorKey::from_line(key).map_err(|error| error.to_string())?;
    Ok(Entry { line, principals, cert_authority, namespaces, key })
}

fn namespaces(list: &str) -> Result<BTreeSet<&'static str>, String> {
    let list =
        list.strip_prefix('"').and_then(|list| list.strip_suffix('"')).ok_or("namespaces needs quotes")?;
    list.split(',')
        .map(|name| {
            OURS.iter().map(|ours| ours.as_str()).find(|ours| *ours == name).ok_or_else(|| {
                format!("namespace {name:?} is none that operators sign for: patterns are not taken either")
            })
        })
        .collect()
}

/// What operators may sign for.
const OURS: [Namespace; 5] =
    [Namespace::Op, Namespace::Policy, Namespace::Session, Namespace::Job, Namespace::Enroll];

/// The first word, in which quoted spaces count, and the rest.
fn word(text: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return Ok((&text[..at], text[at..].trim_start())),
            _ => {}
        }
    }
    Err("it ends too early: a line is principals, options, key type and key".to_owned())
}

/// Options, by commas outside of quotes.
fn split(options: &str) -> Vec<&str> {
    let mut quoted = false;
    options
        .split(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        })
        .collect()
}

/// Adds the keys to a draft. Who is new becomes a member of each role whose namespaces the line allows.
pub fn import(document: &mut PolicyDocument, entries: &[Entry]) -> Result<(), LineError> {
    for entry in entries {
        let fail = |why: String| LineError { line: entry.line, why };
        let [first, ..] = &entry.principals[..] else { continue };
        let name: HostName =
            first.parse().map_err(|_| fail(format!("{first:?} cannot be an operator's name here")))?;
        let credential = if entry.cert_authority {
            Credential::Authority(Authority::new(entry.key.clone(), entry.principals.clone()))
        } else {
            Credential::Key(entry.key.clone())
        };
        match document.operators.iter_mut().find(|operator| operator.name == name) {
            Some(operator) if operator.keys.iter().any(|key| key.key() == credential.key()) => {}
            Some(operator) => operator.keys.push(credential),
            None => {
                document.operators.push(Operator { name: name.clone(), keys: vec![credential] });
                let mut roles = 0;
                for role in &mut document.roles {
                    if role.namespaces.iter().all(|ns| entry.namespaces.contains(ns.as_str())) {
                        role.members.push(name.clone());
                        roles += 1;
                    }
                }
                if roles == 0 {
                    return Err(fail(format!(
                        "{name} is new, and no role of the policy is for these namespaces or fewer: add a role first"
                    )));
                }
            }
        }
    }
    Ok(())
}

/// What `ssh-keygen -Y verify` needs to check signatures without this tool. Revoked keys are left out; it
/// knows nothing of thresholds, touch and PIN.
pub fn export(policy: &Policy) -> String {
    let document = policy.document();
    let mut text = format!(
        "# Of policy version {}, {}. One signature each: thresholds are for the host to judge.\n",
        policy.version(),
        policy.hash()
    );
    for operator in &document.operators {
        let namespaces: BTreeSet<&str> = document
            .roles
            .iter()
            .filter(|role| role.members.contains(&operator.name))
            .flat_map(|role| role.namespaces.iter().map(|ns| ns.as_str()))
            .collect();
        if namespaces.is_empty() {
            continue;
        }
        let namespaces = namespaces.into_iter().collect::<Vec<_>>().join(",");
        for credential in operator.keys.iter().filter(|key| !policy.is_revoked(*key)) {
            let line = credential.key();
            let _ = match credential.authority() {
                None => writeln!(text, "{} namespaces=\"{namespaces}\" {line}", operator.name),
                Some(authority) => writeln!(
                    text,
                    "{} cert-authority,namespaces=\"{namespaces}\" {line}",
                    authority.principals.join(",")
                ),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{document, mallory, policy};

    #[test]
    fn what_is_exported_is_taken_back() {
        let text = export(&policy());
        let entries = parse(text.as_bytes()).unwrap();
        assert_eq!(entries.len(), 3);
        assert!(
            entries[0].namespaces.contains("op.v1@writ") && !entries[2].namespaces.contains("op.v1@writ")
        );
        let mut same = document();
        import(&mut same, &entries).unwrap();
        assert_eq!(same, document());
    }

    #[test]
    fn a_new_operator_gets_the_roles_that_the_line_allows() {
        let key = OperatorKey::from(mallory().public());
        let mut draft = document();
        let line = format!("dora namespaces=\"enroll.v1@writ\" {key} a comment\n");
        import(&mut draft, &parse(line.as_bytes()).unwrap()).unwrap();
        assert!(draft.roles[1].members.iter().any(|name| name.as_str() == "dora"));
        assert_eq!(draft.roles[0].members.len(), 2);
        let line = format!("dora,d cert-authority,namespaces=\"job.v1@writ\" {key}\n");
        let error = import(&mut document(), &parse(line.as_bytes()).unwrap()).unwrap_err();
        assert!(error.why.contains("add a role first"), "{error}");
    }

    #[test]
    fn one_bad_line_refuses_the_file() {
        let key = OperatorKey::from(mallory().public());
        for (line, says) in [
            (format!("dora {key}"), "every purpose"),
            (format!("* namespaces=\"op.v1@writ\" {key}"), "pattern"),
            (format!("!dora namespaces=\"op.v1@writ\" {key}"), "pattern"),
            (format!("a,b namespaces=\"op.v1@writ\" {key}"), "one principal"),
            (format!("dora namespaces=\"*\" {key}"), "none that operators sign for"),
            (format!("dora namespaces=\"receipt.v1@writ\" {key}"), "none that operators sign for"),
            (format!("dora namespaces=op.v1@writ {key}"), "quotes"),
            (format!("dora namespaces=\"op.v1@writ\",namespaces=\"op.v1@writ\" {key}"), "twice"),
            (format!("dora namespaces=\"op.v1@writ\",valid-before=\"20300101\" {key}"), "counterpart"),
            (format!("dora namespaces=\"op.v1@writ\",no-touch-required {key}"), "not known"),
            ("dora".to_owned(), "too early"),
            ("dora namespaces=\"op.v1@writ\" ssh-ed25519 AAAA".to_owned(), ""),
            ("dora namespaces=\"op.v1@writ".to_owned(), "too early"),
        ] {
            let text = format!("# a comment\n\n{line}\n");
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.line == 3 && error.why.contains(says), "{line}: {error}");
        }
        assert!(parse(&vec![b'#'; MAX_BYTES + 1]).is_err());
        assert!(parse(b"\xff").is_err());
    }
}
