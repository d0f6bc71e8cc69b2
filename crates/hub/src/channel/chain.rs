//! Checking entries of a host's log before they are stored. Pure.

use authz::{Event, PublicKey, Receipt};
use protocol::{HostId, Sha256, Signed};

use crate::store::LogEntry;

/// Why entries of a log are refused. Nothing of the frame is stored then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChainError {
    /// Signature, form or host.
    #[error("receipt {seq} is refused: the signature or its content is wrong")]
    Receipt {
        /// Its place.
        seq: u64,
        /// What exactly.
        source: authz::receipt::ReceiptError,
    },
    /// A place is left out.
    #[error("receipts from {first} on were sent, but the hub holds {held}: send from there")]
    Gap {
        /// Sent.
        first: u64,
        /// Held.
        held: u64,
    },
    /// The entry says that it stands elsewhere.
    #[error("receipt {seq} says that it stands elsewhere in the log: the log is damaged or forged")]
    Place {
        /// Where it was sent.
        seq: u64,
    },
    /// It does not follow the entry before.
    #[error(
        "receipt {seq} does not follow the one before: the log was rewritten, or two hosts use one identity"
    )]
    Fork {
        /// Its place.
        seq: u64,
    },
}

/// What the hub holds already.
#[derive(Debug)]
pub(crate) struct Held {
    /// Entries.
    pub(crate) size: u64,
    /// Hash of the last one; zeros while there is none.
    pub(crate) last: Sha256,
    /// Hashes of the stored entries from the frame's first on: what is sent again must be the same.
    pub(crate) overlap: Vec<Sha256>,
}

/// Checks a frame's receipts; gives those that are new.
pub(crate) fn check(
    host: &HostId,
    key: &PublicKey,
    held: &Held,
    first: u64,
    receipts: Vec<Signed>,
) -> Result<Vec<LogEntry>, ChainError> {
    if first > held.size {
        return Err(ChainError::Gap { first, held: held.size });
    }
    let mut entries = Vec::new();
    let mut last = held.last;
    let mut overlap = held.overlap.iter();
    for (seq, signed) in (first..).zip(receipts) {
        let hash = Sha256::of(&signed.payload.0);
        if seq < held.size {
            // Checked when it came for the first time.
            if overlap.next() != Some(&hash) {
                return Err(ChainError::Fork { seq });
            }
            continue;
        }
        let receipt =
            Receipt::verify(&signed, host, key).map_err(|source| ChainError::Receipt { seq, source })?;
        let entry = receipt.entry.filter(|entry| entry.seq == seq).ok_or(ChainError::Place { seq })?;
        if entry.prev != last {
            return Err(ChainError::Fork { seq });
        }
        last = hash;
        // The beginning of an order belongs to its story too: it tells that a later refusal is no end.
        let op = match &receipt.event {
            Event::OrderCommitted { op, .. } | Event::SessionReady { op, .. } | Event::Order { op, .. } => {
                Some(*op)
            }
            Event::Enrolled { .. }
            | Event::PolicyAdvanced { .. }
            | Event::Revoked { .. }
            | Event::StepStarted { .. }
            | Event::Step { .. } => None,
        };
        entries.push(LogEntry { op, signed });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use authz::receipt::Entry;
    use authz::{Event, Outcome, SecretKey};

    const HOST: HostId = HostId::from_bytes([1; 16]);

    fn receipt(seq: u64, prev: Sha256) -> Receipt {
        Receipt {
            v: 1,
            host: HOST,
            host_key_gen: 1,
            boot_id: "b".to_owned(),
            time: seq,
            entry: Some(Entry { seq, prev }),
            event: Event::Order {
                op: Sha256::of(b"op"),
                kind: None,
                vmid: None,
                signers: vec![],
                outcome: Outcome::Done { upid: None, seen: "gone".parse().unwrap() },
            },
        }
    }

    fn log(key: &SecretKey, size: u64) -> Vec<Signed> {
        let mut prev = Sha256::from_bytes([0; 32]);
        (0..size)
            .map(|seq| {
                let signed = receipt(seq, prev).sign(key);
                prev = Sha256::of(&signed.payload.0);
                signed
            })
            .collect()
    }

    fn held(log: &[Signed], size: usize, first: usize) -> Held {
        let hash = |signed: &Signed| Sha256::of(&signed.payload.0);
        Held {
            size: size as u64,
            last: log[..size].last().map_or(Sha256::from_bytes([0; 32]), hash),
            overlap: log[first.min(size)..size].iter().map(hash).collect(),
        }
    }

    #[test]
    fn a_log_may_come_in_pieces_and_again() {
        let key = SecretKey::from_seed(&[1; 32]);
        let log = log(&key, 5);
        for (size, first, new) in [(0, 0, 5), (3, 3, 2), (3, 1, 2), (5, 0, 0), (5, 5, 0)] {
            let entries =
                check(&HOST, &key.public(), &held(&log, size, first), first as u64, log[first..].to_vec());
            assert_eq!(entries.unwrap().len(), new, "{size} held, sent from {first}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let key = SecretKey::from_seed(&[1; 32]);
        let other = SecretKey::from_seed(&[2; 32]);
        let log = log(&key, 3);
        let public = key.public();
        let none = held(&log, 0, 0);
        let run =
            |held: &Held, first, receipts: &[Signed]| check(&HOST, &public, held, first, receipts.to_vec());
        assert!(matches!(run(&none, 1, &log[1..]), Err(ChainError::Gap { first: 1, held: 0 })));
        assert!(matches!(run(&none, 0, &log[1..]), Err(ChainError::Place { seq: 0 })));
        assert!(matches!(
            run(&none, 0, &[log[0].clone(), log[2].clone()]),
            Err(ChainError::Place { seq: 1 })
        ));
        let wrong_prev = receipt(1, Sha256::of(b"x")).sign(&key);
        assert!(matches!(run(&none, 0, &[log[0].clone(), wrong_prev]), Err(ChainError::Fork { seq: 1 })));
        let forged = receipt(0, Sha256::from_bytes([0; 32])).sign(&other);
        assert!(matches!(run(&none, 0, &[forged]), Err(ChainError::Receipt { seq: 0, .. })));
        let outside = Receipt { entry: None, ..receipt(0, Sha256::from_bytes([0; 32])) }.sign(&key);
        assert!(matches!(run(&none, 0, &[outside]), Err(ChainError::Place { seq: 0 })));
        let foreign = Receipt { host: HostId::from_bytes([2; 16]), ..receipt(0, none.last) }.sign(&key);
        assert!(matches!(run(&none, 0, &[foreign]), Err(ChainError::Receipt { seq: 0, .. })));
        // History that is held already cannot be told differently.
        let rewritten = Receipt { time: 99, ..receipt(0, Sha256::from_bytes([0; 32])) }.sign(&key);
        assert!(matches!(run(&held(&log, 2, 0), 0, &[rewritten]), Err(ChainError::Fork { seq: 0 })));
    }
}
