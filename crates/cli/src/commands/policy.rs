//! `writ policy init`, `writ policy show`.

use authz::policy::PolicyDocument;
use authz::{OperatorKey, Policy, files};

use super::{Context, now, write_new};
use crate::args::PolicyCommand;
use crate::error::{Answer, Failure};
use crate::policy_file::{describe, first_policy, runner_hint};
use crate::state::{StateError, read_policy};

/// Largest public key file, in bytes.
const MAX_KEY: u64 = 64 * 1024;

pub(super) fn run(ctx: &Context, command: PolicyCommand) -> Result<Answer, Failure> {
    match command {
        PolicyCommand::Init { operators, guests, output, force } => {
            let mut keys = Vec::new();
            for (name, path) in operators {
                let bytes = files::read_limited(&path, MAX_KEY)?;
                let fail = |why| StateError::Key { path: path.clone(), why };
                let text = std::str::from_utf8(&bytes).map_err(|_| fail(authz::KeyError::NotAKey))?;
                for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
                    keys.push((name.clone(), OperatorKey::from_line(line).map_err(fail)?));
                }
                if keys.last().is_none_or(|(last, _)| *last != name) {
                    return Err(fail(authz::KeyError::NotAKey).into());
                }
            }
            let document: PolicyDocument = first_policy(keys, guests, now())?;
            let bytes = document.encode();
            let policy = Policy::decode(&bytes).map_err(|source| StateError::Policy {
                path: output.clone(),
                why: source.to_string(),
                source,
            })?;
            write_new(&output, &bytes, force)?;
            Ok(Answer::ok(format!(
                "{}\nWritten to {}. Hosts will accept exactly these bytes; keep them.\n{}Next: writ login --hub https://… --pin HEX --key FILE --policy {}\n",
                describe(&policy),
                output.display(),
                runner_hint(&policy).unwrap_or_default(),
                output.display()
            )))
        }
        PolicyCommand::Show { file } => {
            let policy = match file {
                Some(path) => read_policy(&path)?.0,
                None => ctx.home()?.policy()?.0,
            };
            let hint = runner_hint(&policy).map(|hint| format!("\n{hint}")).unwrap_or_default();
            Ok(Answer::ok(format!("{}{hint}", describe(&policy))))
        }
    }
}
