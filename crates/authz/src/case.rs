//! One case of the adversarial corpus (`security.md` 4.2): what a host is given and what it knows, as plain
//! files, and its decision. A folder is
//!
//! | file | holds |
//! |---|---|
//! | `payload` | the bytes that were signed |
//! | `sig.asc`, `sig.2.asc`, … | the signatures, in this order; none at all is a case too |
//! | `policy.json` | the policy that the host trusts by its hash |
//! | `host.json` | what the host knows besides: [`HostFile`] |
//! | `expect.json` | what is expected; never read here |
//!
//! The decision is [`crate::verify::verify`]'s, the nonce's and [`crate::world::check`]'s, in this order and as
//! in a warden; or, where `judge` says `policy`, that of [`crate::policy::chain::Chain::accept`]. A `world` of
//! null leaves out the comparison with it: then it is decided by what was signed alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use protocol::{Envelope, Fingerprint, HostId, Nonce, Sha256, Signed};
use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::clock;
use crate::files::{self, FileError};
use crate::plan::{Plan, PlanBook};
use crate::policy::Policy;
use crate::policy::chain::Chain;
use crate::refusal::{Refusal, RefusalCode};
use crate::verify::{HostFacts, LogFacts, verify};
use crate::world::{self, World};

/// Largest file of a case, in bytes. (What is too large for a host is a case, so this is far above.)
pub const MAX_FILE: u64 = 4 * 1024 * 1024;
/// Most signatures in a case. (More than a host takes, for the same reason.)
pub const MAX_SIGNATURES: usize = 64;

/// Why a folder is no case.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A file is missing or cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that means nothing, so that the case would not be the one that was meant.
    #[error(
        "{path} does not belong into a case: payload, sig.asc, sig.2.asc and so on without a gap, policy.json, \
         host.json, expect.json", path = .0.display()
    )]
    Stray(PathBuf),
    /// `host.json` in another form.
    #[error("host.json is not what a host knows: {0}")]
    Host(String),
    /// Something in `host.json` that no host would have taken in.
    #[error("host.json says that the host took in word {number}, which it refuses: {why}")]
    Word {
        /// Which, from 1.
        number: usize,
        /// The refusal.
        why: Refusal,
    },
}

/// What is decided about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// Whether an order is carried out.
    Order,
    /// Whether a next policy, a revocation or a word of freshness is taken in.
    Policy,
}

/// What a clock is worth ([`clock::State`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockWord {
    /// It can be used.
    Trusted,
    /// It is behind what was signed.
    Behind,
    /// It is far ahead, or not synchronised.
    Suspect,
}

/// The host's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFile {
    /// Entries in it.
    pub size: u64,
    /// Some sizes that it had, and the hash of the last entry then.
    pub heads: Vec<(u64, Sha256)>,
}

/// The plans that the host remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlansFile {
    /// CLOCK_BOOTTIME, seconds.
    pub boottime_s: u64,
    /// The bytes of each plan, oldest first.
    pub live: Vec<String>,
}

/// `host.json`. Every field must be there, those that are null too; an unknown one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFile {
    /// What is asked.
    pub judge: Judge,
    /// The host's clock, unix seconds.
    pub now: u64,
    /// What that is worth.
    pub clock: ClockWord,
    /// Its signed floor, unix seconds.
    pub floor: u64,
    /// Its id.
    pub id: HostId,
    /// Its key.
    pub key: Fingerprint,
    /// Which of its keys.
    pub generation: u32,
    /// The word that its policy is the newest is too old.
    pub stale: bool,
    /// Its log; null where there is none to compare with.
    #[serde(deserialize_with = "present")]
    pub log: Option<LogFile>,
    /// Nonces that were used.
    pub burned: Vec<Nonce>,
    /// Its plans; null where none are made.
    #[serde(deserialize_with = "present")]
    pub plans: Option<PlansFile>,
    /// What it took in since `policy.json`, oldest first: policies and revocations.
    pub words: Vec<Envelope>,
    /// What Proxmox would answer; null where it is not asked.
    #[serde(deserialize_with = "present")]
    pub world: Option<World>,
}

impl HostFile {
    /// Reads it. Whatever is written otherwise than it would be written again, but for whitespace and the order
    /// of fields, is refused: so no field deep in the world can be left out and read as null.
    fn parse(bytes: &[u8]) -> Result<Self, CaseError> {
        let wrong = |error: serde_json::Error| CaseError::Host(protocol::text::printable(&error.to_string()));
        let host: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        let said: serde_json::Value = serde_json::from_slice(bytes).map_err(wrong)?;
        if serde_json::to_value(&host).map_err(wrong)? == said {
            return Ok(host);
        }
        Err(CaseError::Host("a field is missing in it, or is spelled in another way than ours".into()))
    }
}

/// Null may be said, not left out.
fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(from)
}

/// The files of a case, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `payload`
    pub payload: Vec<u8>,
    /// `sig.asc` and so on.
    pub sigs: Vec<Vec<u8>>,
    /// `policy.json`
    pub policy: Vec<u8>,
    /// `host.json`
    pub host: Vec<u8>,
}

impl Files {
    /// Reads a folder.
    pub fn read(folder: &Path) -> Result<Self, CaseError> {
        let read = |name: &str| Ok::<_, CaseError>(files::read_limited(&folder.join(name), MAX_FILE)?);
        let mut names = names(folder)?;
        for fixed in ["payload", "policy.json", "host.json", "expect.json"] {
            names.remove(fixed);
        }
        let mut sigs = Vec::new();
        for number in 1..=MAX_SIGNATURES {
            let name = if number == 1 { "sig.asc".to_owned() } else { format!("sig.{number}.asc") };
            if !names.remove(&name) {
                break;
            }
            sigs.push(read(&name)?);
        }
        match names.first() {
            None => Ok(Self {
                payload: read("payload")?,
                sigs,
                policy: read("policy.json")?,
                host: read("host.json")?,
            }),
            Some(stray) => Err(CaseError::Stray(folder.join(stray))),
        }
    }
}

fn names(folder: &Path) -> Result<BTreeSet<String>, CaseError> {
    let fail = |source| FileError::io("list", folder, source);
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        names.insert(name.to_string_lossy().into_owned());
    }
    Ok(names)
}

/// A case that can be judged.
#[derive(Debug)]
pub struct Case {
    files: Files,
    host: HostFile,
    plans: PlanBook,
    /// None where no host could live by the policy.
    chain: Option<Chain>,
}

impl Case {
    /// Understands the files. Hostile bytes in payload, signatures and policy are the case's own; `host.json`
    /// must be well-formed.
    pub fn parse(files: Files) -> Result<Self, CaseError> {
        let host = HostFile::parse(&files.host)?;
        let mut plans = PlanBook::default();
        for bytes in host.plans.iter().flat_map(|plans| &plans.live) {
            let plan: Plan = canonical::decode("plan", bytes.as_bytes())
                .map_err(|error| CaseError::Host(error.to_string()))?;
            // Only the bytes' hash is remembered: the host made the plan itself.
            plans.remember(plan, &Signed { payload: bytes.as_bytes().to_vec().into(), sig: String::new() });
        }
        let mut chain = Policy::decode(&files.policy).ok().map(Chain::new);
        if let Some(chain) = &mut chain {
            for (index, word) in host.words.iter().enumerate() {
                chain
                    .accept(word, host.now)
                    .map_err(|why| CaseError::Word { number: index.saturating_add(1), why })?;
            }
        }
        Ok(Self { files, host, plans, chain })
    }

    /// What the host decides.
    pub fn judge(&self) -> Result<(), Refusal> {
        let Some(chain) = &self.chain else {
            let why = "policy.json is no policy that a host could live by, so it carries nothing out";
            return Err(Refusal::new(RefusalCode::NotEnrolled, why));
        };
        let envelope = self.envelope()?;
        match self.host.judge {
            Judge::Order => self.order(&envelope, chain.current()),
            Judge::Policy => chain.clone().accept(&envelope, self.host.now).map(drop),
        }
    }

    fn envelope(&self) -> Result<Envelope, Refusal> {
        let mut sigs = Vec::new();
        for sig in &self.files.sigs {
            let text = std::str::from_utf8(sig).map_err(|_| {
                Refusal::new(
                    RefusalCode::Malformed,
                    "a signature is not text, so no message could carry it: sign again",
                )
            })?;
            sigs.push(text.to_owned());
        }
        Ok(Envelope::new(self.files.payload.clone().into(), sigs))
    }

    fn order(&self, envelope: &Envelope, policy: &Policy) -> Result<(), Refusal> {
        let host = &self.host;
        let head_at = |size: u64| {
            let heads = host.log.iter().flat_map(|log| &log.heads);
            heads.into_iter().find(|(at, _)| *at == size).map(|(_, head)| *head)
        };
        let facts = HostFacts {
            id: host.id,
            key: host.key,
            generation: host.generation,
            log: host.log.as_ref().map(|log| LogFacts { size: log.size, head_at: &head_at }),
            clock: match host.clock {
                ClockWord::Trusted => clock::State::Trusted,
                ClockWord::Behind => clock::State::Behind,
                ClockWord::Suspect => clock::State::Suspect,
            },
            floor: host.floor,
            stale: host.stale,
            plans: host.plans.as_ref().map(|plans| (&self.plans, plans.boottime_s)),
        };
        let authorized = verify(envelope, policy, &facts, host.now)?;
        // Step 13. By the nonce and nothing else: another spelling of the signature is the same order (V21).
        if host.burned.contains(&authorized.get().nonce) {
            let why = "the nonce was used before: prepare and sign a new order";
            return Err(authorized.refuse(authorized.get().kind(), RefusalCode::Replay, why));
        }
        // Step 14.
        let Some(world) = &host.world else { return Ok(()) };
        world::check(authorized.get(), world)
            .map_err(|(code, why)| authorized.refuse(authorized.get().kind(), code, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = concat!(
        r#"{"judge":"order","now":1763770000,"clock":"trusted","floor":1763000000,"id":"11111111111111111111111111111111","#,
        r#""key":"SHA256:B6mHEIJq5vuRlOfAosRuhiJzFfp15Cwh6oVtby2V2dI","generation":1,"stale":false,"log":null,"#,
        r#""burned":[],"plans":null,"words":[],"world":null}"#
    );
    const WORLD: &str = concat!(
        r#"{"guest":{"known":{"type":"qemu","name":"db","identity":{"smbios_uuid":"u","vmgenid":null,"#,
        r#""meta_ctime":null,"macs":[],"volids":[],"giid":null},"digest":"d","config":{"known":{"a":"1","b":"2"}},"#,
        r#""lock":null,"template":false,"state":"stopped","snapshots":{"known":[{"name":"s","time":null,"#,
        r#""parent":null,"unfinished":null}]},"consistent":true,"volumes":{"known":[]},"#,
        r#""protection":{"known":false},"ha":{"unknown":"x"},"replication":{"known":[]}}},"#,
        r#""backups":{"known":[]},"volumes":{"known":[]},"disks":{"known":[{"disk":{"serial":"S1","wwn":null,"#,
        r#""size":1},"filesystems":[]}]},"storages":{"known":{"local":{"unknown":"x"}}},"vmids":{"known":[101]},"#,
        r#""mounted":{"known":[]},"template":{"known":{"template":true,"digest":"d"}}}"#
    );

    fn files(host: &str) -> Files {
        Files { payload: vec![], sigs: vec![], policy: vec![], host: host.as_bytes().to_vec() }
    }

    #[test]
    fn what_a_host_knows_is_read_strictly() {
        Case::parse(files(HOST)).unwrap();
        for (from, to) in [
            ("\"stale\":false", "\"stale\":0"),
            ("\"stale\":false", "\"stale\":false,\"stale\":false"),
            ("\"stale\":false,", ""),
            ("\"floor\":1763000000,", ""),
            ("1763000000", "-1"),
            ("\"log\":null,", ""),
            ("\"plans\":null,", ""),
            ("\"trusted\"", "\"right\""),
            ("\"judge\":\"order\"", "\"judge\":\"orders\""),
            ("\"words\":[]", "\"words\":[],\"x\":1"),
            ("\"plans\":null", "\"plans\":{\"boottime_s\":1,\"live\":[\"{}\"]}"),
            ("1763770000", "-1"),
            (",\"world\":null", ""),
            ("\"world\":null", "\"world\":{}"),
            ("\"world\":null", "\"world\":null,\"world\":null"),
        ] {
            refused(HOST, from, to);
        }
        for cut in 0..HOST.len() {
            assert!(Case::parse(files(&HOST[..cut])).is_err(), "cut at {cut}");
        }
    }

    fn refused(host: &str, from: &str, to: &str) {
        assert!(host.contains(from), "{from}");
        let error = Case::parse(files(&host.replacen(from, to, 1))).unwrap_err();
        assert!(matches!(error, CaseError::Host(_)), "{to}: {error}");
    }

    #[test]
    fn the_world_is_read_strictly_however_deep() {
        let host = HOST.replace("\"world\":null", &format!("\"world\":{WORLD}"));
        let case = Case::parse(files(&host)).unwrap();
        assert!(case.host.world.is_some());
        // Each thing that may be null must be said, and each key stands there once.
        let nulls = ["vmgenid", "meta_ctime", "giid", "lock", "time", "parent", "unfinished", "wwn"];
        assert_eq!(nulls.len(), WORLD.matches(":null").count(), "every null of the world");
        for field in nulls.map(|field| format!("\"{field}\":null")) {
            let both = [format!("{field},"), format!(",{field}")];
            refused(&host, both.iter().find(|from| host.contains(*from)).unwrap(), "");
        }
        for (from, to) in [
            ("\"mounted\":{\"known\":[]},", ""),
            ("\"template\":{\"known\"", "\"x\":1,\"template\":{\"known\""),
            ("\"b\":\"2\"", "\"b\":\"2\",\"b\":\"2\""),
            ("\"a\":\"1\"", "\"a\":1"),
            ("\"local\":{", "\"local\":{\"unknown\":\"x\"},\"local\":{"),
            ("\"type\":\"qemu\"", "\"type\":\"kvm\""),
            ("\"state\":\"stopped\"", "\"state\":\"paused\""),
            ("[101]", "[101,101]"),
            ("[101]", "[0]"),
            ("{\"known\":false}", "false"),
            ("{\"known\":false}", "{\"known\":false,\"unknown\":\"x\"}"),
            ("\"size\":1}", "\"size\":1,\"path\":\"x\"}"),
        ] {
            refused(&host, from, to);
        }
        for cut in HOST.len() - 5..host.len() {
            assert!(Case::parse(files(&host[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_host_without_a_policy_refuses_and_words_must_have_been_believed() {
        let case = Case::parse(files(HOST)).unwrap();
        assert_eq!(case.judge().unwrap_err().code, RefusalCode::NotEnrolled);
        let word = "\"words\":[{\"payload\":\"\",\"sigs\":[]}]";
        let mut files = files(&HOST.replace("\"words\":[]", word));
        files.policy = crate::policy::tests::document().encode();
        assert!(matches!(Case::parse(files), Err(CaseError::Word { number: 1, .. })));
    }

    #[test]
    fn only_the_files_of_a_case_may_be_in_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        assert!(matches!(Files::read(folder.path()), Err(CaseError::File(_))), "nothing there");
        for name in ["payload", "policy.json", "expect.json", "sig.asc", "sig.2.asc"] {
            put(name, name.as_bytes());
        }
        put("host.json", HOST.as_bytes());
        let read = Files::read(folder.path()).unwrap();
        assert_eq!(read.sigs, [b"sig.asc".to_vec(), b"sig.2.asc".to_vec()]);
        put("sig.4.asc", b"");
        let error = Files::read(folder.path()).unwrap_err();
        assert!(matches!(&error, CaseError::Stray(path) if path.ends_with("sig.4.asc")), "{error}");
        assert!(Files::read(&folder.path().join("none")).is_err());
    }
}
