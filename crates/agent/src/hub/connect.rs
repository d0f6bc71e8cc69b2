//! The live channel's carrier: an HTTP request that becomes a WebSocket. reqwest does the TLS (and
//! a CONNECT proxy, where the environment names one); the handshake's answer is checked here.

use data_encoding::BASE64;
use protocol::frame::{CHANNEL_PATH, MAX_FRAME};
use reqwest::StatusCode;
use reqwest::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::hub::http::{HubClient, HubError};

/// The channel's socket.
pub type HubStream = WebSocketStream<reqwest::Upgraded>;

/// Limits for either end of the channel: nothing longer than a frame may be is ever held.
pub fn limits() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(MAX_FRAME)).max_frame_size(Some(MAX_FRAME))
}

/// Opens the channel; `nonce` is the handshake's random key.
pub async fn connect(hub: &HubClient, nonce: [u8; 16]) -> Result<HubStream, HubError> {
    let opening = open(hub, nonce);
    tokio::time::timeout(HubClient::timeout(), opening).await.unwrap_or_else(|_| Err(hub.late()))
}

async fn open(hub: &HubClient, nonce: [u8; 16]) -> Result<HubStream, HubError> {
    let key = BASE64.encode(&nonce);
    let response = hub
        .http
        .get(format!("{}{CHANNEL_PATH}", hub.url))
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key)
        .send()
        .await
        .map_err(|error| hub.explain(&error))?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        if status.is_success() || status.is_redirection() {
            return Err(hub.odd(format!("status {} instead of a WebSocket", status.as_u16())));
        }
        let body = hub.limited_body(response).await?;
        return Err(hub.refused(status.as_u16(), &body));
    }
    let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).and_then(|value| value.to_str().ok());
    if accept != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(hub.odd("a WebSocket handshake with a wrong Sec-WebSocket-Accept".to_owned()));
    }
    let upgraded = response.upgrade().await.map_err(|error| hub.explain(&error))?;
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(limits())).await)
}
