//! The workspace's binaries, next to this one. Cargo builds the binaries of another package only when
//! asked to, so they are built here, once a process, before the first is used.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here cargo"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{Fallible, Trouble};

/// The folder with all binaries.
#[derive(Debug, Clone)]
pub struct Bins(PathBuf);

impl Bins {
    /// Builds what is missing or old and gives the folder.
    pub fn ready() -> Fallible<Self> {
        static READY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        READY.get_or_init(|| build().map_err(|error| error.to_string())).clone().map(Self).map_err(Trouble)
    }

    /// The path of one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn build() -> Fallible<PathBuf> {
    let me = std::env::current_exe().map_err(|error| Trouble::new("cannot find this program", error))?;
    // target/debug/scenarios, or target/debug/deps/some_test-0123.
    let folder = me
        .ancestors()
        .skip(1)
        .find(|folder| folder.file_name().is_some_and(|name| name != "deps"))
        .ok_or_else(|| Trouble("this program is in no folder".into()))?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo told this process about its own package would make build scripts, such as ring's,
    // run again for every build that starts elsewhere.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_BIN_")
        {
            cargo.env_remove(&name);
        }
    }
    cargo.current_dir(&workspace).args(["build", "--quiet", "--locked", "--workspace", "--bins"]);
    if folder.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let status = cargo.status().map_err(|error| Trouble::new("cannot run cargo", error))?;
    if !status.success() {
        return Err(Trouble("cargo could not build the binaries (see above)".into()));
    }
    Ok(folder.to_owned())
}
