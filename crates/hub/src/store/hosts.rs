//! Hosts, their last report and their last plan.

use protocol::api::PlanView;
use protocol::plan::Plan;
use protocol::report::HostReport;
use protocol::{Ed25519Key, HostId, HostName, Signed};

use super::{Store, StoreError, bytes, from_db, json, text, to_db, to_json};

/// An enrolled host.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Who.
    pub(crate) host_id: HostId,
    /// As the statement names it.
    pub(crate) name: HostName,
    /// The operator's statement.
    pub(crate) statement: Signed,
    /// Its signing key.
    pub(crate) host_key: Ed25519Key,
    /// Which of its keys that is.
    pub(crate) host_key_gen: u32,
    /// Unix seconds.
    pub(crate) last_seen: Option<u64>,
    /// Entries of its log that are stored.
    pub(crate) receipts_held: u64,
    /// Unix seconds of the last report's arrival.
    pub(crate) report_at: Option<u64>,
}

type Row = (Vec<u8>, String, Vec<u8>, String, Vec<u8>, i64, Option<i64>, i64, Option<i64>);

fn from_row(row: Row) -> Result<Host, StoreError> {
    let (host_id, name, payload, sig, host_key, generation, last_seen, held, report_at) = row;
    Ok(Host {
        host_id: HostId::from_bytes(bytes("host id", host_id)?),
        name: text("host name", &name)?,
        statement: Signed { payload: payload.into(), sig },
        host_key: Ed25519Key::from_bytes(bytes("host key", host_key)?),
        host_key_gen: u32::try_from(generation).map_err(|_| StoreError::Corrupt("host key generation"))?,
        last_seen: last_seen.map(from_db),
        receipts_held: from_db(held),
        report_at: report_at.map(from_db),
    })
}

impl Store {
    /// All of them, by name.
    pub(crate) async fn hosts(&self) -> Result<Vec<Host>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT h.host_id, name, statement_payload, statement_sig, host_key, host_key_gen, last_seen, \
             receipts_held, r.received_at \
             FROM hosts h LEFT JOIN reports r ON r.host_id = h.host_id ORDER BY name",
        )
        .fetch_all(&self.read)
        .await?;
        rows.into_iter().map(from_row).collect()
    }

    /// One of them.
    pub(crate) async fn host(&self, host_id: &HostId) -> Result<Option<Host>, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT h.host_id, name, statement_payload, statement_sig, host_key, host_key_gen, last_seen, \
             receipts_held, r.received_at \
             FROM hosts h LEFT JOIN reports r ON r.host_id = h.host_id WHERE h.host_id = $1",
        )
        .bind(host_id.as_bytes().as_slice())
        .fetch_optional(&self.read)
        .await?;
        row.map(from_row).transpose()
    }

    /// The one with this device key.
    pub(crate) async fn host_by_device(&self, device: &Ed25519Key) -> Result<Option<Host>, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT h.host_id, name, statement_payload, statement_sig, host_key, host_key_gen, last_seen, \
             receipts_held, r.received_at \
             FROM hosts h LEFT JOIN reports r ON r.host_id = h.host_id WHERE device_key = $1",
        )
        .bind(device.as_bytes().as_slice())
        .fetch_optional(&self.read)
        .await?;
        row.map(from_row).transpose()
    }

    /// For the time after the channel has closed.
    pub(crate) async fn set_last_seen(&self, host_id: &HostId, at: u64) -> Result<(), StoreError> {
        sqlx::query("UPDATE hosts SET last_seen = $1 WHERE host_id = $2")
            .bind(to_db(at))
            .bind(host_id.as_bytes().as_slice())
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Replaces the host's report.
    pub(crate) async fn put_report(
        &self,
        host_id: &HostId,
        seq: u64,
        report: &HostReport,
        now: u64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO reports (host_id, seq, received_at, body) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (host_id) DO UPDATE SET seq = excluded.seq, received_at = excluded.received_at, \
             body = excluded.body",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(to_db(seq))
        .bind(to_db(now))
        .bind(to_json(report))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// The host's last report.
    pub(crate) async fn report(&self, host_id: &HostId) -> Result<Option<HostReport>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as("SELECT body FROM reports WHERE host_id = $1")
            .bind(host_id.as_bytes().as_slice())
            .fetch_optional(&self.read)
            .await?;
        row.map(|(body,)| json("report", &body)).transpose()
    }

    /// Replaces the host's plan.
    pub(crate) async fn put_plan(
        &self,
        host_id: &HostId,
        plan: &Plan,
        problem: Option<&str>,
        now: u64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO plans (host_id, received_at, body, problem) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (host_id) DO UPDATE SET received_at = excluded.received_at, body = excluded.body, \
             problem = excluded.problem",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(to_db(now))
        .bind(to_json(plan))
        .bind(problem)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Notes a problem beside the last plan; beside the plan for "no desired state" if there is none.
    pub(crate) async fn put_plan_problem(
        &self,
        host_id: &HostId,
        problem: &str,
        now: u64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO plans (host_id, received_at, body, problem) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (host_id) DO UPDATE SET received_at = excluded.received_at, \
             problem = excluded.problem",
        )
        .bind(host_id.as_bytes().as_slice())
        .bind(to_db(now))
        .bind(to_json(&Plan::default()))
        .bind(problem)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// The host's last plan.
    pub(crate) async fn plan(&self, host_id: &HostId) -> Result<Option<PlanView>, StoreError> {
        let row: Option<(i64, String, Option<String>)> =
            sqlx::query_as("SELECT received_at, body, problem FROM plans WHERE host_id = $1")
                .bind(host_id.as_bytes().as_slice())
                .fetch_optional(&self.read)
                .await?;
        row.map(|(received_at, body, problem)| {
            Ok(PlanView { received_at: from_db(received_at), plan: json("plan", &body)?, problem })
        })
        .transpose()
    }
}
