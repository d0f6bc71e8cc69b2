//! The live channel of an agent: who may open one, and its life from Hello to Bye.
//!
//! Two loops share a channel. The reading one ([`session`]; [`work`] for frames about scripts and
//! sessions) takes frames and answers them; the writing one ([`writer`]) is the only one that sends.
//! Orders and desired states are not queued in memory at all: the writer is told to look into the
//! store and sends what waits there. Only tunnels have a queue, because they end with the channel.

mod chain;
mod session;
mod work;
mod writer;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use protocol::frame::MAX_FRAME;

use crate::app::App;
use crate::http::ApiError;
use crate::server::Connection;
use crate::tls::DeviceKey;

/// Bytes of read buffer per channel; the default of 128 KiB is too much for thousands of agents.
const READ_BUFFER: usize = 4 * 1024;

/// `GET /agent/v1/channel`
pub(crate) async fn open(
    State(app): State<App>,
    device: Option<Extension<DeviceKey>>,
    connection: Option<Extension<Connection>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let Extension(DeviceKey(device)) = device.ok_or(ApiError::UnknownDevice)?;
    let known = app.store.host_by_device(&device).await?.is_some()
        || app.store.waiting_answer(&device).await?.is_some();
    if !known {
        return Err(ApiError::UnknownDevice);
    }
    let upgrade = upgrade.map_err(|_| ApiError::NotAWebSocket)?;
    let guard = app.live.guard().ok_or(ApiError::Stopping)?;
    let upgrade = upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0);
    Ok(upgrade.on_upgrade(move |socket| async move {
        session::run(app, device, socket).await;
        // Both are held until here: the place among the connections, and the hub's patience when
        // it stops.
        drop((connection, guard));
    }))
}
