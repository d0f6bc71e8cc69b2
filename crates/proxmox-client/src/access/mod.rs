//! Rights: what the token may do, and the token itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use crate::catalog::{Call, Calls, Data, Form, Kind, Param, json, object};
use crate::client::Client;
use crate::value::lenient;
use crate::wire::error::ApiError;

static PERMISSIONS: Call<Permissions> = Call::get("permissions", "/access/permissions", permissions)
    .long()
    .params(&[
        Param { name: "path", kind: Kind::Form(Form::AclPath) },
        Param { name: "userid", kind: Kind::Form(Form::User) },
    ])
    .needs(&["Sys.Audit"]);
static TOKEN: Call<TokenInfo> =
    Call::get("token", "/access/users/{userid}/token/{tokenid}", object).beyond(&["User.Modify"]);
static ROLE: Call<BTreeSet<String>> = Call::get("role", "/access/roles/{roleid}", role);

pub(crate) static CALLS: &[Calls] = &[&[&PERMISSIONS, &TOKEN, &ROLE]];

/// `GET /access/permissions`: path to privilege to "propagates to what is below".
pub type Permissions = BTreeMap<String, BTreeMap<String, bool>>;

fn permissions(data: Data) -> Result<Permissions, String> {
    let raw: BTreeMap<String, BTreeMap<String, Value>> = json(data)?;
    let flags = |privileges: BTreeMap<String, Value>| {
        privileges.into_iter().map(|(name, flag)| (name, lenient::as_bool(&flag).unwrap_or(false))).collect()
    };
    Ok(raw.into_iter().map(|(path, privileges)| (path, flags(privileges))).collect())
}

/// The privileges of a role: those whose flag is set.
fn role(data: Data) -> Result<BTreeSet<String>, String> {
    let flags: BTreeMap<String, Value> = json(data)?;
    let held = flags.into_iter().filter(|(_, flag)| lenient::as_bool(flag) == Some(true));
    Ok(held.map(|(name, _)| name).collect())
}

/// `GET /access/users/{user}/token/{token}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct TokenInfo {
    /// A remark.
    #[serde(default, deserialize_with = "lenient::text")]
    pub comment: Option<String>,
    /// When it ends, seconds since 1970; 0 for never.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub expire: Option<u64>,
    /// Whether it has only what **both** it and its user were granted. The default, and true if absent
    /// would be a guess: `None` means that Proxmox did not say.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub privsep: Option<bool>,
}

impl Client {
    /// The token's effective rights, on all paths that have any.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn permissions(&self) -> Result<Permissions, ApiError> {
        self.send(PERMISSIONS.at(&[])).await
    }

    /// The token's effective rights on one path, inherited ones included; empty if it has none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn permissions_on(&self, path: &str) -> Result<BTreeMap<String, bool>, ApiError> {
        let mut all = self.send(PERMISSIONS.at(&[]).set("path", path)).await?;
        Ok(all.remove(path).unwrap_or_default())
    }

    /// What a user or another token (`user@realm` or `user@realm!token`) may do. Needs Sys.Audit on
    /// `/access` for anybody but the token's own user.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn permissions_of(&self, user: &str) -> Result<Permissions, ApiError> {
        self.send(PERMISSIONS.at(&[]).set("userid", user)).await
    }

    /// The token this client uses: expiry and privilege separation.
    ///
    /// # Errors
    /// [`ApiError`]; class `Permission` for most tokens, because a token is not its own user
    /// (`pve/facts.md` 1.7). It then needs User.Modify.
    pub async fn token_info(&self) -> Result<TokenInfo, ApiError> {
        let (user, token) = self.identity().split_once('!').unwrap_or((self.identity(), ""));
        self.send(TOKEN.at(&[user, token])).await
    }

    /// The privileges of a role, by its name. Open to every user.
    ///
    /// # Errors
    /// [`ApiError`]; class `NotFound` if there is no such role.
    pub async fn role(&self, name: &str) -> Result<BTreeSet<String>, ApiError> {
        self.send(ROLE.at(&[name])).await
    }
}
