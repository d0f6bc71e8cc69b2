//! Users, API tokens, roles and ACL entries, with privilege separation.

use std::collections::{BTreeMap, BTreeSet};

use super::Refusal;

/// The privileges of the demo's `WritAgent` role.
pub const WRIT_AGENT: [&str; 16] = [
    "VM.Audit",
    "VM.PowerMgmt",
    "VM.Snapshot",
    "VM.Backup",
    "VM.Allocate",
    "VM.Clone",
    "VM.Config.Disk",
    "VM.Config.CPU",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "Datastore.Audit",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "SDN.Use",
    "Sys.Audit",
];

const AUDITOR: [&str; 7] = [
    "Datastore.Audit",
    "Mapping.Audit",
    "Pool.Audit",
    "SDN.Audit",
    "Sys.Audit",
    "VM.Audit",
    "VM.GuestAgent.Audit",
];

/// What `Administrator` holds beyond the two roles above.
const ADMINISTRATOR_EXTRA: [&str; 28] = [
    "Datastore.Allocate",
    "Group.Allocate",
    "Mapping.Modify",
    "Mapping.Use",
    "Permissions.Modify",
    "Pool.Allocate",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "SDN.Allocate",
    "Sys.AccessNetwork",
    "Sys.Console",
    "Sys.Incoming",
    "Sys.Modify",
    "Sys.PowerMgmt",
    "Sys.Syslog",
    "User.Modify",
    "VM.Config.CDROM",
    "VM.Config.Cloudinit",
    "VM.Config.HWType",
    "VM.Console",
    "VM.GuestAgent.FileRead",
    "VM.GuestAgent.FileSystemMgmt",
    "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
    "VM.Migrate",
    "VM.Replicate",
    "VM.Snapshot.Rollback",
    "Permissions.Audit",
];

/// The paths `GET /access/permissions` always looks at, besides those with ACL entries.
const WELL_KNOWN: [&str; 8] =
    ["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"];

/// Privileges on one path; the flag says whether they propagate downwards.
pub type Privileges = BTreeMap<String, bool>;

/// Who makes a request: a user, or one of the user's tokens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuthId {
    /// `user@realm`.
    pub user: String,
    /// The token's id, if the request came with a token.
    pub token: Option<String>,
}

impl AuthId {
    /// Splits `user@realm` or `user@realm!token`.
    pub fn parse(text: &str) -> AuthId {
        match text.split_once('!') {
            Some((user, token)) => AuthId { user: user.to_owned(), token: Some(token.to_owned()) },
            None => AuthId { user: text.to_owned(), token: None },
        }
    }
}

impl std::fmt::Display for AuthId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.token {
            Some(token) => write!(f, "{}!{token}", self.user),
            None => f.write_str(&self.user),
        }
    }
}

/// A user of the simulated node.
#[derive(Debug, Clone)]
pub struct User {
    /// Disabled users cannot authenticate.
    pub enabled: bool,
    /// Seconds since 1970 after which the user is expired; 0 is never.
    pub expire: i64,
}

/// An API token.
#[derive(Clone)]
pub struct Token {
    /// The secret; `None` until the simulator gives it one at its start.
    pub secret: Option<String>,
    /// Seconds since 1970 after which the token is expired; 0 is never.
    pub expire: i64,
    /// Whether the token's own ACL entries limit it.
    pub privsep: bool,
}

// The secret stays out of logs that print a whole World.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("expire", &self.expire)
            .field("privsep", &self.privsep)
            .finish_non_exhaustive()
    }
}

/// One ACL line.
#[derive(Debug, Clone)]
pub struct AclEntry {
    /// The path it is on.
    pub path: String,
    /// The user or token it is for.
    pub who: AuthId,
    /// The role it grants.
    pub role: String,
    /// Whether it applies to the paths below.
    pub propagate: bool,
}

/// The access-control configuration.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Users by `user@realm`.
    pub users: BTreeMap<String, User>,
    /// Tokens by owner and id.
    pub tokens: BTreeMap<AuthId, Token>,
    /// Roles by name.
    pub roles: BTreeMap<String, BTreeSet<String>>,
    /// ACL lines.
    pub acl: Vec<AclEntry>,
}

impl Access {
    /// No users; the roles `PVEAuditor`, `WritAgent`, `Administrator` and `NoAccess`.
    pub fn with_builtin_roles() -> Access {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let mut administrator = set(&AUDITOR);
        administrator.extend(set(&WRIT_AGENT));
        administrator.extend(set(&ADMINISTRATOR_EXTRA));
        Access {
            roles: BTreeMap::from([
                ("NoAccess".to_owned(), BTreeSet::new()),
                ("PVEAuditor".to_owned(), set(&AUDITOR)),
                ("WritAgent".to_owned(), set(&WRIT_AGENT)),
                ("Administrator".to_owned(), administrator),
            ]),
            ..Access::default()
        }
    }

    /// Adds an enabled user without expiry.
    pub fn add_user(&mut self, user: &str) {
        let entry = User { enabled: true, expire: 0 };
        self.users.insert(user.to_owned(), entry);
    }

    /// Adds a privilege-separated token; its secret is set by the simulator's start when `None`.
    pub fn add_token(&mut self, id: &str, secret: Option<&str>, expire: i64) {
        let entry = Token { secret: secret.map(str::to_owned), expire, privsep: true };
        self.tokens.insert(AuthId::parse(id), entry);
    }

    /// Adds a propagating ACL line.
    pub fn grant(&mut self, path: &str, who: &str, role: &str) {
        self.acl.push(AclEntry {
            path: path.to_owned(),
            who: AuthId::parse(who),
            role: role.to_owned(),
            propagate: true,
        });
    }

    /// Who the credentials belong to, or `None` for every kind of failure: 9.1.8 does not tell them
    /// apart either.
    pub fn authenticate(&self, id: &str, secret: &str, unix: i64) -> Option<AuthId> {
        let who = AuthId::parse(id);
        who.token.as_ref()?;
        let alive = |expire: i64| expire == 0 || expire > unix;
        let user = self.users.get(&who.user)?;
        let token = self.tokens.get(&who)?;
        let known = token.secret.as_deref()?;
        (user.enabled && alive(user.expire) && alive(token.expire) && known == secret).then_some(who)
    }

    /// The privileges granted by ACL lines of exactly this user or token: the deepest path with
    /// lines of theirs wins.
    fn granted(&self, who: &AuthId, path: &str) -> Privileges {
        let mut found = Privileges::new();
        for prefix in prefixes(path) {
            let is_target = prefix == path;
            let lines: Vec<_> = self
                .acl
                .iter()
                .filter(|e| e.who == *who && e.path == prefix && (is_target || e.propagate))
                .collect();
            if lines.is_empty() {
                continue;
            }
            found.clear();
            for line in lines {
                for privilege in self.roles.get(&line.role).into_iter().flatten() {
                    let flag = found.entry(privilege.clone()).or_insert(false);
                    *flag |= line.propagate;
                }
            }
        }
        found
    }

    /// The effective privileges on `path`: with privilege separation, what both the token and its
    /// user hold.
    pub fn effective(&self, who: &AuthId, path: &str) -> Privileges {
        let owner = AuthId { user: who.user.clone(), token: None };
        let of_user = self.granted(&owner, path);
        let separated = self.tokens.get(who).is_some_and(|t| t.privsep);
        if who.token.is_none() || !separated {
            return of_user;
        }
        self.granted(who, path)
            .into_iter()
            .filter_map(|(privilege, propagate)| {
                let by_user = of_user.get(&privilege)?;
                Some((privilege, propagate && *by_user))
            })
            .collect()
    }

    /// Whether any of `wanted` is held on `path`.
    pub fn has_any(&self, who: &AuthId, path: &str, wanted: &[&str]) -> bool {
        let held = self.effective(who, path);
        wanted.iter().any(|p| held.contains_key(*p))
    }

    /// The 403 of Proxmox VE unless any of `wanted` is held on `path`.
    pub fn require(&self, who: &AuthId, path: &str, wanted: &[&str]) -> Result<(), Refusal> {
        if self.has_any(who, path, wanted) {
            Ok(())
        } else {
            Err(Refusal::permission(path, &wanted.join("|")))
        }
    }

    /// `GET /access/permissions` without a path: every path on which something is held.
    pub fn permissions(&self, who: &AuthId) -> BTreeMap<String, Privileges> {
        let own = self.acl.iter().map(|e| e.path.as_str());
        let paths: BTreeSet<&str> = WELL_KNOWN.into_iter().chain(own).collect();
        paths
            .into_iter()
            .map(|p| (p.to_owned(), self.effective(who, p)))
            .filter(|(_, held)| !held.is_empty())
            .collect()
    }
}

/// `/a/b` as `/`, `/a`, `/a/b`.
fn prefixes(path: &str) -> Vec<&str> {
    let mut all = vec!["/"];
    all.extend(path.match_indices('/').skip(1).map(|(i, _)| &path[..i]));
    if path != "/" {
        all.push(path);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let mut a = Access::with_builtin_roles();
        a.add_user("u@pve");
        a.add_token("u@pve!t", Some("s"), 0);
        a
    }

    #[test]
    fn separated_token_gets_the_intersection() {
        let mut a = access();
        let t = AuthId::parse("u@pve!t");
        a.grant("/", "u@pve!t", "WritAgent");
        assert!(a.effective(&t, "/vms/100").is_empty(), "the user has no line");
        a.grant("/", "u@pve", "PVEAuditor");
        let held = a.effective(&t, "/vms/100");
        let names: Vec<_> = held.keys().map(String::as_str).collect();
        assert_eq!(names, ["Datastore.Audit", "Sys.Audit", "VM.Audit"]);
        a.tokens.get_mut(&t).unwrap().privsep = false;
        assert!(a.has_any(&t, "/", &["SDN.Audit"]), "without separation: the user's");
    }

    #[test]
    fn deepest_line_wins_and_propagation_counts() {
        let mut a = access();
        let u = AuthId::parse("u@pve");
        a.grant("/", "u@pve", "WritAgent");
        a.grant("/vms/101", "u@pve", "NoAccess");
        assert!(a.has_any(&u, "/vms/100", &["VM.Snapshot"]));
        assert!(!a.has_any(&u, "/vms/101", &["VM.Snapshot"]));
        assert!(a.has_any(&u, "/vms", &["VM.Snapshot"]));
        a.acl[0].propagate = false;
        assert!(!a.has_any(&u, "/vms/100", &["VM.Snapshot"]));
        assert!(a.has_any(&u, "/", &["VM.Snapshot"]));
        assert!(!a.effective(&u, "/")["VM.Snapshot"]);
    }

    #[test]
    fn refuses_credentials_without_telling_why() {
        let mut a = access();
        assert!(a.authenticate("u@pve!t", "s", 10).is_some());
        assert!(a.authenticate("u@pve!t", "S", 10).is_none());
        assert!(a.authenticate("u@pve!x", "s", 10).is_none());
        assert!(a.authenticate("u@pve", "s", 10).is_none());
        a.tokens.get_mut(&AuthId::parse("u@pve!t")).unwrap().expire = 10;
        assert!(a.authenticate("u@pve!t", "s", 10).is_none());
        assert!(a.authenticate("u@pve!t", "s", 9).is_some());
    }

    #[test]
    fn prefixes_of_paths() {
        assert_eq!(prefixes("/"), ["/"]);
        assert_eq!(prefixes("/vms"), ["/", "/vms"]);
        assert_eq!(prefixes("/vms/1"), ["/", "/vms", "/vms/1"]);
    }
}
