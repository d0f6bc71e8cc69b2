//! All measurements in one call.

use serde::Deserialize;

use crate::catalog::{Call, Calls, Data, Kind, Param, object};
use crate::client::Client;
use crate::value::lenient;
use crate::wire::error::ApiError;

static EXPORT: Call<Vec<Metric>> = Call::get("metrics export", "/cluster/metrics/export", metrics)
    .long()
    .params(&[
        Param { name: "history", kind: Kind::Flag },
        Param { name: "local-only", kind: Kind::Flag },
        Param { name: "start-time", kind: Kind::Int(0, 1 << 40) },
    ])
    .needs(&["Sys.Audit"]);

pub(super) static CALLS: Calls = &[&EXPORT];

/// One measurement of `GET /cluster/metrics/export`. Not recorded; fields as the schema has them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Metric {
    /// `node/pve1`, `qemu/100`, `storage/pve1/local`.
    #[serde(default, deserialize_with = "lenient::string")]
    pub id: String,
    /// `cpu_current`, `mem_used`, `net_in`, …
    #[serde(default, deserialize_with = "lenient::string")]
    pub metric: String,
    /// `gauge`, `counter` or `derive`.
    #[serde(default, rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "lenient::u64")]
    pub timestamp: Option<u64>,
    /// In the unit of the metric: bytes, seconds, or a fraction.
    #[serde(default, deserialize_with = "lenient::f64")]
    pub value: Option<f64>,
}

fn metrics(data: Data) -> Result<Vec<Metric>, String> {
    #[derive(Deserialize)]
    struct Inner {
        data: Vec<Metric>,
    }
    object::<Inner>(data).map(|inner| inner.data)
}

impl Client {
    /// Measurements of everything: of the whole cluster or of the node that answers, the newest or,
    /// with `since` (seconds since 1970), all that the node still holds from then on.
    ///
    /// # Errors
    /// [`ApiError`], as every method here. Needs Sys.Audit on `/`.
    pub async fn metrics(&self, local_only: bool, since: Option<u64>) -> Result<Vec<Metric>, ApiError> {
        let request = EXPORT.at(&[]).flag("local-only", local_only);
        let request = request.flag_if("history", since.is_some()).opt("start-time", since);
        self.send(request).await
    }
}
