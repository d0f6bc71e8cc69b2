//! Changes an order file the way an attacker, or a mistake, would. Works on the parsed order where the
//! result must be well-formed, on bytes where it must not.

use authz::Order;
use protocol::{HostId, Nonce};

use crate::{Fallible, Trouble};

/// A well-formed variant of an order with a fresh nonce.
pub fn variant(bytes: &[u8], nonce: u8, change: impl FnOnce(&mut Order)) -> Fallible<Vec<u8>> {
    let mut order = Order::decode(bytes).map_err(|error| Trouble::new("the prepared order", error))?;
    order.nonce = Nonce::from_bytes([nonce; 16]);
    change(&mut order);
    Ok(order.encode())
}

/// For another host.
pub fn other_host(bytes: &[u8]) -> Fallible<Vec<u8>> {
    variant(bytes, 0xa1, |order| order.host.id = HostId::from_bytes([0xee; 16]))
}

/// Expired a minute ago, by the order's own clock.
pub fn expired(bytes: &[u8], now: u64) -> Fallible<Vec<u8>> {
    variant(bytes, 0xa2, |order| {
        order.nbf = now - 120;
        order.exp = now - 60;
    })
}

/// The same meaning, another nonce.
pub fn again(bytes: &[u8], nonce: u8) -> Fallible<Vec<u8>> {
    variant(bytes, nonce, |_| ())
}

/// The same, bound to no plan.
pub fn unbound(bytes: &[u8]) -> Fallible<Vec<u8>> {
    variant(bytes, 0xa7, |order| order.plan = None)
}

/// One byte of the reason changed, which leaves the order readable.
pub fn one_byte(bytes: &[u8], text: &str) -> Fallible<Vec<u8>> {
    let at = bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes())
        .ok_or_else(|| Trouble(format!("the order does not contain {text:?}")))?;
    let mut changed = bytes.to_vec();
    changed[at] ^= 0x20;
    Ok(changed)
}
