//! What a token may do against what it should, and the `pveum` lines that close the gap.

use std::collections::BTreeSet;
use std::str::FromStr;

use proxmox_client::catalog::WRIT_AGENT;
use proxmox_client::{ApiError, ErrorClass, Permissions};

use super::Seen;
use crate::selftest::{Check, Findings};

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The agent's: reads, and nothing else.
    Report,
    /// The warden's: the 16 privileges of the role `WritAgent`.
    Act,
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "report" => Ok(Self::Report),
            "act" => Ok(Self::Act),
            _ => Err("--role: give report or act".to_owned()),
        }
    }
}

/// The privileges of a report, and what each is for.
const REPORT: [(&str, &str); 3] = [
    ("Sys.Audit", "node, tasks, thin pools, disks"),
    ("VM.Audit", "guests"),
    ("Datastore.Audit", "storages"),
];

/// Privileges that reach far beyond guests; a token of Writ never needs them.
const FAR: [&str; 9] = [
    "Datastore.Allocate",
    "Permissions.Modify",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "Sys.Console",
    "Sys.Modify",
    "Sys.PowerMgmt",
    "User.Modify",
    "VM.Console",
];

/// Whether a privilege is held where it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    Everywhere,
    /// On the path, not below it.
    NotBelow(&'static str),
    /// On some objects below the path or on pools; that may be meant so.
    Only(Vec<String>),
    Nowhere,
}

/// Where a privilege has to be held to count for everything. `GET /access/permissions` always lists
/// these paths, with what is inherited from above.
fn place(privilege: &str) -> &'static str {
    match privilege.split('.').next() {
        Some("VM") => "/vms",
        Some("Datastore") => "/storage",
        Some("SDN") => "/sdn",
        _ => "/",
    }
}

fn held(permissions: &Permissions, privilege: &str) -> Held {
    let place = place(privilege);
    match permissions.get(place).and_then(|privileges| privileges.get(privilege)) {
        Some(true) => return Held::Everywhere,
        Some(false) => return Held::NotBelow(place),
        None => {}
    }
    let below = |path: &str| match place {
        "/" => path.starts_with("/nodes"),
        place => {
            path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/')) || path.starts_with("/pool/")
        }
    };
    let some: Vec<String> = permissions
        .iter()
        .filter(|(path, privileges)| below(path) && privileges.contains_key(privilege))
        .map(|(path, _)| path.clone())
        .collect();
    if some.is_empty() { Held::Nowhere } else { Held::Only(some) }
}

fn holds_somewhere(permissions: &Permissions, privilege: &str) -> bool {
    permissions.values().any(|privileges| privileges.contains_key(privilege))
}

/// What is known besides the token's own rights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// The user's rights; unknown to a token without Sys.Audit on `/access`.
    user: Option<Permissions>,
    /// The role's privileges, none if there is no such role; unknown if it could not be read.
    role: Option<Option<BTreeSet<String>>>,
}

impl Role {
    /// The role that this token is meant to have, by its rights.
    fn guess(permissions: &Permissions) -> Self {
        if holds_somewhere(permissions, "VM.Allocate") { Self::Act } else { Self::Report }
    }

    /// The name of the Proxmox role.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Report => "PVEAuditor",
            Self::Act => "WritAgent",
        }
    }

    fn needs(self) -> Vec<&'static str> {
        match self {
            Self::Report => REPORT.iter().map(|(privilege, _)| *privilege).collect(),
            Self::Act => WRIT_AGENT.to_vec(),
        }
    }

    fn purpose(privilege: &str) -> String {
        let found = REPORT.iter().find(|(name, _)| *name == privilege);
        found.map(|(_, purpose)| format!(" (for {purpose})")).unwrap_or_default()
    }

    /// The lines that grant this role to the token.
    pub(crate) fn grant(self, identity: &str) -> String {
        self.grant_knowing(identity, &Known::default())
    }

    /// With privilege separation, the default, a token has what both it and its user have; so the user
    /// needs the role too, unless it is known to hold everything already.
    fn grant_knowing(self, identity: &str, known: &Known) -> String {
        let mut lines = Vec::new();
        let privileges = WRIT_AGENT.join(" ");
        match (self, &known.role) {
            (Self::Report, _) => {}
            (Self::Act, None) => lines.push(format!(
                "pveum role add WritAgent --privs \"{privileges}\"   # where there is no such role"
            )),
            (Self::Act, Some(None)) => {
                lines.push(format!("pveum role add WritAgent --privs \"{privileges}\""))
            }
            (Self::Act, Some(Some(has))) => {
                let lacks: Vec<&str> =
                    WRIT_AGENT.into_iter().filter(|privilege| !has.contains(*privilege)).collect();
                if !lacks.is_empty() {
                    lines.push(format!(
                        "pveum role modify WritAgent --append --privs \"{}\"",
                        lacks.join(" ")
                    ));
                }
            }
        }
        let user = identity.split('!').next().unwrap_or_default();
        let user_has_all = known.user.as_ref().is_some_and(|permissions| {
            self.needs().iter().all(|privilege| held(permissions, privilege) == Held::Everywhere)
        });
        // A token of root@pam is not compared with its user (`pve/facts.md` 1.4).
        if user == "root@pam" || user_has_all {
            lines.push(self.line("--tokens", identity));
        } else {
            lines.push(self.line("--users", user));
            lines.push(self.line("--tokens", identity));
        }
        lines.join("\n")
    }

    fn line(self, whom: &str, id: &str) -> String {
        format!("pveum acl modify / {whom} {} --roles {}", quoted(id), self.name())
    }
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Compares the token's rights with its role. Says which role that is.
pub(super) async fn check(
    seen: &Seen<'_>,
    role: Option<Role>,
    of_agent: bool,
    findings: &mut Findings<'_>,
) -> Role {
    let client = seen.client;
    let permissions = match client.permissions().await {
        Ok(permissions) => permissions,
        Err(error) => {
            findings.push(Check::fail("permissions", seen.words(&error)));
            return role.unwrap_or(Role::Report);
        }
    };
    let role = role.unwrap_or_else(|| Role::guess(&permissions));
    let mut known = Known::default();
    if role.needs().iter().any(|privilege| held(&permissions, privilege) != Held::Everywhere) {
        let user = client.identity().split('!').next().unwrap_or_default();
        known.user = client.permissions_of(user).await.ok();
        if role == Role::Act {
            known.role = role_of(client.role(role.name()).await);
        }
    }
    let check = judge(&permissions, client.identity(), role, of_agent, &known);
    if check.remedy.as_deref().is_some_and(|remedy| remedy.contains("pveum acl ")) {
        seen.has_granted();
    }
    findings.push(check);
    role
}

fn role_of(answer: Result<BTreeSet<String>, ApiError>) -> Option<Option<BTreeSet<String>>> {
    match answer {
        Ok(role) => Some(Some(role)),
        Err(error) if error.class() == ErrorClass::NotFound => Some(None),
        Err(_) => None,
    }
}

fn judge(permissions: &Permissions, identity: &str, role: Role, of_agent: bool, known: &Known) -> Check {
    let needs = role.needs();
    let (mut missing, mut limited) = (Vec::new(), Vec::new());
    for privilege in &needs {
        let purpose = Role::purpose(privilege);
        match held(permissions, privilege) {
            Held::Everywhere => {}
            Held::Nowhere => missing.push(format!("{privilege} on {}{purpose}", place(privilege))),
            Held::NotBelow(path) => {
                missing
                    .push(format!("{privilege} below {path}{purpose}: its grant there does not propagate"));
            }
            Held::Only(paths) => limited.push(format!("{privilege} on {}", paths.join(" "))),
        }
    }
    let name = role.name();
    if !missing.is_empty() {
        let mut detail =
            format!("{identity} lacks {} of the role {name}: {}", missing.len(), missing.join(", "));
        detail.push_str(match &known.user {
            Some(user) if needs.iter().all(|privilege| held(user, privilege) == Held::Everywhere) => {
                "; its user has all of it, the token, which is separated, has not"
            }
            Some(_) => "; its user lacks some too, and a separated token has only what both have",
            None => "; a token with privilege separation has only what both it and its user have",
        });
        return Check::fail_with("permissions", detail, role.grant_knowing(identity, known));
    }
    if !limited.is_empty() {
        return Check::warn(
            "permissions",
            format!(
                "{identity} holds the role {name} for a part only, and sees no more than that: {}",
                limited.join("; ")
            ),
        )
        .with(format!("If that is not meant:\n{}", role.grant_knowing(identity, known)));
    }
    let beyond: BTreeSet<&str> = permissions
        .values()
        .flat_map(|privileges| privileges.keys())
        .map(String::as_str)
        .filter(|privilege| !needs.contains(privilege) && !privilege.ends_with(".Audit"))
        .collect();
    let has = format!("{identity} has all {} privileges that the role {name} is used for", needs.len());
    match role {
        Role::Report if beyond.is_empty() => {
            Check::ok("permissions", format!("{has}, and may change nothing"))
        }
        Role::Report => Check::warn(
            "permissions",
            format!("{has}; it may also change things ({}), and never needs to", list(&beyond)),
        )
        .with("Use a token of its own with the role PVEAuditor for reports."),
        Role::Act if of_agent => Check::warn(
            "permissions",
            format!("{has}; but this is the agent's token, and the agent only reads"),
        )
        .with("Use a token of its own with the role PVEAuditor for reports."),
        Role::Act => {
            let far: BTreeSet<&str> =
                beyond.into_iter().filter(|privilege| FAR.contains(privilege)).collect();
            if far.is_empty() {
                Check::ok("permissions", has)
            } else {
                Check::warn("permissions", format!("{has}, and far more than it needs: {}", list(&far)))
                    .with("Give it the role WritAgent instead of what it has.")
            }
        }
    }
}

fn list(privileges: &BTreeSet<&str>) -> String {
    privileges.iter().copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::State;

    const ID: &str = "writ@pve!act";

    /// Those privileges on these paths; a path that ends in `!` does not propagate.
    fn rights(grants: &[(&str, &[&str])]) -> Permissions {
        let mut permissions = Permissions::new();
        for (path, privileges) in grants {
            let entry = permissions.entry(path.trim_end_matches('!').to_owned()).or_default();
            entry.extend(privileges.iter().map(|name| ((*name).to_owned(), !path.ends_with('!'))));
        }
        permissions
    }

    fn all(privileges: &[&str]) -> Permissions {
        rights(
            &["/", "/access", "/nodes", "/pool", "/sdn", "/storage", "/vms"].map(|path| (path, privileges)),
        )
    }

    const AUDITOR: [&str; 5] = ["Datastore.Audit", "Pool.Audit", "SDN.Audit", "Sys.Audit", "VM.Audit"];

    fn judged(permissions: &Permissions, role: Role) -> Check {
        judge(permissions, ID, role, false, &Known::default())
    }

    #[test]
    fn the_whole_role_is_ok() {
        assert_eq!(judged(&all(&AUDITOR), Role::Report).state, State::Ok);
        let check = judged(&all(&WRIT_AGENT), Role::Act);
        assert_eq!(check.state, State::Ok, "{check}");
        assert!(check.detail.contains("all 16"), "{check}");
        assert_eq!(Role::guess(&all(&WRIT_AGENT)), Role::Act);
        assert_eq!(Role::guess(&all(&AUDITOR)), Role::Report);
        assert_eq!(Role::guess(&Permissions::new()), Role::Report);
    }

    #[test]
    fn each_missing_privilege_is_named_with_its_place() {
        let grant = "pveum acl modify / --users 'writ@pve' --roles WritAgent\npveum acl modify / --tokens 'writ@pve!act' --roles WritAgent";
        for (missing, place) in [
            ("VM.Snapshot", "/vms"),
            ("Datastore.AllocateSpace", "/storage"),
            ("SDN.Use", "/sdn"),
            ("Sys.Audit", "/"),
        ] {
            let rest: Vec<&str> = WRIT_AGENT.into_iter().filter(|name| *name != missing).collect();
            let check = judged(&all(&rest), Role::Act);
            assert_eq!(check.state, State::Fail);
            assert!(
                check.detail.contains(&format!("lacks 1 of the role WritAgent: {missing} on {place}")),
                "{check}"
            );
            let remedy = check.remedy.unwrap();
            assert!(
                remedy.ends_with(grant) && remedy.starts_with("pveum role add WritAgent --privs \"VM.Audit ")
            );
        }
        let check = judged(&Permissions::new(), Role::Report);
        for privilege in ["Sys.Audit on /", "VM.Audit on /vms", "Datastore.Audit on /storage"] {
            assert!(check.detail.contains(privilege), "{check}");
        }
        let remedy = check.remedy.unwrap();
        assert!(!remedy.contains("role add"), "PVEAuditor is built in: {remedy}");
        assert!(remedy.contains("--users 'writ@pve' --roles PVEAuditor"), "{remedy}");
    }

    #[test]
    fn what_does_not_propagate_or_is_on_parts_only_is_told_apart() {
        let mut permissions = all(&AUDITOR);
        permissions.insert("/vms".to_owned(), rights(&[("/vms!", &["VM.Audit"])]).remove("/vms").unwrap());
        let check = judged(&permissions, Role::Report);
        assert!(check.state == State::Fail && check.detail.contains("does not propagate"), "{check}");

        let mut permissions = all(&["Sys.Audit", "Datastore.Audit"]);
        permissions.extend(rights(&[("/vms/101", &["VM.Audit"]), ("/pool/lab", &["VM.Audit"])]));
        let check = judged(&permissions, Role::Report);
        assert_eq!(check.state, State::Warn);
        assert!(check.detail.contains("VM.Audit on /pool/lab /vms/101"), "{check}");
        // A name that only begins alike is another object.
        let permissions = rights(&[("/vmsx", &["VM.Audit"]), ("/storage", &["VM.Audit"])]);
        assert_eq!(held(&permissions, "VM.Audit"), Held::Nowhere);
    }

    #[test]
    fn the_lines_fit_what_is_known() {
        let known = |user: Option<Permissions>, role: Option<Option<&[&str]>>| Known {
            user,
            role: role.map(|has| has.map(|has| has.iter().map(|name| (*name).to_owned()).collect())),
        };
        let lines = |known: &Known| Role::Act.grant_knowing(ID, known);
        let complete = lines(&known(None, Some(Some(&WRIT_AGENT))));
        assert!(complete.starts_with("pveum acl modify / --users"), "{complete}");
        let half = lines(&known(None, Some(Some(&WRIT_AGENT[..14]))));
        assert!(
            half.starts_with("pveum role modify WritAgent --append --privs \"SDN.Use Sys.Audit\"\n"),
            "{half}"
        );
        assert!(lines(&known(None, Some(None))).starts_with("pveum role add WritAgent"));
        let separated = lines(&known(Some(all(&WRIT_AGENT)), Some(Some(&WRIT_AGENT))));
        assert_eq!(separated, "pveum acl modify / --tokens 'writ@pve!act' --roles WritAgent");
        let check = judge(&Permissions::new(), ID, Role::Act, false, &known(Some(all(&WRIT_AGENT)), None));
        assert!(check.detail.contains("which is separated, has not"), "{check}");
        let check = judge(&Permissions::new(), ID, Role::Act, false, &known(Some(all(&AUDITOR)), None));
        assert!(check.detail.contains("its user lacks some too"), "{check}");
        assert_eq!(
            Role::Report.grant("root@pam!r"),
            "pveum acl modify / --tokens 'root@pam!r' --roles PVEAuditor"
        );
        assert!(Role::Report.grant("o'brien@pve!r").contains("'o'\\''brien@pve'"));
    }

    #[test]
    fn too_much_is_a_warning() {
        let everything: Vec<&str> =
            WRIT_AGENT.into_iter().chain(["Sys.Modify", "VM.Config.HWType"]).collect();
        let check = judged(&all(&everything), Role::Act);
        assert!(check.state == State::Warn && check.detail.ends_with("Sys.Modify"), "{check}");
        let check = judged(&all(&WRIT_AGENT), Role::Report);
        assert!(check.state == State::Warn && check.detail.contains("VM.PowerMgmt"), "{check}");
        let check = judge(&all(&WRIT_AGENT), ID, Role::Act, true, &Known::default());
        assert!(check.state == State::Warn && check.detail.contains("the agent's token"), "{check}");
        let hw: Vec<&str> = WRIT_AGENT.into_iter().chain(["VM.Config.HWType"]).collect();
        assert_eq!(judged(&all(&hw), Role::Act).state, State::Ok, "more options of guests are no danger");
    }
}
