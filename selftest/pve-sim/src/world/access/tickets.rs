//! Tickets of logged-in users, and the tokens against forged requests that go with them.

use data_encoding::{BASE64, BASE64_NOPAD};
use sha2::{Digest, Sha256};

use crate::world::World;

/// How long a ticket lives, and how far in the future its time may lie.
const TICKET_LIFE: i64 = 7_200;
const TICKET_AHEAD: i64 = 300;

impl World {
    fn sign(&self, text: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"ticket");
        hash.update(self.seed);
        hash.update(text);
        hash.finalize().into()
    }

    /// A ticket for the user, as long as a real one (which holds an RSA signature).
    pub fn ticket(&self, user: &str, unix: i64) -> String {
        let text = format!("PVE:{user}:{unix:08X}");
        format!("{text}::{}", BASE64.encode(&self.sign(&text).repeat(8)))
    }

    /// The user of a ticket that is genuine and neither too old nor from the future.
    pub fn check_ticket(&self, ticket: &str, unix: i64) -> Option<String> {
        let (text, _) = ticket.rsplit_once("::")?;
        let (user, time) = text.strip_prefix("PVE:")?.rsplit_once(':')?;
        let time = i64::from_str_radix(time, 16).ok()?;
        let timely = (unix - TICKET_LIFE..=unix + TICKET_AHEAD).contains(&time);
        let alive = self.access.users.get(user).is_some_and(|u| u.is_alive(unix));
        (timely && alive && self.ticket(user, time) == ticket).then(|| user.to_owned())
    }

    /// The token against forged requests that goes with a user's tickets.
    pub fn csrf_token(&self, user: &str, unix: i64) -> String {
        let time = format!("{unix:08X}");
        let sum = self.sign(&format!("CSRF:{time}:{user}"));
        format!("{time}:{}", BASE64_NOPAD.encode(&sum))
    }

    /// Whether this is a [`World::csrf_token`] of the user that is still good.
    pub fn check_csrf(&self, token: &str, user: &str, unix: i64) -> bool {
        let time = token.split(':').next().and_then(|t| i64::from_str_radix(t, 16).ok());
        time.is_some_and(|time| {
            (unix - TICKET_LIFE..=unix + TICKET_AHEAD).contains(&time) && self.csrf_token(user, time) == token
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_cannot_be_made_up() {
        let w = World::demo();
        let unix = 1_795_317_258;
        let ticket = w.ticket("writ@pve", unix);
        assert_eq!(w.check_ticket(&ticket, unix).as_deref(), Some("writ@pve"));
        assert_eq!(w.check_ticket(&ticket, unix + TICKET_LIFE), Some("writ@pve".to_owned()));
        assert_eq!(w.check_ticket(&ticket, unix + TICKET_LIFE + 1), None, "too old");
        assert_eq!(w.check_ticket(&ticket, unix - TICKET_AHEAD - 1), None, "from the future");
        let swapped = ticket.replace("writ@pve", "root@pam");
        for bad in ["", "PVE:", "PVE:writ@pve:x::y", &swapped, &ticket[..ticket.len() - 1]] {
            assert_eq!(w.check_ticket(bad, unix), None, "{bad}");
        }
        let csrf = w.csrf_token("writ@pve", unix);
        assert!(w.check_csrf(&csrf, "writ@pve", unix));
        assert!(!w.check_csrf(&csrf, "root@pam", unix));
        assert!(!w.check_csrf("", "writ@pve", unix) && !w.check_csrf("x", "writ@pve", unix));
    }
}
