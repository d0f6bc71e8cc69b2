//! One test of a guest at a time on this machine. Other machines are kept out by the guest itself: its
//! snapshots and running tasks are looked at before and after the first step.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use data_encoding::HEXLOWER;
use proxmox_client::{Endpoint, Vmid};
use sha2::{Digest as _, Sha256};

/// A name in the kernel. It is there for every user, and gone with the process whatever ends it; a lock
/// file would be one user's, and would stay.
#[derive(Debug)]
pub(super) struct Alone {
    _name: UnixListener,
}

/// Takes the name for that guest.
pub(super) fn alone(endpoint: &Endpoint, vmid: Vmid) -> Result<Alone, String> {
    // Such names are short; an address need not be.
    let address = HEXLOWER.encode(&Sha256::digest(endpoint.to_string())[..16]);
    let text = format!("writ-selftest/{address}/{vmid}");
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
        let endpoint: Endpoint = format!("https://{}.test:1", "alone.".repeat(40)).parse().unwrap();
        let (one, two) = (Vmid::new(101).unwrap(), Vmid::new(102).unwrap());
        let first = alone(&endpoint, one).unwrap();
        assert!(alone(&endpoint, one).unwrap_err().contains("is running on this machine"));
        let _other_guest = alone(&endpoint, two).unwrap();
        let _other_node = alone(&"https://alone.test:2".parse().unwrap(), one).unwrap();
        drop(first);
        alone(&endpoint, one).unwrap();
    }
}
