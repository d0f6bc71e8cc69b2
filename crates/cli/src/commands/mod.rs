//! The commands: read, ask, judge, write. What they decide is decided in the pure modules.

mod apply;
mod audit;
mod connect;
mod cosign;
mod enroll;
mod history;
mod hosts;
mod login;
mod look;
mod op;
mod orders;
mod planned;
mod policy;
mod run;
mod sessions;
mod sign;
mod ssh;
mod submit;
mod verify_case;
mod wait;

use std::future::Future;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use authz::{Namespace, Order, Policy, files, lookup};
use protocol::text::printable;
use protocol::{Envelope, HostName};

use crate::agent::Agent;
use crate::args::{Cli, Command, advice};
use crate::error::{Answer, Failure};
use crate::hub::Hub;
use crate::resolve::{Believed, ResolveError, Roster};
use crate::signer::{Purpose, Signer};
use crate::state::{Config, Home};

/// Does what the command line says; signs with the key file that it names, or with `agent`.
pub async fn dispatch(cli: Cli, agent: Agent) -> Result<Answer, Failure> {
    let ctx = Context { home: cli.home, quiet: cli.quiet, verbose: cli.verbose, agent };
    match cli.command {
        Command::Policy(command) => policy::run(&ctx, command).await,
        Command::Login(args) => login::run(&ctx, args).await,
        Command::Enroll(command) => enroll::run(&ctx, command).await,
        Command::Hosts(args) => hosts::list(&ctx, args).await,
        Command::Host(args) => hosts::show(&ctx, args).await,
        Command::Apply(args) => apply::run(&ctx, args).await,
        Command::Plan(args) => apply::plan(&ctx, args).await,
        Command::Look(args) => look::run(&ctx, args).await,
        Command::Op(command) => op::run(&ctx, command).await,
        Command::Show { order } => sign::show(&ctx, &order),
        Command::Sign(args) => sign::sign(&ctx, args).await,
        Command::Cosign(args) => cosign::run(&ctx, args).await,
        Command::Submit(args) => submit::run(&ctx, args).await,
        Command::Orders(args) => orders::list(&ctx, args).await,
        Command::Order(args) => orders::show(&ctx, args).await,
        Command::Receipts(args) => audit::log(&ctx, args).await,
        Command::Audit(command) => audit::run(&ctx, command).await,
        Command::Run(args) => run::run(&ctx, args).await,
        Command::Result(args) => run::result(&ctx, args).await,
        Command::Connect(args) => connect::run(&ctx, args).await,
        Command::Ssh(args) => ssh::ssh(&ctx, args).await,
        Command::Cp(args) => ssh::cp(&ctx, args).await,
        Command::Sessions(args) => sessions::run(&ctx, args).await,
        Command::VerifyCase(args) => Ok(verify_case::run(&args)),
    }
}

/// What every command has.
struct Context {
    home: Option<std::path::PathBuf>,
    quiet: bool,
    verbose: bool,
    agent: Agent,
}

impl Context {
    fn home(&self) -> Result<Home, Failure> {
        Ok(Home::open(self.home.clone())?)
    }

    /// Progress, on stderr.
    fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("{}", printable(text));
        }
    }

    /// The key to sign with: the one that is named, else that of the login, else what fits in ssh-agent.
    async fn signer(
        &self,
        named: Option<&Path>,
        config: &Config,
        purpose: Purpose<'_>,
    ) -> Result<Signer, Failure> {
        let signer = Signer::choose(named, config.key.as_deref(), &self.agent, purpose).await?;
        if self.verbose {
            eprintln!("{}", signer.place());
        }
        Ok(signer)
    }

    /// A signature that the host would refuse is worth a word.
    fn note_useless(&self, policy: &Policy, signer: &Signer, namespace: Namespace) {
        if let Err(error) = lookup::operator_of(&signer.public().claim(), policy, namespace) {
            self.note(&format!("note: {error} of this machine: the host will refuse"));
        }
    }

    /// A login at the hub, with what its answers are judged by.
    fn session(&self) -> Result<Session, Failure> {
        let home = self.home()?;
        let config = home.config()?;
        let (policy, policy_bytes) = home.policy()?;
        let hub = Hub::new(config.hub.clone(), config.pin, Some(&home.token()?))?;
        Ok(Session { home, config, policy, policy_bytes, hub })
    }

    /// The same with the newest policy that the hub has and this machine can verify.
    async fn current_session(&self) -> Result<Session, Failure> {
        let mut session = self.session()?;
        policy::follow(self, &mut session).await?;
        Ok(session)
    }
}

/// A hub and what its answers are judged by.
struct Session {
    home: Home,
    config: Config,
    policy: Policy,
    policy_bytes: Vec<u8>,
    hub: Hub,
}

impl Session {
    /// A signature that this machine's policy shall count.
    fn purpose(&self, namespace: Namespace) -> Purpose<'_> {
        Purpose { policy: Some(&self.policy), namespace: Some(namespace), now: now() }
    }

    /// All hosts, judged, and nothing remembered.
    async fn judged(&self) -> Result<Roster, Failure> {
        Ok(Roster::judge(self.hub.hosts().await?, &self.policy, &self.home.memory()?, now()))
    }

    /// All hosts, judged; what is believed is remembered.
    async fn roster(&self) -> Result<Roster, Failure> {
        let roster = self.judged().await?;
        for (_, host) in roster.believed() {
            self.home.remember(host)?;
        }
        Ok(roster)
    }

    /// One host by the name that operators signed.
    async fn believed(&self, name: &HostName) -> Result<Believed, Failure> {
        Ok(self.roster().await?.by_name(name)?.1.clone())
    }

    /// Everything the hub says about one host. It must at least be about that host.
    async fn detail(&self, host: &Believed) -> Result<protocol::api::HostDetail, Failure> {
        let detail = self.hub.host(host.id()).await?;
        if detail.host.host_id == *host.id() {
            Ok(detail)
        } else {
            Err(ResolveError::Distrust(format!(
                "asked about host {}, the hub answers about host {}: the hub is wrong or lying",
                host.id(),
                detail.host.host_id
            ))
            .into())
        }
    }
}

/// Unix seconds.
fn now() -> u64 {
    // A clock before 1970 makes everything expired, which is the safe way to be wrong.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(Failure::Random)?;
    Ok(bytes)
}

/// Writes a result file, never over another one by accident.
fn write_new(path: &Path, bytes: &[u8], force: bool) -> Result<(), Failure> {
    let exists = path.try_exists().map_err(|source| files::FileError::io("look for", path, source))?;
    if exists && !force {
        return Err(Failure::Exists(path.to_owned()));
    }
    Ok(files::write_atomic(path, bytes)?)
}

/// Reads an order file: bytes and meaning.
fn read_order(path: &Path) -> Result<(Vec<u8>, Order), Failure> {
    let bytes = files::read_limited(path, Envelope::MAX_PAYLOAD as u64)?;
    match Order::decode(&bytes) {
        Ok(order) => Ok((bytes, order)),
        Err(source) => Err(Failure::NotAnOrder {
            path: path.to_owned(),
            why: source.to_string(),
            advice: advice(&source),
            source,
        }),
    }
}

/// Ends the waiting, not the work, when the operator presses Ctrl-C.
async fn or_interrupt<T>(hint: &str, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted(hint.to_owned())),
    }
}

#[cfg(test)]
mod fake_hub;
#[cfg(test)]
mod tests;
