//! Which desired state is in force: generations only ever grow, and one generation has one content.

use protocol::Sha256;

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
        "generation {offered} is older than generation {current}, which is in force: apply the wanted state again, so that it gets a newer generation"
    )]
    Older {
        /// In force.
        current: u64,
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

/// Decides about a delivered desired state, given as generation and content hash.
pub fn accept_generation(
    current: Option<(u64, Sha256)>,
    new: (u64, Sha256),
) -> Result<Accept, GenerationRefused> {
    let (offered, content) = new;
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
    }
}
