//! `/access/…`: users, tokens, roles, ACL lines, permissions, tickets. Pools of methods no token
//! may call are here too.
//!
//! Recorded are `access-users`, `access-acl-none`, `token-get-own`, `permissions-*`, `ticket-*` and
//! `domains-noauth`; the rest follows the published schema.

use serde_json::{Map, Value, json};

use super::params::{Field, Ty};
use super::{Call, Reply};
use crate::world::{Access, AclEntry, AuthId, Privileges, Refusal, User};

/// Whether the method needs no credentials at all.
pub(crate) fn is_open(method: &str, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    matches!((method, path), ("GET", "/access/domains") | ("GET" | "POST", "/access/ticket"))
}

/// Refuses what only `root@pam` may call, and what needs a ticket.
pub(crate) fn refuse_token(who: &AuthId, method: &str, parts: &[&str]) -> Result<(), Refusal> {
    let root_only = matches!(
        (method, parts),
        (_, ["cluster", "acme", "account", _])
            | (
                "POST",
                ["cluster", "acme", "account"]
                    | ["cluster", "config"]
                    | ["cluster", "config", "join"]
                    | ["nodes", _, "execute"]
                    | ["nodes", _, "ceph", "osd"]
                    | ["nodes", _, "storage", _, "content", _]
            )
            | ("GET", ["cluster", "backup-info"])
            | ("POST" | "DELETE", ["cluster", "config", "nodes", _])
            | ("DELETE", ["nodes", _, "ceph", "osd", _])
            | ("PUT", ["nodes", _, "disks", "wipedisk"])
    );
    if root_only && who.to_string() != "root@pam" {
        return Err(Refusal::root_only());
    }
    let with_ticket = matches!(
        (method, parts),
        ("PUT", ["access", "password"]) | ("POST" | "PUT" | "DELETE", ["access", "tfa", ..])
    );
    if with_ticket && who.token.is_some() {
        let text = format!("URI '/{}' not available with API token, need proper ticket.", parts.join("/"));
        return Err(Refusal::new(403, text));
    }
    Ok(())
}

pub(crate) fn domains(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[])?;
    Ok(json!([
        {"realm": "pve", "type": "pve", "comment": "Proxmox VE authentication server"},
        {"realm": "pam", "type": "pam", "comment": "Linux PAM standard authentication"},
    ])
    .into())
}

pub(crate) fn log_in(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[
        Field("username", Ty::Text(64), false),
        Field("password", Ty::Any, false),
        Field("realm", Ty::Text(32), true),
        Field("otp", Ty::Any, true),
        Field("path", Ty::Text(64), true),
        Field("privs", Ty::Text(64), true),
        Field("tfa-challenge", Ty::Any, true),
        Field("new-format", Ty::Bool, true),
    ])?;
    let given = |name: &str| call.params.get(name).unwrap_or_default();
    let mut user = given("username").to_owned();
    if !user.contains('@') {
        user = format!("{user}@{}", call.params.get("realm").unwrap_or("pam"));
    }
    let (world, unix) = (&*call.world, call.now.unix);
    // A ticket is as good as a password: that is how one is renewed.
    let renewed = world.check_ticket(given("password"), unix).is_some_and(|known| known == user);
    if !renewed && !world.access.check_password(&user, given("password"), unix) {
        return Err(Refusal::new(401, "authentication failure"));
    }
    let mut data = json!({
        "username": user, "ticket": world.ticket(&user, unix),
        "CSRFPreventionToken": world.csrf_token(&user, unix), "cap": capabilities(&world.access, &user),
    });
    if let Some(name) = &world.cluster.name {
        data["clustername"] = json!(name);
    }
    Ok(data.into())
}

/// What the web interface shows the user: privileges by area, as far as the user has any there.
fn capabilities(access: &Access, user: &str) -> Value {
    let who = AuthId::parse(user);
    let areas: [(&str, &str, &[&str]); 7] = [
        ("vms", "/vms", &["VM.", "Permissions.Modify"]),
        ("storage", "/storage", &["Datastore.", "Permissions.Modify"]),
        ("access", "/access", &["User.", "Group.", "Permissions.Modify"]),
        ("nodes", "/nodes", &["Sys.", "Permissions.Modify"]),
        ("sdn", "/sdn", &["SDN.", "Permissions.Modify"]),
        ("mapping", "/mapping", &["Mapping.", "Permissions.Modify"]),
        ("dc", "/", &["Sys.Audit", "Sys.Modify", "SDN."]),
    ];
    let area = |(name, path, prefixes): (&str, &str, &[&str])| {
        let held = access.effective(&who, path).into_keys();
        let shown: Map<String, Value> =
            held.filter(|p| prefixes.iter().any(|x| p.starts_with(x))).map(|p| (p, json!(1))).collect();
        (name.to_owned(), json!(shown))
    };
    Value::Object(areas.into_iter().map(area).collect())
}

pub(crate) fn permissions(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[Field("path", Ty::Any, true), Field("userid", Ty::Any, true)])?;
    let who = match call.params.get("userid") {
        Some(other) if other != call.who.to_string() => {
            let other = AuthId::parse(other);
            let own_token = call.who.token.is_none() && other.user == call.who.user;
            if !own_token {
                call.require("/access", &["Sys.Audit"])?;
            }
            other
        }
        _ => call.who.clone(),
    };
    let flags = |held: Privileges| -> Value {
        held.into_iter().map(|(privilege, propagate)| (privilege, json!(u8::from(propagate)))).collect()
    };
    let access = &call.world.access;
    let data: Value = match call.params.get("path") {
        Some(path) => json!({path: flags(access.effective(&who, path))}),
        None => access.permissions(&who).into_iter().map(|(path, held)| (path, flags(held))).collect(),
    };
    Ok(data.into())
}

/// Who may change the ACL of a path.
fn modifiers(path: &str) -> Vec<&'static str> {
    let below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
    let mut wanted = vec!["Permissions.Modify"];
    for (prefix, privilege) in
        [("/storage/", "Datastore.Allocate"), ("/vms/", "VM.Allocate"), ("/pool/", "Pool.Allocate")]
    {
        if below(prefix) {
            wanted.push(privilege);
        }
    }
    wanted
}

pub(crate) fn acl(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[])?;
    let all = call.may("/access", &["Sys.Audit", "Permissions.Modify"]);
    let visible =
        call.world.access.acl.iter().filter(|line| all || call.may(&line.path, &modifiers(&line.path)));
    let rows: Vec<Value> = visible
        .map(|line| {
            let kind = if line.who.token.is_some() { "token" } else { "user" };
            json!({
                "path": line.path, "type": kind, "ugid": line.who.to_string(), "roleid": line.role,
                "propagate": u8::from(line.propagate),
            })
        })
        .collect();
    Ok(Value::from(rows).into())
}

fn names(list: Option<&str>) -> Vec<String> {
    let split = list.unwrap_or_default().split([',', ';', ' ']);
    split.filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

pub(crate) fn change_acl(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let path = call.params.get("path").unwrap_or_default().to_owned();
    call.require(&path, &modifiers(&path))?;
    call.params.check(&[
        Field("path", Ty::Any, false),
        Field("roles", Ty::Any, false),
        Field("users", Ty::Any, true),
        Field("tokens", Ty::Any, true),
        Field("groups", Ty::Any, true),
        Field("propagate", Ty::Bool, true),
        Field("delete", Ty::Bool, true),
    ])?;
    if !path.starts_with('/') || path.contains("//") {
        return Err(Refusal::parameter("path", format!("invalid ACL path '{path}'")));
    }
    if let Some(group) = names(call.params.get("groups")).first() {
        return Err(Refusal::internal(format!("group '{group}' does not exist")));
    }
    let delete = call.params.flag("delete");
    let propagate = call.params.get("propagate") != Some("0");
    let mut whom: Vec<AuthId> = Vec::new();
    for name in names(call.params.get("users")) {
        if !delete && !call.world.access.users.contains_key(&name) {
            return Err(Refusal::internal(format!("user '{name}' does not exist")));
        }
        whom.push(AuthId { user: name, token: None });
    }
    for name in names(call.params.get("tokens")) {
        let id = AuthId::parse(&name);
        if !delete && !call.world.access.tokens.contains_key(&id) {
            let token = id.token.as_deref().unwrap_or_default();
            return Err(Refusal::internal(format!("no such token '{token}' for user '{}'", id.user)));
        }
        whom.push(id);
    }
    let roles = names(call.params.get("roles"));
    let access = &mut call.world.access;
    if let Some(role) = roles.iter().find(|r| !access.roles.contains_key(*r)) {
        return Err(Refusal::internal(format!("role '{role}' does not exist")));
    }
    let path = if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path };
    for who in whom {
        for role in &roles {
            access.acl.retain(|l| !(l.path == path && l.who == who && l.role == *role));
            if !delete {
                let (path, who, role) = (path.clone(), who.clone(), role.clone());
                access.acl.push(AclEntry { path, who, role, propagate });
            }
        }
    }
    Ok(Value::Null.into())
}

fn user_entry(id: Option<&str>, user: &User) -> Value {
    let mut entry = json!({"enable": u8::from(user.enabled), "expire": user.expire});
    if let Some(id) = id {
        entry["userid"] = json!(id);
        entry["realm-type"] = json!(if id.ends_with("@pam") { "pam" } else { "pve" });
    }
    for (key, value) in &user.details {
        entry[key] = json!(value);
    }
    entry
}

fn token_rows(access: &Access, user: &str) -> Vec<Value> {
    let own = access.tokens.iter().filter(|(id, _)| id.user == user);
    own.map(|(id, token)| {
        let mut row =
            json!({"tokenid": id.token, "privsep": u8::from(token.privsep), "expire": token.expire});
        if let Some(comment) = &token.comment {
            row["comment"] = json!(comment);
        }
        row
    })
    .collect()
}

pub(crate) fn users(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[Field("enabled", Ty::Bool, true), Field("full", Ty::Bool, true)])?;
    let all = call.may("/access/groups", &["User.Modify", "Sys.Audit"]);
    let access = &call.world.access;
    let wanted =
        |user: &User| call.params.get("enabled").is_none_or(|e| (e == "1") == user.is_alive(call.now.unix));
    let visible = access.users.iter().filter(|(id, user)| (all || **id == call.who.user) && wanted(user));
    let rows: Vec<Value> = visible
        .map(|(id, user)| {
            let mut row = user_entry(Some(id), user);
            if call.params.flag("full") {
                row["tokens"] = Value::from(token_rows(access, id));
            }
            row
        })
        .collect();
    Ok(Value::from(rows).into())
}

const USERID: Field = Field("userid", Ty::Text(64), false);
const DETAILS: [&str; 4] = ["comment", "email", "firstname", "lastname"];

fn no_user(id: &str) -> Refusal {
    Refusal::internal(format!("no such user ('{id}')"))
}

pub(crate) fn user(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.require("/access/groups", &["User.Modify", "Sys.Audit"])?;
    call.params.check(&[USERID])?;
    let access = &call.world.access;
    let mut entry = user_entry(None, access.users.get(id).ok_or_else(|| no_user(id))?);
    let mut tokens = Map::new();
    for mut row in token_rows(access, id) {
        let name = row["tokenid"].as_str().unwrap_or_default().to_owned();
        if let Some(map) = row.as_object_mut() {
            map.remove("tokenid");
        }
        tokens.insert(name, row);
    }
    if !tokens.is_empty() {
        entry["tokens"] = Value::Object(tokens);
    }
    Ok(entry.into())
}

/// The parameters of a user's entry, into the entry.
fn fill(call: &Call<'_>, user: &mut User) {
    for key in DETAILS {
        if let Some(text) = call.params.get(key) {
            user.details.insert(key.to_owned(), text.to_owned());
        }
    }
    if let Some(enable) = call.params.get("enable") {
        user.enabled = enable == "1";
    }
    if let Some(expire) = call.params.number("expire") {
        user.expire = expire;
    }
}

fn user_fields(more: Field) -> [Field; 9] {
    [
        USERID,
        Field("comment", Ty::Text(2048), true),
        Field("email", Ty::Text(254), true),
        Field("firstname", Ty::Text(1024), true),
        Field("lastname", Ty::Text(1024), true),
        Field("enable", Ty::Bool, true),
        Field("expire", Ty::Int(0), true),
        Field("groups", Ty::Any, true),
        more,
    ]
}

pub(crate) fn add_user(call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let id = call.params.get("userid").unwrap_or_default().to_owned();
    let realm = id.rsplit_once('@').map(|(_, realm)| realm).unwrap_or_default();
    call.require(&format!("/access/realm/{realm}"), &["Realm.AllocateUser"])?;
    call.require("/access/groups", &["User.Modify"])?;
    call.params.check(&user_fields(Field("password", Ty::Text(64), true)))?;
    if !matches!(realm, "pve" | "pam") || id.contains(['!', ':', '/']) {
        return Err(Refusal::parameter(
            "userid",
            format!("invalid format - value '{id}' does not look like a valid user name\n"),
        ));
    }
    if call.world.access.users.contains_key(&id) {
        return Err(Refusal::internal(format!("create user failed: user '{id}' already exists")));
    }
    call.world.access.add_user(&id);
    if let Some(mut user) = call.world.access.users.get(&id).cloned() {
        user.password = call.params.get("password").map(str::to_owned);
        fill(call, &mut user);
        call.world.access.users.insert(id, user);
    }
    Ok(Value::Null.into())
}

pub(crate) fn change_user(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.require("/access/groups", &["User.Modify"])?;
    call.params.check(&user_fields(Field("append", Ty::Bool, true)))?;
    let mut user = call.world.access.users.get(id).cloned().ok_or_else(|| no_user(id))?;
    fill(call, &mut user);
    call.world.access.users.insert(id.to_owned(), user);
    Ok(Value::Null.into())
}

pub(crate) fn delete_user(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    let realm = id.rsplit_once('@').map(|(_, realm)| realm).unwrap_or_default();
    call.require(&format!("/access/realm/{realm}"), &["Realm.AllocateUser"])?;
    call.require("/access/groups", &["User.Modify"])?;
    call.params.check(&[USERID])?;
    let access = &mut call.world.access;
    access.users.remove(id).ok_or_else(|| no_user(id))?;
    access.tokens.retain(|token, _| token.user != id);
    access.acl.retain(|line| line.who.user != id);
    Ok(Value::Null.into())
}

/// `userid-param self`, or User.Modify. A token is not its user, so it cannot manage itself.
fn may_manage(call: &Call<'_>, user: &str) -> Result<(), Refusal> {
    if call.who.to_string() == user || call.may("/access/groups", &["User.Modify"]) {
        return Ok(());
    }
    Err(Refusal::new(403, "Permission check failed"))
}

const TOKENID: Field = Field("tokenid", Ty::TokenId, false);

pub(crate) fn tokens(call: &Call<'_>, user: &str) -> Result<Reply, Refusal> {
    may_manage(call, user)?;
    call.params.check(&[USERID])?;
    if !call.world.access.users.contains_key(user) {
        return Err(no_user(user));
    }
    Ok(Value::from(token_rows(&call.world.access, user)).into())
}

fn token_id(user: &str, token: &str) -> AuthId {
    AuthId { user: user.to_owned(), token: Some(token.to_owned()) }
}

/// A token's entry, as GET and PUT answer it.
fn token_entry(access: &Access, id: &AuthId) -> Result<Value, Refusal> {
    if !access.users.contains_key(&id.user) {
        return Err(no_user(&id.user));
    }
    let name = id.token.as_deref().unwrap_or_default();
    let missing = || Refusal::internal(format!("no such token '{name}' for user '{}'", id.user));
    let token = access.tokens.get(id).ok_or_else(missing)?;
    let mut entry = json!({"privsep": u8::from(token.privsep), "expire": token.expire});
    if let Some(comment) = &token.comment {
        entry["comment"] = json!(comment);
    }
    Ok(entry)
}

pub(crate) fn token(call: &Call<'_>, user: &str, name: &str) -> Result<Reply, Refusal> {
    may_manage(call, user)?;
    call.params.check(&[USERID, TOKENID])?;
    Ok(token_entry(&call.world.access, &token_id(user, name))?.into())
}

fn fill_token(call: &mut Call<'_>, id: &AuthId) {
    let comment = call.params.get("comment").map(str::to_owned);
    let (expire, privsep) = (call.params.number("expire"), call.params.get("privsep").map(|p| p == "1"));
    if let Some(token) = call.world.access.tokens.get_mut(id) {
        token.comment = comment.or(token.comment.take());
        token.expire = expire.unwrap_or(token.expire);
        token.privsep = privsep.unwrap_or(token.privsep);
    }
}

const TOKEN: [Field; 5] = [
    USERID,
    TOKENID,
    Field("comment", Ty::Any, true),
    Field("expire", Ty::Int(0), true),
    Field("privsep", Ty::Bool, true),
];

/// The secret is in this answer and in no other.
pub(crate) fn add_token(call: &mut Call<'_>, user: &str, name: &str) -> Result<Reply, Refusal> {
    may_manage(call, user)?;
    call.params.check(&TOKEN)?;
    if !call.world.access.users.contains_key(user) {
        return Err(no_user(user));
    }
    let id = token_id(user, name);
    if call.world.access.tokens.contains_key(&id) {
        return Err(Refusal::parameter("tokenid", "Token already exists."));
    }
    let secret = call.world.fresh_uuid();
    call.world.access.add_token(&id.to_string(), Some(&secret), 0);
    fill_token(call, &id);
    let info = token_entry(&call.world.access, &id)?;
    Ok(json!({"full-tokenid": id.to_string(), "info": info, "value": secret}).into())
}

/// 9.1.8 cannot renew a secret (`regenerate` came later): only delete and create, which drops the
/// token's ACL lines.
pub(crate) fn change_token(call: &mut Call<'_>, user: &str, name: &str) -> Result<Reply, Refusal> {
    may_manage(call, user)?;
    let [a, b, c, d, e] = TOKEN;
    call.params.check(&[a, b, c, d, e, Field("delete", Ty::Any, true)])?;
    let id = token_id(user, name);
    token_entry(&call.world.access, &id)?;
    if names(call.params.get("delete")).iter().any(|n| n == "comment")
        && let Some(token) = call.world.access.tokens.get_mut(&id)
    {
        token.comment = None;
    }
    fill_token(call, &id);
    Ok(token_entry(&call.world.access, &id)?.into())
}

pub(crate) fn delete_token(call: &mut Call<'_>, user: &str, name: &str) -> Result<Reply, Refusal> {
    may_manage(call, user)?;
    call.params.check(&[USERID, TOKENID])?;
    let id = token_id(user, name);
    token_entry(&call.world.access, &id)?;
    let access = &mut call.world.access;
    access.tokens.remove(&id);
    access.acl.retain(|line| line.who != id);
    Ok(Value::Null.into())
}

const ROLEID: Field = Field("roleid", Ty::Any, false);

pub(crate) fn roles(call: &Call<'_>) -> Result<Reply, Refusal> {
    call.params.check(&[])?;
    let all = call.world.access.roles.iter();
    let rows: Vec<Value> = all
        .map(|(id, held)| {
            let held: Vec<&str> = held.iter().map(String::as_str).collect();
            json!({"roleid": id, "privs": held.join(","), "special": u8::from(Access::is_special(id))})
        })
        .collect();
    Ok(Value::from(rows).into())
}

fn no_role(id: &str) -> Refusal {
    Refusal::internal(format!("role '{id}' does not exist"))
}

pub(crate) fn role(call: &Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.params.check(&[ROLEID])?;
    let held = call.world.access.roles.get(id).ok_or_else(|| no_role(id))?;
    let data: Map<String, Value> = held.iter().map(|p| (p.clone(), json!(1))).collect();
    Ok(Value::Object(data).into())
}

/// Creates (`POST`) or changes (`PUT`) a role. A privilege of the other release is refused.
pub(crate) fn write_role(call: &mut Call<'_>, id: &str, create: bool) -> Result<Reply, Refusal> {
    call.require("/access", &["Sys.Modify"])?;
    call.params.check(&[ROLEID, Field("privs", Ty::Any, true), Field("append", Ty::Bool, true)])?;
    let (append, privileges) = (call.params.flag("append"), names(call.params.get("privs")));
    let access = &mut call.world.access;
    let verb = if create { "create role failed: " } else { "modify role failed: " };
    match (create, access.roles.contains_key(id)) {
        (true, true) => return Err(Refusal::internal(format!("{verb}role '{id}' already exists"))),
        (false, false) => return Err(Refusal::internal(format!("{verb}role '{id}' does not exist"))),
        _ if Access::is_special(id) => {
            return Err(Refusal::internal(format!("{verb}auto-generated role '{id}' cannot be modified")));
        }
        _ => {}
    }
    if let Some(bad) = privileges.iter().find(|p| !access.knows(p)) {
        return Err(Refusal::internal(format!("{verb}invalid privilege '{bad}'")));
    }
    let role = access.roles.entry(id.to_owned()).or_default();
    if !append {
        role.clear();
    }
    role.extend(privileges);
    Ok(Value::Null.into())
}

pub(crate) fn delete_role(call: &mut Call<'_>, id: &str) -> Result<Reply, Refusal> {
    call.require("/access", &["Sys.Modify"])?;
    call.params.check(&[ROLEID])?;
    if Access::is_special(id) {
        let text = format!("delete role failed: auto-generated role '{id}' cannot be deleted");
        return Err(Refusal::internal(text));
    }
    let access = &mut call.world.access;
    access.roles.remove(id).ok_or_else(|| no_role(id))?;
    access.acl.retain(|line| line.role != id);
    Ok(Value::Null.into())
}
