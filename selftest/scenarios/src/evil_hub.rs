//! What somebody can do who owns the hub: everything that its database allows. The hub is stopped
//! while its database is rewritten, as a thief with a copy of the machine would do it.

use authz::receipt::Signer;
use authz::{Event, Namespace, Outcome, Receipt, SecretKey};
use protocol::{Envelope, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::stand::Stand;
use crate::{Fallible, Trouble};

/// The thief's own key: the best he can sign with.
pub fn thief() -> SecretKey {
    SecretKey::from_seed(&[0x66; 32])
}

fn trouble(error: sqlx::Error) -> Trouble {
    Trouble::new("the hub's database", error)
}

async fn open(stand: &Stand) -> Fallible<SqliteConnection> {
    SqliteConnectOptions::new().filename(stand.at("hub/state/hub.sqlite")).connect().await.map_err(trouble)
}

/// Puts an order into the queue that no operator signed, for delivery at the next connection.
pub async fn forge_order(stand: &mut Stand, payload: &[u8]) -> Fallible<Sha256> {
    queue(stand, Envelope::new(payload.to_vec().into(), vec![thief().sign(Namespace::Op, payload)])).await
}

/// The same with a script and without any signature.
pub async fn forge_unsigned(stand: &mut Stand, payload: &[u8], sealed: &[u8]) -> Fallible<Sha256> {
    let envelope = Envelope::new(payload.to_vec().into(), vec![]);
    queue(stand, Envelope { sealed: Some(sealed.to_vec().into()), ..envelope }).await
}

async fn queue(stand: &mut Stand, envelope: Envelope) -> Fallible<Sha256> {
    let op = envelope.id();
    let sigs = serde_json::to_string(&envelope.sigs).map_err(|error| Trouble::new("signatures", error))?;
    let (payload, sealed) = (envelope.payload.0, envelope.sealed.map(|sealed| sealed.0));
    with_database(stand, async |db: &mut SqliteConnection| {
        sqlx::query(
            "INSERT INTO orders (host_id, op, payload, sigs, sealed, submitted_by, submitted_at, submission, version, delivered)
             SELECT host_id, $1, $2, $3, $4, 'alice', 1, 1, 1, 0 FROM hosts",
        )
        .bind(op.as_bytes().to_vec())
        .bind(payload)
        .bind(sigs)
        .bind(sealed)
        .execute(db)
        .await
        .map(drop)
    })
    .await?;
    Ok(op)
}

/// Claims that an order was carried out, in a receipt signed with the thief's key.
pub async fn forge_receipt(stand: &mut Stand, op: Sha256) -> Fallible<()> {
    with_database(stand, async |db: &mut SqliteConnection| {
        let (host, version): (Vec<u8>, i64) =
            sqlx::query_as("SELECT host_id, version FROM orders WHERE op = $1")
                .bind(op.as_bytes().to_vec())
                .fetch_one(&mut *db)
                .await?;
        let host_id: [u8; 16] = host.clone().try_into().unwrap_or_default();
        let event = Event::Order {
            op,
            kind: Some("snapshot.rollback".into()),
            vmid: None,
            signers: Vec::<Signer>::new(),
            outcome: Outcome::Done { upid: None, seen: Default::default() },
        };
        let receipt = Receipt {
            v: 1,
            host: protocol::HostId::from_bytes(host_id),
            host_key_gen: 1,
            boot_id: "forged".into(),
            time: 1,
            entry: None,
            event,
        };
        let signed = receipt.sign(&thief());
        sqlx::query("INSERT INTO refusals (host_id, op, version, payload, sig) VALUES ($1, $2, $3, $4, $5)")
            .bind(host)
            .bind(op.as_bytes().to_vec())
            .bind(version + 1)
            .bind(signed.payload.0)
            .bind(signed.sig)
            .execute(&mut *db)
            .await?;
        sqlx::query("UPDATE orders SET version = version + 1 WHERE op = $1")
            .bind(op.as_bytes().to_vec())
            .execute(db)
            .await
            .map(drop)
    })
    .await
}

/// Calls every host something else.
pub async fn rename_host(stand: &mut Stand, name: &str) -> Fallible<()> {
    let name = name.to_owned();
    with_database(stand, async |db: &mut SqliteConnection| {
        sqlx::query("UPDATE hosts SET name = $1").bind(name).execute(db).await.map(drop)
    })
    .await
}

/// From now on every order loses its signatures on its way into the queue, and so on its way to the host.
pub async fn strip_signatures(stand: &mut Stand) -> Fallible<()> {
    with_database(stand, async |db: &mut SqliteConnection| {
        // A repeated submission is an update.
        for (name, when) in [("strip_new", "INSERT"), ("strip_again", "UPDATE OF sigs")] {
            let trigger = format!(
                "CREATE TRIGGER {name} AFTER {when} ON orders WHEN NEW.sigs <> '[]'
                 BEGIN UPDATE orders SET sigs = '[]' WHERE n = NEW.n; END"
            );
            sqlx::query(sqlx::AssertSqlSafe(trigger)).execute(&mut *db).await?;
        }
        Ok(())
    })
    .await
}

/// Undoes [`strip_signatures`] for orders that are submitted from now on.
pub async fn keep_signatures(stand: &mut Stand) -> Fallible<()> {
    with_database(stand, async |db: &mut SqliteConnection| {
        for drop in ["DROP TRIGGER strip_new", "DROP TRIGGER strip_again"] {
            sqlx::query(drop).execute(&mut *db).await?;
        }
        Ok(())
    })
    .await
}

/// Forgets that an order was delivered: it goes to its host once more.
pub async fn deliver_again(stand: &mut Stand, op: Sha256) -> Fallible<()> {
    with_database(stand, async |db: &mut SqliteConnection| {
        let done = sqlx::query("UPDATE orders SET delivered = 0 WHERE op = $1 AND delivered = 1")
            .bind(op.as_bytes().to_vec())
            .execute(db)
            .await?;
        // Nothing to forget would make a test of this pass for nothing.
        if done.rows_affected() == 1 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
    })
    .await
}

/// Stops the hub, lets `change` at its database, starts it again.
async fn with_database(
    stand: &mut Stand,
    change: impl AsyncFnOnce(&mut SqliteConnection) -> Result<(), sqlx::Error>,
) -> Fallible<()> {
    if let Some(hub) = stand.hub.take() {
        hub.stop().await;
    }
    let mut db = open(stand).await?;
    change(&mut db).await.map_err(trouble)?;
    db.close().await.map_err(trouble)?;
    stand.start_hub().await
}
