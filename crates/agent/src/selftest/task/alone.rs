//! One test of a guest at a time on this machine. Other machines are kept out by the guest itself: its
//! snapshots and running tasks are looked at just before and after the first step.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use data_encoding::HEXLOWER;
use proxmox_client::{Pin, Vmid};

/// A name in the kernel. It is there for every user, and gone with the process whatever ends it; a lock
/// file would be one user's, and would stay.
#[derive(Debug)]
pub(super) struct Alone {
    _name: UnixListener,
}

/// Takes the name for that guest. The node is known by the key it proved: it has more addresses than one,
/// and each can be spelled in many ways.
pub(super) fn alone(node: &Pin, vmid: Vmid) -> Result<Alone, String> {
    // Such names are short.
    let text = format!("writ-selftest/{}/{vmid}", HEXLOWER.encode(&node.sha256()[..16]));
    let bound =
        SocketAddr::from_abstract_name(text.as_bytes()).and_then(|address| UnixListener::bind_addr(&address));
    bound.map(|name| Alone { _name: name }).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another selftest of guest {vmid} is running on this machine: wait until it has ended")
        }
        _ => {
            format!("cannot make sure that no other selftest of guest {vmid} runs here ({error}): try again")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_until_the_first_is_over() {
        let key = |byte: &str| format!("spki:{}", byte.repeat(32)).parse::<Pin>().unwrap();
        let (one, two) = (Vmid::new(101).unwrap(), Vmid::new(102).unwrap());
        let first = alone(&key("a1"), one).unwrap();
        assert!(alone(&key("a1"), one).unwrap_err().contains("is running on this machine"));
        let _other_guest = alone(&key("a1"), two).unwrap();
        let _other_node = alone(&key("a2"), one).unwrap();
        drop(first);
        alone(&key("a1"), one).unwrap();
    }
}
