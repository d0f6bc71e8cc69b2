//! Pools.

use serde::Deserialize;

use crate::catalog::{Call, Calls, Form, Kind, Param, object, rows};
use crate::client::Client;
use crate::cluster::Resource;
use crate::value::lenient;
use crate::wire::error::ApiError;

/// The parameter `poolid` exists in 8 and 9; the path `/pools/{poolid}`, which cannot name nested
/// pools, is on its way out.
static POOLS: Call<Vec<Pool>> = Call::get("pools", "/pools", rows)
    .long()
    .params(&[
        Param { name: "poolid", kind: Kind::Form(Form::Pool) },
        Param { name: "type", kind: Kind::Word(&["qemu", "lxc", "storage"]) },
    ])
    .beyond(&["Pool.Audit"]);
static POOL: Call<Pool> = Call::get("pool", "/pools/{poolid}", object)
    .long()
    .params(&[Param { name: "type", kind: Kind::Word(&["qemu", "lxc", "storage"]) }])
    .beyond(&["Pool.Audit"]);

pub(super) static CALLS: Calls = &[&POOLS, &POOL];

/// A pool: a name that rights can be granted on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Pool {
    /// Its name; `a/b` for one inside another.
    #[serde(default, deserialize_with = "lenient::string")]
    pub poolid: String,
    /// A remark.
    #[serde(default, deserialize_with = "lenient::text")]
    pub comment: Option<String>,
    /// Guests and storages, as in `/cluster/resources`; only where one pool was asked for.
    #[serde(default)]
    pub members: Vec<Resource>,
}

impl Client {
    /// The pools the token may see (Pool.Audit), without their members.
    ///
    /// # Errors
    /// [`ApiError`], as every method here.
    pub async fn pools(&self) -> Result<Vec<Pool>, ApiError> {
        self.send(POOLS.at(&[])).await
    }

    /// One pool with its members; nested pools too.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn pool(&self, id: &str) -> Result<Pool, ApiError> {
        // A nested name needs the newer way; the recorded answer of the older one has the same shape.
        if !id.contains('/') {
            return self.send(POOL.at(&[id])).await;
        }
        let pools = self.send(POOLS.at(&[]).set("poolid", id)).await?;
        let found = pools.into_iter().find(|pool| pool.poolid == id);
        found.ok_or_else(|| self.transport.bad("/pools", format!("no pool `{id}` in the answer")))
    }
}
