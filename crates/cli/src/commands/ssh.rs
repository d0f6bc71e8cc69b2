//! `writ ssh`, `writ cp`: OpenSSH's own programs, with `writ connect` as their only way.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use authz::files;
use protocol::HostName;

use super::connect::{absolute, session_mode, summary};
use super::{Context, random};
use crate::args::{CpArgs, GrantArgs, Mode, ModeArgs, SshArgs};
use crate::error::{Answer, Failure};
use crate::openssh::{self, OpenSshError, Program};
use crate::ssh_args::{forwards, host_of_copy};
use crate::ssh_config::{Route, connect_words};
use crate::state::Home;

pub(super) async fn ssh(ctx: &Context, args: SshArgs) -> Result<Answer, Failure> {
    let SshArgs { grant, mut mode, host, args } = args;
    for target in forwards(&args)? {
        if !mode.forwards.contains(&target) {
            mode.forwards.push(target);
        }
    }
    let passed = std::iter::once(OsString::from(host.as_str())).chain(args).collect();
    start(ctx, Program::Ssh, &host, grant, &mode, passed).await
}

pub(super) async fn cp(ctx: &Context, args: CpArgs) -> Result<Answer, Failure> {
    let CpArgs { grant, recursive, preserve, paths } = args;
    let host = host_of_copy(&paths)?;
    let mode = ModeArgs { mode: Mode::Sftp, command: None, forwards: Vec::new() };
    // Over SFTP, also where scp's own protocol is still the default.
    let wanted = [(true, "-s"), (recursive, "-r"), (preserve, "-p"), (ctx.quiet, "-q"), (true, "--")];
    let options = wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, option)| option.into());
    start(ctx, Program::Scp, &host, grant, &mode, options.chain(paths).collect()).await
}

async fn start(
    ctx: &Context,
    program: Program,
    host: &HostName,
    grant: GrantArgs,
    mode: &ModeArgs,
    passed: Vec<OsString>,
) -> Result<Answer, Failure> {
    session_mode(mode)?;
    // What `writ connect` would say in the middle of ssh's own words is better said before.
    let home = ctx.session()?.home;
    ctx.note(&summary(host, &grant, mode)?);
    let own = std::env::current_exe().map_err(OpenSshError::OwnPath)?;
    let directory = TemporaryDir::make(&home)?;
    let grant = GrantArgs { key: grant.key.map(absolute).transpose()?, ..grant };
    let proxy = connect_words(&own, &absolute(home.root().to_owned())?, host, &grant, mode, &directory.0);
    let route = Route { host, user: &grant.user, directory: &directory.0, proxy };
    let args: Vec<OsString> = route.options()?.into_iter().chain(passed).collect();
    let status = openssh::run(program, &args).await?;
    Ok(Answer { status, ..Answer::default() })
}

/// A session directory for one run of ssh, gone afterwards.
struct TemporaryDir(PathBuf);

impl TemporaryDir {
    fn make(home: &Home) -> Result<Self, Failure> {
        let digits: String = random::<8>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        // No host can be called so: there are no dots in names.
        let path = absolute(home.path("sessions").join(format!("ssh.{digits}")))?;
        files::prepare_state_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// What cannot be removed opens nothing any more: the session that it was for is over.
fn remove(directory: &Path) {
    let _ = std::fs::remove_dir_all(directory);
}
