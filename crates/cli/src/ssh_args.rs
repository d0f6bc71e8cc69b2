//! Arguments that are passed on to ssh and scp, as far as they concern what is signed for: forwards are
//! added to the grant, and what no grant allows is refused by name before anything is sent. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use protocol::text::printable;
use protocol::{ForwardTarget, HostName, IdError};

/// Options of ssh that take an argument (ssh(1), OpenSSH 8.4 to 10.0).
const WITH_ARGUMENT: &[u8] = b"BbcDEeFIiJLlmOoPpQRSWw";

/// Why arguments are not passed on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassedError {
    /// An option that no grant allows, or that would undo what protects the session.
    #[error("ssh option {option} cannot be used here: {why}")]
    Option {
        /// As given.
        option: String,
        /// Why, and what instead.
        why: &'static str,
    },
    /// An option without its argument.
    #[error("ssh option -{0} lacks its argument: see ssh(1)")]
    Lacks(char),
    /// A forward that no grant can list.
    #[error("the forward {spec} cannot be granted: {why}")]
    Forward {
        /// As given, made safe.
        spec: String,
        /// Why, and what instead.
        why: String,
    },
    /// No path on a host.
    #[error("none of the paths is on a host: write HOST:PATH for one of them")]
    NoHost,
    /// Several.
    #[error(
        "only one of the paths can be on a host, and {0} are: copy one after the other (a pattern in one path, quoted, can name many files)"
    )]
    Hosts(usize),
    /// Not a host's name.
    #[error("'{name}' before the colon is no host: {why}; for a local file of that name write ./ before it")]
    NotAHost {
        /// Made safe.
        name: String,
        /// What is wrong.
        why: IdError,
    },
}

/// The targets that these arguments of ssh want to reach. Everything else is passed on as it is.
pub fn forwards(args: &[OsString]) -> Result<Vec<ForwardTarget>, PassedError> {
    let mut targets = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let bytes = arg.as_bytes();
        // As getopt(3): the first word that is no option is the command.
        if bytes == b"--" || !bytes.starts_with(b"-") || bytes.len() < 2 {
            break;
        }
        let mut letters = &bytes[1..];
        while let [letter, tail @ ..] = letters {
            letters = tail;
            let option = char::from(*letter);
            if !WITH_ARGUMENT.contains(letter) {
                check(option, b"")?;
                continue;
            }
            let value = match tail {
                [] => rest.next().ok_or(PassedError::Lacks(option))?.as_bytes(),
                attached => attached,
            };
            letters = b"";
            check(option, value)?;
            if matches!(option, 'L' | 'W') {
                let target = target(option, value)?;
                if !targets.contains(&target) {
                    targets.push(target);
                }
            }
        }
    }
    Ok(targets)
}

/// Refuses by name.
fn check(option: char, value: &[u8]) -> Result<(), PassedError> {
    let why = match option {
        'D' => "a proxy reaches any target, and a grant lists each: use -L PORT:HOST:PORT",
        'R' => "a session lets nothing on the host reach back to you: use -L for the other direction",
        'w' => "a session carries no network tunnel: use -L PORT:HOST:PORT",
        'J' => "the way leads through the hub: log in to the other machine from there",
        'F' => {
            "writ gives ssh its options, and no configuration file may change them: use `writ connect --ssh-config`"
        }
        'M' | 'S' | 'O' => {
            "each `writ ssh` is a session of its own: share one with `writ connect --ssh-config`"
        }
        'A' | 'X' | 'Y' | 'K' => {
            "a session lends nothing of yours to the host, neither agent nor screen nor tickets"
        }
        'l' => "whom to log in as is signed for: write --user NAME before HOST",
        'o' => return check_o(value),
        _ => return Ok(()),
    };
    Err(PassedError::Option { option: format!("-{option}"), why })
}

/// What `-o` may name, in lower case: nothing here changes whom ssh believes, what it lends to the host or what
/// it runs here. A closed list, so that an option of a later ssh is refused too.
const HARMLESS: &[&str] = &[
    "batchmode",
    "ciphers",
    "clearallforwardings",
    "compression",
    "connectionattempts",
    "connecttimeout",
    "escapechar",
    "exitonforwardfailure",
    "fingerprinthash",
    "forkafterauthentication",
    "ipqos",
    "loglevel",
    "logverbose",
    "macs",
    "obscurekeystroketiming",
    "rekeylimit",
    "requesttty",
    "sendenv",
    "serveralivecountmax",
    "serveraliveinterval",
    "sessiontype",
    "setenv",
    "stdinnull",
    "tcpkeepalive",
    "visualhostkey",
];

/// Of `-o`, only what is harmless. Reads the name as ssh does; what ssh would read otherwise is not on the list.
fn check_o(value: &[u8]) -> Result<(), PassedError> {
    let text = String::from_utf8_lossy(value).trim().to_ascii_lowercase();
    let name = text.split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
    let why = match name {
        "localforward" => "writ reads the targets to sign for from -L: use that",
        "dynamicforward" | "remoteforward" | "tunnel" | "proxyjump" => "no session allows it: use -L",
        "user" => "whom to log in as is signed for: write --user NAME before HOST",
        "include" | "match" | "host" => "no configuration file may change the session",
        name if HARMLESS.contains(&name) => return Ok(()),
        _ => {
            "writ passes on only options that change nothing about trust and what is signed for, such as ConnectTimeout, LogLevel or SendEnv"
        }
    };
    Err(PassedError::Option { option: format!("-o {}", printable(name)), why })
}

/// Where -L or -W leads to (ssh(1)).
fn target(option: char, value: &[u8]) -> Result<ForwardTarget, PassedError> {
    let spec = String::from_utf8_lossy(value);
    let fail = |why: &str| PassedError::Forward {
        spec: format!("-{option} {}", printable(&spec)),
        why: why.to_owned(),
    };
    let fields = fields(&spec).ok_or_else(|| fail("its brackets do not match"))?;
    let (host, port) = match (option, fields.as_slice()) {
        ('W', [host, port]) | ('L', [_, host, port] | [_, _, host, port]) => (*host, *port),
        ('L', [_, _]) => {
            return Err(fail("a grant lists HOST:PORT and no sockets: name a port on the host"));
        }
        ('L', _) => return Err(fail("write -L [BIND:]PORT:HOST:HOSTPORT")),
        _ => return Err(fail("write -W HOST:PORT")),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let shown = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
    shown.parse().map_err(|error: IdError| fail(&error.to_string()))
}

/// Splits at colons outside brackets.
fn fields(spec: &str) -> Option<Vec<&str>> {
    let (mut fields, mut start, mut inside) = (Vec::new(), 0, false);
    for (i, c) in spec.char_indices() {
        match (c, inside) {
            ('[', false) => inside = true,
            (']', true) => inside = false,
            ('[' | ']', _) => return None,
            (':', false) => {
                fields.push(&spec[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    fields.push(&spec[start..]);
    (!inside).then_some(fields)
}

/// Which host the paths of a copy name: the same rule as scp's, so that both mean the same paths.
pub fn host_of_copy(paths: &[OsString]) -> Result<HostName, PassedError> {
    let remote: Vec<&[u8]> = paths.iter().filter_map(|path| host_part(path)).collect();
    let [host] = remote.as_slice() else {
        return Err(if remote.is_empty() { PassedError::NoHost } else { PassedError::Hosts(remote.len()) });
    };
    let name = String::from_utf8_lossy(host);
    name.parse().map_err(|why| PassedError::NotAHost { name: printable(&name), why })
}

/// What stands before the colon of a path on a host; none for a local path.
fn host_part(path: &OsStr) -> Option<&[u8]> {
    let bytes = path.as_bytes();
    // A colon at the start belongs to the name; after a slash it does too.
    let end = bytes.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    (end > 0 && bytes[end] == b':').then_some(&bytes[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn granted(words: &[&str]) -> Vec<String> {
        forwards(&args(words)).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn forwards_are_found_wherever_ssh_finds_them() {
        assert_eq!(granted(&["-N", "-L", "8006:127.0.0.1:8006"]), ["127.0.0.1:8006"]);
        assert_eq!(granted(&["-NL8006:localhost:8006", "-v"]), ["localhost:8006"]);
        assert_eq!(granted(&["-NTL", "*:1:db.example:5432"]), ["db.example:5432"]);
        assert_eq!(granted(&["-L", "[::1]:1:[fe80::1]:22", "-L", "/run/s:a:1"]), ["[fe80::1]:22", "a:1"]);
        assert_eq!(granted(&["-L1:a:2", "-L", "3:a:2"]), ["a:2"]);
        assert_eq!(granted(&["-W", "[::1]:22"]), ["[::1]:22"]);
        assert_eq!(granted(&["-L", "1:[a.example]:2"]), ["a.example:2"]);
        // Not an option: the argument of another one, the command, and what belongs to it.
        assert_eq!(granted(&["-i", "-L1:a:2", "uptime", "-L", "1:b:2"]), [""; 0]);
        assert_eq!(granted(&["--", "-L", "1:a:2"]), [""; 0]);
        assert_eq!(granted(&["-p", "22", "-o", "LogLevel=ERROR", "-L", "1:a:2", "-", "x"]), ["a:2"]);
        assert_eq!(granted(&[]), [""; 0]);
        assert_eq!(granted(&["-o", "connecttimeout 5", "-oSendEnv=A", "-o", " LogLevel = ERROR"]), [""; 0]);
    }

    #[test]
    fn what_no_grant_allows_is_refused_by_name() {
        for (words, says) in [
            (vec!["-D", "1080"], "-D cannot be used here: a proxy reaches any target"),
            (vec!["-ND1080"], "-D cannot be used"),
            (vec!["-R", "1:a:2"], "-R cannot be used here: a session lets nothing on the host reach back"),
            (vec!["-tR1:a:2"], "-R cannot be used"),
            (vec!["-w", "0:0"], "-w cannot"),
            (vec!["-J", "x"], "-J cannot"),
            (vec!["-F", "/home/x"], "-F cannot"),
            (vec!["-M"], "-M cannot"),
            (vec!["-NS", "x"], "-S cannot"),
            (vec!["-l", "bob"], "--user NAME before HOST"),
            (vec!["-o", "LocalForward=1 a:2"], "-o localforward cannot"),
            (vec!["-o", "dynamicforward 1080"], "-o dynamicforward cannot"),
            (vec!["-oRemoteForward=1"], "-o remoteforward cannot"),
            (vec!["-o", "User=bob"], "--user NAME before HOST"),
            (vec!["-A"], "-A cannot be used here: a session lends nothing"),
            (vec!["-vX"], "-X cannot"),
            (vec!["-Y"], "-Y cannot"),
            (vec!["-TK"], "-K cannot"),
            (vec!["-o", "ForwardAgent=yes"], "-o forwardagent cannot"),
            (vec!["-oForwardX11 yes"], "-o forwardx11 cannot"),
            (vec!["-o", "ForwardX11Trusted=yes"], "-o forwardx11trusted cannot"),
            (vec!["-o", "PermitLocalCommand=yes"], "-o permitlocalcommand cannot"),
            (vec!["-o", "LocalCommand=id"], "-o localcommand cannot"),
            (vec!["-o", "KnownHostsCommand=/x"], "-o knownhostscommand cannot"),
            (vec!["-o", " UserKnownHostsFile = /dev/null"], "-o userknownhostsfile cannot"),
            (vec!["-o", "GlobalKnownHostsFile=/x"], "-o globalknownhostsfile cannot"),
            (vec!["-o", "StrictHostKeyChecking=no"], "-o stricthostkeychecking cannot"),
            (vec!["-o", "HostKeyAlias=x"], "-o hostkeyalias cannot"),
            (vec!["-o", "IdentityAgent=/x"], "-o identityagent cannot"),
            (vec!["-o", "ProxyCommand=x"], "-o proxycommand cannot"),
            (vec!["-o", "GSSAPIDelegateCredentials=yes"], "-o gssapidelegatecredentials cannot"),
            (vec!["-o", "OfALaterSsh=yes"], "-o ofalaterssh cannot be used here: writ passes on only"),
            (vec!["-o", "\"LogLevel\" ERROR"], "cannot be used here"),
            (vec!["-o", ""], "cannot be used here"),
            (vec!["-L"], "-L lacks its argument"),
            (vec!["-L", "8006"], "write -L [BIND:]PORT:HOST:HOSTPORT"),
            (vec!["-L", "1:/run/socket"], "no sockets"),
            (vec!["-L", "1:2:3:4:5"], "write -L"),
            (vec!["-L", "1:a:http"], "a port from 1 to 65535"),
            (vec!["-L", "1:*:22"], "HOST:PORT"),
            (vec!["-L", "1:[::1:22"], "brackets"),
            (vec!["-L", "1:a\u{1b}[2J:22"], "-L 1:a?"),
            (vec!["-W", "a"], "write -W HOST:PORT"),
        ] {
            let error = forwards(&args(&words)).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains('\u{1b}'), "{words:?}: {error}");
        }
    }

    #[test]
    fn a_copy_names_one_host_by_the_rule_of_scp() {
        let host = |words: &[&str]| host_of_copy(&args(words)).map(|host| host.to_string());
        assert_eq!(host(&["a", "b", "web1:/tmp/"]), Ok("web1".into()));
        assert_eq!(host(&["web1:x:y", "./a:b"]), Ok("web1".into()));
        assert_eq!(host(&["web1:", "."]), Ok("web1".into()));
        assert_eq!(host(&["a", "/x/web1:y"]), Err(PassedError::NoHost));
        assert_eq!(host(&[":a", "b"]), Err(PassedError::NoHost));
        assert_eq!(host(&["web1:a", "web1:b", "c"]), Err(PassedError::Hosts(2)));
        assert_eq!(host(&["web1:a", "web2:b"]), Err(PassedError::Hosts(2)));
        for bad in ["root@web1:a", "WEB1:a", "[::1]:a", "a b:c"] {
            let error = host(&[bad, "x"]).unwrap_err();
            assert!(matches!(error, PassedError::NotAHost { .. }), "{bad}: {error:?}");
        }
    }
}
