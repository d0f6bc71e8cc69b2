//! Which desired state is in force: generations only ever grow, and one generation has one content.

use protocol::Sha256;

/// Largest generation there is: every JSON reader has it exactly, and counting never gets there.
pub const MAX_GENERATION: u64 = 1 << 53;
/// How far one delivery may go ahead of what is in force, or of nothing. Without this bound one
/// delivery of the largest number would end all later ones, even those of a repaired hub.
pub const MAX_LEAP: u64 = 1_000_000;

/// What to do with a desired state that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// It replaces the one in force.
    New,
    /// It is the one in force; it was delivered again.
    Same,
}

/// Why a desired state is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GenerationRefused {
    /// The hub went back in time, or someone made it.
    #[error(
        "generation {offered} is older than generation {current}, which is in force: apply the wanted state again, so that it gets a newer generation; if a hub that has been repaired cannot get there, stop the agent and remove desired.json from its state directory (state_dir in agent.toml)"
    )]
    Older {
        /// In force.
        current: u64,
        /// Delivered.
        offered: u64,
    },
    /// Nobody changes a state that often: the hub is broken, or in somebody else's hands.
    #[error(
        "generation {offered} is out of reach ({}; at most {MAX_LEAP} more than that, and never above {MAX_GENERATION}, is accepted): find out why the hub counts like this and repair it; the generation in force is in desired.json in the agent's state directory (state_dir in agent.toml)", in_force(*current)
    )]
    OutOfReach {
        /// In force, if any.
        current: Option<u64>,
        /// Delivered.
        offered: u64,
    },
    /// Two contents under one number: one of them was not what the operator applied.
    #[error(
        "generation {generation} was delivered again with other content: find out why the hub changed it, then apply the wanted state again"
    )]
    SameGenerationOtherContent {
        /// Of both.
        generation: u64,
    },
}

fn in_force(current: Option<u64>) -> String {
    current.map_or_else(|| "none is in force".to_owned(), |current| format!("{current} is in force"))
}

/// Decides about a delivered desired state, given as generation and content hash.
pub fn accept_generation(
    current: Option<(u64, Sha256)>,
    new: (u64, Sha256),
) -> Result<Accept, GenerationRefused> {
    let (offered, content) = new;
    let number = current.map(|(number, _)| number);
    // What is in force already may be delivered again, whatever its number.
    let ahead = number.is_none_or(|number| offered > number);
    if ahead && (offered > MAX_GENERATION || offered - number.unwrap_or(0) > MAX_LEAP) {
        return Err(GenerationRefused::OutOfReach { current: number, offered });
    }
    match current {
        None => Ok(Accept::New),
        Some((current, _)) if offered > current => Ok(Accept::New),
        Some((current, _)) if offered < current => Err(GenerationRefused::Older { current, offered }),
        Some((_, same)) if same == content => Ok(Accept::Same),
        Some((generation, _)) => Err(GenerationRefused::SameGenerationOtherContent { generation }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_only_grow_and_have_one_content() {
        let (a, b) = (Sha256::of(b"a"), Sha256::of(b"b"));
        assert_eq!(accept_generation(None, (7, a)), Ok(Accept::New));
        assert_eq!(accept_generation(Some((7, a)), (8, a)), Ok(Accept::New));
        assert_eq!(accept_generation(Some((7, a)), (7, a)), Ok(Accept::Same));
        let older = accept_generation(Some((7, a)), (6, b)).unwrap_err();
        assert_eq!(older, GenerationRefused::Older { current: 7, offered: 6 });
        let other = accept_generation(Some((7, a)), (7, b)).unwrap_err();
        assert_eq!(other, GenerationRefused::SameGenerationOtherContent { generation: 7 });
        assert!(accept_generation(Some((u64::MAX, a)), (0, a)).is_err());
        for error in [older, other] {
            assert!(error.to_string().contains("apply the wanted state again"), "{error}");
        }
        assert!(older.to_string().contains("desired.json"), "{older}");
    }

    #[test]
    fn no_single_delivery_ends_all_later_ones() {
        let (a, b) = (Sha256::of(b"a"), Sha256::of(b"b"));
        for (current, reach) in [(None, 1_000_000), (Some(0), 1_000_000), (Some(7), 1_000_007)] {
            let now = current.map(|number| (number, a));
            assert_eq!(accept_generation(now, (reach, b)), Ok(Accept::New));
            for offered in [reach + 1, 1 << 53, (1 << 53) + 1, u64::MAX - 1, u64::MAX] {
                let refused = accept_generation(now, (offered, b)).unwrap_err();
                assert_eq!(refused, GenerationRefused::OutOfReach { current, offered });
                let said = refused.to_string();
                assert!(said.contains("repair") && said.contains("desired.json"), "{said}");
            }
        }
        let end = MAX_GENERATION;
        assert_eq!(accept_generation(Some((end - 1, a)), (end, b)), Ok(Accept::New));
        assert!(matches!(
            accept_generation(Some((end, a)), (end + 1, b)),
            Err(GenerationRefused::OutOfReach { .. })
        ));
        // Stored before there was a bound: it is what it was, and nothing is above it.
        assert_eq!(accept_generation(Some((u64::MAX, a)), (u64::MAX, a)), Ok(Accept::Same));
        assert!(accept_generation(Some((u64::MAX - 1, a)), (u64::MAX, b)).is_err());
    }
}
