//! Users, API tokens, roles and ACL entries, with privilege separation.

pub(in crate::world) mod tickets;

use std::collections::{BTreeMap, BTreeSet};

use crate::world::{Refusal, Release, World};

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
const ADMINISTRATOR_EXTRA: [&str; 27] = [
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
];

/// What 8.4 does not know yet; instead it has [`ONLY_V8`].
const ONLY_V9: [&str; 6] = [
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead",
    "VM.GuestAgent.FileSystemMgmt",
    "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
    "VM.Replicate",
];
const ONLY_V8: &str = "VM.Monitor";

/// The roles every node has; they cannot be changed. Further built-in ones are left out.
const SPECIAL: [&str; 3] = ["Administrator", "NoAccess", "PVEAuditor"];

/// The user who may do everything. A token of this user is not this user.
const ROOT: &str = "root@pam";

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
#[derive(Clone)]
pub struct User {
    /// Disabled users cannot authenticate.
    pub enabled: bool,
    /// Seconds since 1970 after which the user is expired; 0 is never.
    pub expire: i64,
    /// The password for a ticket; without one nobody can log in.
    pub password: Option<String>,
    /// Further values of the user's entry: `comment`, `email`, `firstname`, `lastname`.
    pub details: BTreeMap<String, String>,
}

impl User {
    /// Whether the user may authenticate at all at this time.
    pub fn is_alive(&self, unix: i64) -> bool {
        self.enabled && alive(self.expire, unix)
    }
}

fn alive(expire: i64, unix: i64) -> bool {
    expire == 0 || expire > unix
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("enabled", &self.enabled)
            .field("expire", &self.expire)
            .finish_non_exhaustive()
    }
}

/// A resource pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// Free text.
    pub comment: Option<String>,
    /// Its guests; a guest is in one pool at most.
    pub guests: BTreeSet<u32>,
    /// Its storages.
    pub storages: BTreeSet<String>,
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
    /// Free text.
    pub comment: Option<String>,
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
    /// Resource pools by name. What is granted on a pool counts for its members.
    pub pools: BTreeMap<String, Pool>,
    /// Which release's privileges there are.
    release: Release,
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

    /// Adds an enabled user without expiry and without a password.
    pub fn add_user(&mut self, user: &str) {
        let entry = User { enabled: true, expire: 0, password: None, details: BTreeMap::new() };
        self.users.insert(user.to_owned(), entry);
    }

    /// Adds a privilege-separated token; its secret is set by the simulator's start when `None`.
    pub fn add_token(&mut self, id: &str, secret: Option<&str>, expire: i64) {
        let secret = secret.map(str::to_owned);
        self.tokens.insert(AuthId::parse(id), Token { secret, expire, privsep: true, comment: None });
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

    /// Whether the release knows this privilege.
    pub fn knows(&self, privilege: &str) -> bool {
        self.all_privileges().any(|p| p == privilege)
    }

    fn all_privileges(&self) -> impl Iterator<Item = &'static str> {
        let release = self.release;
        let both = AUDITOR.into_iter().chain(WRIT_AGENT).chain(ADMINISTRATOR_EXTRA);
        let monitor = (release == Release::V8).then_some(ONLY_V8);
        both.filter(move |p| release == Release::V9 || !ONLY_V9.contains(p)).chain(monitor)
    }

    /// Whether the role is one every node has and nobody can change.
    pub fn is_special(role: &str) -> bool {
        SPECIAL.contains(&role)
    }

    fn set_release(&mut self, release: Release) {
        self.release = release;
        let all: BTreeSet<String> = self.all_privileges().map(str::to_owned).collect();
        for role in self.roles.values_mut() {
            role.retain(|p| all.contains(p));
        }
        self.roles.insert("Administrator".to_owned(), all);
    }

    /// Who the credentials belong to, or `None` for every kind of failure.
    pub fn authenticate(&self, id: &str, secret: &str, unix: i64) -> Option<AuthId> {
        self.check_token(id, secret, unix).ok()
    }

    /// Who the credentials belong to, or why not in the words of 8.4; 9.1.8 does not tell the
    /// reasons apart.
    pub fn check_token(&self, id: &str, secret: &str, unix: i64) -> Result<AuthId, String> {
        let who = AuthId::parse(id);
        let Some(name) = &who.token else {
            // Not recorded: a token without a token id.
            return Err("no tokenid specified".to_owned());
        };
        self.check_user(&who.user, unix)?;
        let Some(token) = self.tokens.get(&who) else {
            return Err(format!("no such token '{name}' for user '{}'", who.user));
        };
        if !alive(token.expire, unix) {
            return Err(format!("token '{name}' access expired"));
        }
        if token.secret.as_deref() != Some(secret) {
            return Err("invalid token value!".to_owned());
        }
        Ok(who)
    }

    /// Why the user may not authenticate.
    fn check_user(&self, user: &str, unix: i64) -> Result<&User, String> {
        let Some(entry) = self.users.get(user) else {
            return Err(format!("no such user ('{user}')"));
        };
        if !entry.enabled {
            return Err(format!("user '{user}' is disabled"));
        }
        if !alive(entry.expire, unix) {
            return Err(format!("user '{user}' access expired"));
        }
        Ok(entry)
    }

    /// Whether this is the user's password and the user may log in.
    pub fn check_password(&self, user: &str, password: &str, unix: i64) -> bool {
        let known = self.check_user(user, unix).ok().and_then(|u| u.password.as_deref());
        known.is_some_and(|known| known == password)
    }

    /// The lines of exactly this user or token that count on `path`: those on the deepest path
    /// that has any.
    fn lines(&self, who: &AuthId, path: &str) -> Vec<(&str, bool)> {
        let mut found: (usize, Vec<(&str, bool)>) = (0, Vec::new());
        for line in self.acl.iter().filter(|line| line.who == *who) {
            let is_target = line.path == path;
            let inherits = line.propagate && is_above(&line.path, path);
            if !is_target && !inherits {
                continue;
            }
            if line.path.len() > found.0 {
                found = (line.path.len(), Vec::new());
            }
            if line.path.len() == found.0 {
                found.1.push((&line.role, line.propagate));
            }
        }
        found.1
    }

    /// [`Access::lines`], and those on the pool the path's object is in.
    fn all_lines(&self, who: &AuthId, path: &str) -> Vec<(&str, bool)> {
        let mut lines = self.lines(who, path);
        if !self.pools.is_empty()
            && let Some(pool) = self.pool_of(path)
        {
            lines.extend(self.lines(who, &format!("/pool/{pool}")));
        }
        lines
    }

    /// The pool of the guest `/vms/ID` or the storage `/storage/ID`.
    pub fn pool_of(&self, path: &str) -> Option<&str> {
        let vmid: Option<u32> = path.strip_prefix("/vms/").and_then(|id| id.parse().ok());
        let storage = path.strip_prefix("/storage/");
        let is_in = |pool: &Pool| {
            vmid.is_some_and(|id| pool.guests.contains(&id))
                || storage.is_some_and(|id| pool.storages.contains(id))
        };
        self.pools.iter().find(|(_, pool)| is_in(pool)).map(|(name, _)| name.as_str())
    }

    /// Whether these lines grant the privilege, and whether downwards too.
    fn grants(&self, lines: &[(&str, bool)], privilege: &str) -> Option<bool> {
        let granting = |role: &str| self.roles.get(role).is_some_and(|r| r.contains(privilege));
        let mut granted = None;
        for (role, propagate) in lines {
            if granting(role) {
                granted = Some(granted.unwrap_or(false) || *propagate);
            }
        }
        granted
    }

    fn is_separated(&self, who: &AuthId) -> bool {
        who.token.is_some() && self.tokens.get(who).is_some_and(|t| t.privsep)
    }

    /// What decides about a request: the lines of the user unless the user is root, and those of
    /// the token if it is separated. A separated token of root has just what it is granted itself.
    fn sources<'a>(&'a self, who: &AuthId, path: &str) -> Vec<Vec<(&'a str, bool)>> {
        let mut sources = Vec::new();
        if who.user != ROOT {
            let owner = AuthId { user: who.user.clone(), token: None };
            sources.push(self.all_lines(&owner, path));
        }
        if self.is_separated(who) {
            sources.push(self.all_lines(who, path));
        }
        sources
    }

    /// The effective privileges on `path`: with privilege separation, what both the token and its
    /// user hold.
    pub fn effective(&self, who: &AuthId, path: &str) -> Privileges {
        let sources = self.sources(who, path);
        let Some(first) = sources.first() else {
            return self.all_privileges().map(|p| (p.to_owned(), true)).collect();
        };
        let named = first.iter().filter_map(|(role, _)| self.roles.get(*role)).flatten();
        named
            .filter_map(|p| {
                let flags: Option<Vec<bool>> = sources.iter().map(|s| self.grants(s, p)).collect();
                Some((p.clone(), flags?.into_iter().all(|flag| flag)))
            })
            .collect()
    }

    /// Whether any of `wanted` is held on `path`.
    pub fn has_any(&self, who: &AuthId, path: &str, wanted: &[&str]) -> bool {
        let sources = self.sources(who, path);
        wanted.iter().any(|p| sources.iter().all(|s| self.grants(s, p).is_some()))
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

/// Whether `path` lies below `above`.
fn is_above(above: &str, path: &str) -> bool {
    above == "/" || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

impl World {
    /// Makes it another release: its privileges, and what asks for [`World::release`] elsewhere.
    /// Roles lose what the release does not know.
    pub fn set_release(&mut self, release: Release) {
        self.release = release;
        self.access.set_release(release);
    }
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
    fn paths_above_others() {
        for (above, path, wanted) in [
            ("/", "/vms", true),
            ("/vms", "/vms/100", true),
            ("/vms", "/vmsx", false),
            ("/vms/1", "/vms/100", false),
            ("/vms/100", "/vms", false),
        ] {
            assert_eq!(is_above(above, path), wanted, "{above} {path}");
        }
    }

    #[test]
    fn root_is_root_and_roots_tokens_are_not() {
        let mut a = access();
        a.add_user("root@pam");
        a.add_token("root@pam!t", None, 0);
        let (root, token) = (AuthId::parse("root@pam"), AuthId::parse("root@pam!t"));
        assert!(a.has_any(&root, "/vms/1", &["VM.Allocate"]), "without any line");
        assert!(a.effective(&token, "/").is_empty(), "separated: only its own lines");
        a.grant("/vms", "root@pam!t", "PVEAuditor");
        assert!(a.has_any(&token, "/vms/1", &["VM.Audit"]), "no intersection with root's lines");
        assert!(!a.has_any(&token, "/vms/1", &["VM.Allocate"]));
        a.tokens.get_mut(&token).unwrap().privsep = false;
        assert!(a.has_any(&token, "/", &["Sys.Modify"]));
    }

    #[test]
    fn what_a_pool_grants_counts_for_its_members() {
        let mut a = access();
        let pool = Pool { guests: BTreeSet::from([100]), ..Pool::default() };
        a.pools.insert("lab".to_owned(), pool);
        a.grant("/pool/lab", "u@pve", "WritAgent");
        let u = AuthId::parse("u@pve");
        assert!(a.has_any(&u, "/vms/100", &["VM.Snapshot"]));
        assert!(!a.has_any(&u, "/vms/101", &["VM.Snapshot"]));
        assert!(!a.has_any(&u, "/vms", &["VM.Snapshot"]));
    }

    #[test]
    fn releases_know_other_privileges() {
        let mut w = World::demo();
        assert!(w.access.knows("VM.GuestAgent.Audit") && !w.access.knows("VM.Monitor"));
        w.set_release(Release::V8);
        assert!(!w.access.knows("VM.GuestAgent.Audit") && w.access.knows("VM.Monitor"));
        assert!(w.access.roles["Administrator"].contains("VM.Monitor"));
        assert!(!w.access.roles["PVEAuditor"].contains("VM.GuestAgent.Audit"));
    }

    #[test]
    fn reasons_in_the_words_of_8() {
        let mut a = access();
        let why = |a: &Access, id: &str, secret: &str| a.check_token(id, secret, 10).unwrap_err();
        assert_eq!(why(&a, "x@pve!t", "s"), "no such user ('x@pve')");
        assert_eq!(why(&a, "u@pve!x", "s"), "no such token 'x' for user 'u@pve'");
        assert_eq!(why(&a, "u@pve!t", "x"), "invalid token value!");
        a.tokens.get_mut(&AuthId::parse("u@pve!t")).unwrap().expire = 5;
        assert_eq!(why(&a, "u@pve!t", "s"), "token 't' access expired");
        a.users.get_mut("u@pve").unwrap().enabled = false;
        assert_eq!(why(&a, "u@pve!t", "s"), "user 'u@pve' is disabled");
    }
}
