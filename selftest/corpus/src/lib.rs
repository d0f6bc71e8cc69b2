//! The adversarial corpus (`security.md` 4.2), written from seeds: no key, no clock, no randomness, so that
//! writing it again gives the same bytes. And the judge of any corpus of the same layout.
//!
//! | module | holds |
//! |---|---|
//! | [`base`] | the people, the policy, the host and the order that every case starts from |
//! | [`forge`] | signatures taken apart and put together, keys of every type |
//! | [`live`] | what Proxmox would answer |
//! | [`rsa`] | RSA signatures, right and wrong |
//! | [`classes`] | the catalogue, a module per block |
//! | [`mod@check`] | decisions against `expect.json` |
#![expect(
    clippy::unwrap_used,
    reason = "what cannot be made from its seed must stop the writing of the corpus"
)]

use std::path::{Path, PathBuf};

pub mod base;
pub mod check;
pub mod classes;
pub mod forge;
pub mod live;
pub mod rsa;

/// Where the corpus of this repository lies.
pub fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/authz/corpus")
}

/// All files by path below the root, as they must be.
pub fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for class in classes::all() {
        for (number, case) in class.cases.into_iter().enumerate() {
            let folder = Path::new(&class.name).join((number + 1).to_string());
            let mut put = |name: &str, bytes: Vec<u8>| files.push((folder.join(name), bytes));
            put("payload", case.payload);
            put("policy.json", case.policy);
            put("host.json", line(&case.host));
            put("expect.json", line(&case.expect));
            for (at, sig) in case.sigs.into_iter().enumerate() {
                let name = if at == 0 { "sig.asc".to_owned() } else { format!("sig.{}.asc", at + 1) };
                put(&name, sig);
            }
        }
    }
    files
}

fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap();
    bytes.push(b'\n');
    bytes
}

/// Writes the corpus in place of what is there.
///
/// # Errors
/// What the file system says.
pub fn write(root: &Path) -> std::io::Result<usize> {
    if root.exists() {
        std::fs::remove_dir_all(root)?;
    }
    let files = files();
    for (path, bytes) in &files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap())?;
        std::fs::write(path, bytes)?;
    }
    Ok(files.len())
}
