//! Who a program runs as. Asked of the system's user database (NSS), so directory services count.

use std::path::PathBuf;

use nix::unistd::User;
use protocol::UserName;

use super::wire::Identity;

/// Why not as this user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Nobody has that name.
    #[error("there is no user {0} on this host: name one that `getent passwd` lists")]
    Unknown(UserName),
    /// The database did not answer.
    #[error("the user database cannot say who {name} is ({why}): see whether `getent passwd {name}` works")]
    Lookup {
        /// Who was asked for.
        name: UserName,
        /// What the system said.
        why: String,
    },
    /// An ordinary user can run programs as oneself only.
    #[error("this runner is not root, so it can run nothing as {0}: name its own user, or run it as root")]
    NotOneself(UserName),
}

/// A local account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Name.
    pub name: UserName,
    /// Number.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory, as the database has it.
    pub home: PathBuf,
    /// Shell, likewise.
    pub shell: PathBuf,
}

impl Account {
    /// The account of that name, if this process may run programs as it. Blocks: a directory service may be
    /// asked.
    pub fn find(name: &UserName) -> Result<Self, UserError> {
        let user = match User::from_name(name.as_str()) {
            Ok(Some(user)) => user,
            Ok(None) => return Err(UserError::Unknown(name.clone())),
            Err(error) => return Err(UserError::Lookup { name: name.clone(), why: error.to_string() }),
        };
        let own = rustix::process::geteuid();
        if !own.is_root() && own.as_raw() != user.uid.as_raw() {
            return Err(UserError::NotOneself(name.clone()));
        }
        Ok(Self {
            name: name.clone(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
            shell: user.shell,
        })
    }

    /// Whom to become. Root becomes even root, for fresh groups; an ordinary user has nothing to change.
    pub(crate) fn identity(&self) -> Option<Identity> {
        rustix::process::geteuid().is_root().then(|| Identity {
            name: self.name.as_str().to_owned(),
            uid: self.uid,
            gid: self.gid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_exists_and_whom_we_may_become() {
        let nobody: UserName = "no-such-user-here".parse().unwrap();
        assert_eq!(Account::find(&nobody), Err(UserError::Unknown(nobody)));
        let root = Account::find(&"root".parse().unwrap());
        if rustix::process::geteuid().is_root() {
            assert_eq!(root.unwrap().uid, 0);
        } else {
            assert!(matches!(root, Err(UserError::NotOneself(_))));
        }
    }
}
