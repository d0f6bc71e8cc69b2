//! Which host a name means. The hub's word counts for nothing here: a name is what an operator
//! wrote into a statement that the local policy accepts, and what this machine believed before.
//! Pure; tested against a hub that lies.

use std::collections::BTreeMap;

use authz::statement::{StatementError, read_host_unverified, verify_host};
use authz::{Policy, PublicKey};
use protocol::api::HostView;
use protocol::config::nearest;
use protocol::enroll::HostStatement;
use protocol::{HostId, HostName, Signed};

/// A host whose name and key an operator vouched for.
#[derive(Debug, Clone)]
pub struct Believed {
    /// What the operator signed.
    pub statement: HostStatement,
    /// The host's key out of it, known to be usable.
    pub key: PublicKey,
    /// Who signed.
    pub vouched_by: HostName,
    /// The statement as it was signed, for this machine's memory.
    pub signed: Signed,
}

impl Believed {
    /// The operators' name for it.
    pub fn name(&self) -> &HostName {
        &self.statement.name
    }

    /// Its id.
    pub fn id(&self) -> &HostId {
        &self.statement.host_id
    }
}

/// Why what the hub says about a host is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// Unsigned, forged, or signed by somebody who may not.
    #[error("the hub's statement about host {host} ('{hub_name}') is not believed: {why}")]
    Statement {
        /// As the hub lists it.
        host: HostId,
        /// As the hub calls it.
        hub_name: HostName,
        /// In words.
        why: String,
        /// What exactly was wrong.
        #[source]
        source: StatementError,
    },
    /// Another format.
    #[error("the statement about host {host} has format version {version}: use a newer writ")]
    Version {
        /// As the hub lists it.
        host: HostId,
        /// Its version.
        version: u32,
    },
    /// The hub calls it something else.
    #[error(
        "the hub calls host {host} '{hub_name}', but the operator-signed statement says '{signed_name}': the hub is wrong or lying"
    )]
    Renamed {
        /// The host.
        host: HostId,
        /// The hub's word.
        hub_name: HostName,
        /// The operator's.
        signed_name: HostName,
    },
    /// The statement of another host.
    #[error(
        "the hub shows for host {host} ('{hub_name}') an operator-signed statement about host {signed_host} ('{signed_name}'): the hub is wrong or lying"
    )]
    Swapped {
        /// As the hub lists it.
        host: HostId,
        /// As the hub calls it.
        hub_name: HostName,
        /// Whom the statement is about.
        signed_host: HostId,
        /// Its name there.
        signed_name: HostName,
    },
    /// A key with which anybody could sign.
    #[error("the host key in the statement about '{name}' is malformed or weak: enroll the host again")]
    WeakKey {
        /// The host.
        name: HostName,
    },
    /// Not what this machine believed before.
    #[error(
        "'{name}' now means another {what} than this machine believed before ({now}, before {before}): if the host was really enrolled again, accept it with `writ hosts --forget {name}`"
    )]
    Changed {
        /// The name.
        name: HostName,
        /// Host id, key or generation.
        what: &'static str,
        /// As stated now.
        now: String,
        /// As believed.
        before: String,
    },
    /// A host that this machine knows under another name.
    #[error(
        "host {host} is now called '{now}', but this machine knows it as '{before}': if an operator really renamed it, accept it with `writ hosts --forget {before}`"
    )]
    OtherName {
        /// The host.
        host: HostId,
        /// As stated now.
        now: HostName,
        /// As believed.
        before: HostName,
    },
    /// Two hosts under one name, both signed.
    #[error(
        "the hub lists two hosts with signed statements for the name '{name}' ({first} and {second}): reject one with an operator, nothing is sent to either"
    )]
    Twice {
        /// The name.
        name: HostName,
        /// One.
        first: HostId,
        /// The other.
        second: HostId,
    },
}

/// What this machine believed before, by name.
pub type Memory = BTreeMap<HostName, HostStatement>;

/// Judges one host as the hub lists it, at `now`, unix seconds.
pub fn judge(view: &HostView, policy: &Policy, memory: &Memory, now: u64) -> Result<Believed, Distrust> {
    let (host, hub_name) = (view.host_id, view.name.clone());
    let (statement, vouched_by) = verify_host(&view.statement, policy, now).map_err(|source| {
        Distrust::Statement { host, hub_name: hub_name.clone(), why: source.to_string(), source }
    })?;
    if statement.v != 1 {
        return Err(Distrust::Version { host, version: statement.v });
    }
    if statement.host_id != host {
        return Err(Distrust::Swapped {
            host,
            hub_name,
            signed_host: statement.host_id,
            signed_name: statement.name,
        });
    }
    if statement.name != hub_name {
        return Err(Distrust::Renamed { host, hub_name, signed_name: statement.name });
    }
    compare_with_memory(&statement, memory)?;
    let key = PublicKey::try_from(statement.host_key)
        .map_err(|_| Distrust::WeakKey { name: statement.name.clone() })?;
    Ok(Believed { statement, key, vouched_by, signed: view.statement.clone() })
}

/// A name once believed keeps its host, key and generation until the operator forgets it.
pub fn compare_with_memory(statement: &HostStatement, memory: &Memory) -> Result<(), Distrust> {
    let name = &statement.name;
    if let Some(old) = memory.get(name) {
        let changed = |what, now: String, before: String| {
            Err(Distrust::Changed { name: name.clone(), what, now, before })
        };
        if old.host_id != statement.host_id {
            return changed("host", statement.host_id.to_string(), old.host_id.to_string());
        }
        if old.host_key != statement.host_key {
            let print = |s: &HostStatement| s.host_key.fingerprint().to_string();
            return changed("host key", print(statement), print(old));
        }
        if old.host_key_gen != statement.host_key_gen {
            return changed(
                "host key generation",
                statement.host_key_gen.to_string(),
                old.host_key_gen.to_string(),
            );
        }
    }
    match memory.values().find(|old| old.host_id == statement.host_id && old.name != *name) {
        Some(old) => {
            Err(Distrust::OtherName { host: statement.host_id, now: name.clone(), before: old.name.clone() })
        }
        None => Ok(()),
    }
}

/// Everything the hub lists, judged, in the hub's order.
#[derive(Debug)]
pub struct Roster {
    /// Each host and the verdict on it.
    pub rows: Vec<(HostView, Result<Believed, Distrust>)>,
}

/// Why a name or id leads to no host.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The hub says something untrue about the host that is meant.
    #[error("{0}")]
    Distrust(String),
    /// Nobody vouched for that name.
    #[error("there is no host '{name}' with an operator-signed statement at this hub{hint}")]
    NoSuchName {
        /// As asked for.
        name: HostName,
        /// What to do.
        hint: String,
    },
    /// Nobody vouched for that id.
    #[error(
        "there is no host {id} with an operator-signed statement at this hub: see `writ hosts`, and log in to the hub where it is enrolled"
    )]
    NoSuchId {
        /// As asked for.
        id: HostId,
    },
    /// An order that gives a known host another name.
    #[error(
        "the order calls host {id} '{called}', but this machine knows that host as '{known}': do not sign or send it, prepare it again with `writ op`"
    )]
    OrderMisnames {
        /// The host that would carry it out.
        id: HostId,
        /// As the order says.
        called: HostName,
        /// As operators signed.
        known: HostName,
    },
    /// An order that gives a host the name of another one.
    #[error(
        "the order is for host {id} and calls it '{called}', but '{called}' is host {known} on this machine: do not sign or send it, prepare it again with `writ op`"
    )]
    OrderBorrowsName {
        /// The host that would carry it out.
        id: HostId,
        /// As the order says.
        called: HostName,
        /// Whose name it is.
        known: HostId,
    },
}

/// Whether the name in an order is that of the host which would carry it out: the host compares
/// only ids, so a person who reads the name must not be shown another's. False when this machine
/// knows neither.
pub fn check_order_name(called: &HostName, id: &HostId, known: &Memory) -> Result<bool, ResolveError> {
    if let Some(host) = known.values().find(|host| host.host_id == *id && host.name != *called) {
        return Err(ResolveError::OrderMisnames {
            id: *id,
            called: called.clone(),
            known: host.name.clone(),
        });
    }
    match known.get(called) {
        Some(host) if host.host_id != *id => {
            Err(ResolveError::OrderBorrowsName { id: *id, called: called.clone(), known: host.host_id })
        }
        Some(_) => Ok(true),
        None => Ok(false),
    }
}

impl Roster {
    /// Judges each host at `now`, unix seconds, then the list as a whole.
    pub fn judge(views: Vec<HostView>, policy: &Policy, memory: &Memory, now: u64) -> Self {
        let mut rows: Vec<(HostView, Result<Believed, Distrust>)> = views
            .into_iter()
            .map(|view| {
                let verdict = judge(&view, policy, memory, now);
                (view, verdict)
            })
            .collect();
        let mut names: BTreeMap<HostName, Vec<usize>> = BTreeMap::new();
        for (i, (_, verdict)) in rows.iter().enumerate() {
            if let Ok(host) = verdict {
                names.entry(host.name().clone()).or_default().push(i);
            }
        }
        for (name, places) in names {
            if let [first, second, ..] = places[..] {
                let ids = (rows[first].0.host_id, rows[second].0.host_id);
                for place in places {
                    rows[place].1 = Err(Distrust::Twice { name: name.clone(), first: ids.0, second: ids.1 });
                }
            }
        }
        Self { rows }
    }

    /// All that are believed.
    pub fn believed(&self) -> impl Iterator<Item = (&HostView, &Believed)> {
        self.rows.iter().filter_map(|(view, verdict)| verdict.as_ref().ok().map(|host| (view, host)))
    }

    /// The host that a name means.
    pub fn by_name(&self, name: &HostName) -> Result<(&HostView, &Believed), ResolveError> {
        if let Some(found) = self.believed().find(|(_, host)| host.name() == name) {
            return Ok(found);
        }
        // Say what is wrong with it rather than that it is not there: by either of its names.
        let means = |view: &HostView| {
            view.name == *name || read_host_unverified(&view.statement).is_ok_and(|s| s.name == *name)
        };
        let reason = self.rows.iter().find_map(|(view, verdict)| {
            verdict.as_ref().err().filter(|_| means(view)).map(ToString::to_string)
        });
        if let Some(reason) = reason {
            return Err(ResolveError::Distrust(reason));
        }
        let names: Vec<&str> = self.believed().map(|(_, host)| host.name().as_str()).collect();
        let hint = match nearest(name.as_str(), &names) {
            Some(best) => format!(": did you mean '{best}'?"),
            None if names.is_empty() => ": enroll one with `writ enroll new`".to_owned(),
            None => ": see `writ hosts`".to_owned(),
        };
        Err(ResolveError::NoSuchName { name: name.clone(), hint })
    }

    /// The host that an order is for.
    pub fn by_id(&self, id: &HostId) -> Result<(&HostView, &Believed), ResolveError> {
        match self.rows.iter().find(|(view, _)| view.host_id == *id) {
            Some((view, Ok(host))) => Ok((view, host)),
            Some((_, Err(distrust))) => Err(ResolveError::Distrust(distrust.to_string())),
            None => Err(ResolveError::NoSuchId { id: *id }),
        }
    }
}

#[cfg(test)]
mod tests;
