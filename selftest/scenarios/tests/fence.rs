//! The architecture's "Never" paragraph, held against `cargo metadata` and the sources. Each rule says
//! why it is there, and each is shown failing on a made-up offender, so that a rule that can never
//! fail does not count as one.
#![expect(clippy::unwrap_used, reason = "helpers of tests; clippy.toml frees only functions marked as tests")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "FENCE: selftest may start processes; here cargo metadata"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Package name to the packages that it needs to build and run.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// (who, must never reach, why)
const NEVER: &[(&str, &[&str], &str)] = &[
    (
        "hub",
        &["warden", "privileged", "runner", "proxmox-client"],
        "the hub has no authority and no way to any",
    ),
    (
        "agent",
        &["privileged", "runner", "warden"],
        "the agent reads; whoever owns its process must not own root's",
    ),
    (
        "cli",
        &["warden", "privileged", "runner", "proxmox-client", "hub", "agent"],
        "the operator's tool knows only the wire",
    ),
    ("privileged", HTTP, "root's three operations never make a network connection"),
    ("privileged", &["proxmox-client", "warden", "runner"], "the fence stays small enough to read"),
    ("anchored", IMPURE, "what root lives by must not depend on what moves bytes"),
    ("protocol", IMPURE, "what crosses a wire is pure data"),
    ("authz", IMPURE, "what decides must not depend on what moves bytes"),
    ("reconcile", IMPURE, "planning is a pure function"),
    ("sealed", IMPURE, "sealing is a pure function of bytes, key and randomness"),
];
const HTTP: &[&str] =
    &["reqwest", "rustls", "hyper", "axum", "tokio-tungstenite", "tungstenite", "h2", "tokio-rustls"];
const IMPURE: &[&str] = &["tokio", "reqwest", "sqlx", "sqlx-core", "libsqlite3-sys", "rustls", "hyper"];

/// Nobody may reach these, directly or not.
const NOBODY: &[(&str, &str)] = &[
    ("aws-lc-rs", "one TLS provider: ring"),
    ("openssl-sys", "one TLS stack: rustls"),
    ("native-tls", "one TLS stack: rustls"),
    ("rsa", "RUSTSEC-2023-0071 has no fix; RSA is verified by ring when it comes"),
];

/// The house: every edge between packages of this workspace, development dependencies left out.
const HOUSE: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("authz", &["protocol"]),
    ("local-socket", &["protocol"]),
    ("proxmox-client", &[]),
    ("reconcile", &["protocol"]),
    ("sealed", &["protocol"]),
    ("anchored", &["authz", "protocol"]),
    ("privileged", &["anchored", "authz", "local-socket", "protocol"]),
    ("runner", &["anchored", "authz", "local-socket", "protocol", "sealed"]),
    ("warden", &["authz", "local-socket", "protocol", "proxmox-client", "reconcile", "sealed"]),
    ("agent", &["authz", "local-socket", "protocol", "proxmox-client", "reconcile"]),
    ("hub", &["authz", "protocol", "reconcile"]),
    ("cli", &["authz", "protocol", "sealed"]),
    ("pve-sim", &[]),
    ("scenarios", &["authz", "protocol", "proxmox-client", "sealed"]),
    ("corpus", &["authz", "protocol"]),
    ("bench", &["agent", "authz", "local-socket", "protocol", "proxmox-client", "pve-sim", "scenarios"]),
    ("vm", &[]),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn metadata() -> Value {
    let out = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace())
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Normal and build dependencies, by name. (No two versions of a package matter to a rule here.)
fn graph(metadata: &Value) -> Graph {
    let name_of: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut graph = Graph::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let needs = graph.entry(name_of[node["id"].as_str().unwrap()].to_owned()).or_default();
        for dep in node["deps"].as_array().unwrap() {
            let kinds = dep["dep_kinds"].as_array().unwrap();
            if kinds.iter().any(|kind| kind["kind"].is_null() || kind["kind"] == "build") {
                needs.insert(name_of[dep["pkg"].as_str().unwrap()].to_owned());
            }
        }
    }
    graph
}

fn reach(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for next in graph.get(&name).into_iter().flatten() {
            if seen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    seen
}

fn never_violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for (who, forbidden, why) in NEVER {
        assert!(graph.contains_key(*who), "the rule about {who} is about nobody");
        let reached = reach(graph, who);
        for bad in forbidden.iter().filter(|bad| reached.contains(**bad)) {
            found.push(format!("{who} -> {bad}: {why}"));
        }
    }
    for (bad, why) in NOBODY {
        if graph.contains_key(*bad) {
            found.push(format!("{bad} is in the tree: {why}"));
        }
    }
    found
}

fn house_violations(graph: &Graph) -> Vec<String> {
    let members: BTreeSet<&str> = HOUSE.iter().map(|(name, _)| *name).collect();
    let mut found = Vec::new();
    for (name, allowed) in HOUSE {
        for next in graph[*name].iter().filter(|next| members.contains(next.as_str())) {
            if !allowed.contains(&next.as_str()) {
                found.push(format!("{name} -> {next} is no edge of the house"));
            }
        }
    }
    found
}

#[test]
fn dependencies_keep_to_the_house() {
    let metadata = metadata();
    let graph = graph(&metadata);
    assert_eq!(never_violations(&graph), Vec::<String>::new());
    assert_eq!(house_violations(&graph), Vec::<String>::new());
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(members.len(), HOUSE.len(), "a new package needs its row in HOUSE");
}

#[test]
fn each_dependency_rule_can_fail() {
    let graph = graph(&metadata());
    for (who, forbidden, _) in NEVER {
        for bad in *forbidden {
            // Through a package in between, as it would really happen.
            let mut offender = graph.clone();
            offender.entry((*who).to_owned()).or_default().insert("helper".into());
            offender.insert("helper".into(), BTreeSet::from([(*bad).to_owned()]));
            assert!(!never_violations(&offender).is_empty(), "{who} -> {bad} went unnoticed");
        }
    }
    for (bad, _) in NOBODY {
        let mut offender = graph.clone();
        offender.insert((*bad).to_owned(), BTreeSet::new());
        assert!(!never_violations(&offender).is_empty(), "{bad} went unnoticed");
    }
    let mut offender = graph;
    offender.get_mut("protocol").unwrap().insert("authz".into());
    assert_eq!(house_violations(&offender), ["protocol -> authz is no edge of the house"]);
}

/// A rule about source text: where, what, why.
struct TextRule {
    name: &'static str,
    why: &'static str,
    /// Paths (relative, with `/`) to which the rule applies.
    applies: fn(&str) -> bool,
    /// Whether a line of code offends.
    offends: fn(&str) -> bool,
}

fn shipped(path: &str) -> bool {
    path.starts_with("crates/")
}

/// Code that is compiled into what is shipped: not a test file, and handled up to its test module.
fn product(path: &str) -> bool {
    shipped(path)
        && !path.contains("/tests/")
        && !path.ends_with("/tests.rs")
        && !path.ends_with("/testing.rs")
        && !path.contains("/testing/")
}

fn word_process(line: &str) -> bool {
    let rest = line.replace("std::process::ExitCode", "").replace("rustix::process", "");
    rest.contains("process::")
        || rest.contains("::process")
        || (rest.contains("std::{") && rest.contains("process"))
}

const TEXT: &[TextRule] = &[
    TextRule {
        name: "processes",
        why: "processes are started by privileged, runner, cli's openssh module and selftest only",
        applies: |path| {
            shipped(path)
                && !path.starts_with("crates/privileged/")
                && !path.starts_with("crates/runner/")
                && path != "crates/cli/src/openssh.rs"
        },
        offends: word_process,
    },
    TextRule {
        name: "lint escapes",
        why: "the ban on processes is lifted in the runner's engine, privileged's run module, their tests and cli's openssh module only",
        applies: |path| {
            shipped(path)
                && path != "crates/cli/src/openssh.rs"
                && !path.starts_with("crates/runner/src/engine/")
                && !path.starts_with("crates/runner/tests/")
                && path != "crates/privileged/src/run.rs"
                && !path.starts_with("crates/privileged/tests/")
        },
        offends: |line| {
            line.contains("clippy::disallowed_types") || line.contains("clippy::disallowed_methods")
        },
    },
    TextRule {
        name: "no network for root's operations",
        why: "writ-privileged listens on a unix socket and speaks to nobody else",
        applies: |path| {
            path.starts_with("crates/privileged/src/") || path.starts_with("crates/anchored/src/")
        },
        offends: |line| {
            ["Tcp", "Udp", "std::net", "net::lookup_host", "SocketAddr", "rustix::net"]
                .iter()
                .any(|word| line.contains(word))
        },
    },
    TextRule {
        name: "insecure TLS",
        why: "no pin, no connection; there is no switch",
        applies: shipped,
        offends: |line| {
            line.contains("danger_accept_invalid")
                || line.contains("tls_danger_accept")
                || line.contains("HandshakeSignatureValid::assertion")
        },
    },
    TextRule {
        name: "pinned certificates",
        why: "a certificate is accepted in the four pin verifiers and in the hub's device verifier only",
        applies: |path| {
            product(path)
                && ![
                    "crates/proxmox-client/src/wire/tls.rs",
                    "crates/agent/src/hub/tls.rs",
                    "crates/cli/src/tls.rs",
                    "crates/hub/src/tls.rs",
                ]
                .contains(&path)
        },
        offends: |line| line.contains("CertVerified::assertion"),
    },
    TextRule {
        name: "proof of authority",
        why: "a passed check is a value that only the verifier makes",
        applies: |path| path.ends_with(".rs") && path != "crates/authz/src/verify.rs",
        offends: |line| line.contains("Authorized {"),
    },
    TextRule {
        name: "clocks in pure crates",
        why: "pure cores take now as an argument",
        applies: |path| {
            product(path)
                && ["crates/protocol/", "crates/authz/", "crates/sealed/", "crates/reconcile/"]
                    .iter()
                    .any(|p| path.starts_with(p))
        },
        offends: |line| {
            ["SystemTime::now", "Instant::now", "now_utc", "std::env", "std::net", "getrandom::", "OsRng"]
                .iter()
                .any(|word| line.contains(word))
        },
    },
    TextRule {
        name: "files in pure crates",
        why: "protocol and reconcile touch no file; authz only in files, journal, log, policy::store and case",
        applies: |path| {
            product(path)
                && ["crates/protocol/", "crates/authz/", "crates/sealed/", "crates/reconcile/"]
                    .iter()
                    .any(|p| path.starts_with(p))
                && ![
                    "files.rs",
                    "files/layer.rs",
                    "journal.rs",
                    "log.rs",
                    "log/reserve.rs",
                    "policy/store.rs",
                    "case.rs",
                ]
                .iter()
                .any(|m| path == format!("crates/authz/src/{m}"))
        },
        offends: |line| {
            line.contains("std::fs") || line.contains("File::open") || line.contains("File::create")
        },
    },
    TextRule {
        name: "the agent reads",
        why: "every mutation goes through the warden; only the selftest that a person starts with a token of theirs makes some",
        applies: |path| {
            path.starts_with("crates/agent/src/")
                && path != "crates/agent/src/selftest/task/call.rs"
                && product(path)
        },
        offends: |line| {
            [".set_guest_config(", ".snapshot_create(", ".snapshot_rollback(", ".snapshot_delete("]
                .iter()
                .any(|call| line.contains(call))
                || (line.contains("client.start(") || line.contains("proxmox.start("))
        },
    },
    TextRule {
        name: "simulators",
        why: "nothing that is shipped knows the simulator",
        applies: |path| shipped(path) && product(path),
        offends: |line| line.contains("pve_sim") && !line.trim_start().starts_with("//"),
    },
];

fn sources() -> Vec<(String, String)> {
    let root = workspace();
    let mut found = Vec::new();
    let mut open = vec![root.join("crates"), root.join("selftest")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn text_violations(sources: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources {
        for rule in TEXT.iter().filter(|rule| (rule.applies)(path)) {
            // The test module at a file's end is not shipped; it is held to the process rules all the same.
            let whole = rule.name == "processes" || rule.name == "lint escapes";
            for (number, line) in text.lines().enumerate() {
                if !whole && line.trim() == "#[cfg(test)]" {
                    break;
                }
                let code = line.split("//").next().unwrap_or_default();
                if (rule.offends)(code) {
                    found.push(format!("{path}:{}: {} ({})", number + 1, rule.name, rule.why));
                }
            }
        }
    }
    found
}

#[test]
fn sources_keep_to_the_rules() {
    let mut sources = sources();
    // This file spells the offences out.
    sources.retain(|(path, _)| path != "selftest/scenarios/tests/fence.rs");
    assert_eq!(text_violations(&sources), Vec::<String>::new());
}

#[test]
fn each_text_rule_can_fail() {
    let offenders = [
        ("processes", "crates/agent/src/x.rs", "use std::process as p;"),
        ("processes", "crates/agent/src/x.rs", "use std::{io, process};"),
        ("processes", "crates/hub/src/x.rs", "tokio::process::Command::new(\"sh\")"),
        ("processes", "crates/hub/src/x.rs", "#[cfg(test)]\nuse std::process::Command;"),
        ("processes", "crates/cli/src/x.rs", "std::process::exit(0)"),
        ("lint escapes", "crates/agent/src/x.rs", "#[expect(clippy::disallowed_types, reason = \"x\")]"),
        (
            "lint escapes",
            "crates/privileged/src/x.rs",
            "#![expect(clippy::disallowed_types, reason = \"x\")]",
        ),
        (
            "no network for root's operations",
            "crates/privileged/src/x.rs",
            "tokio::net::TcpStream::connect(hub).await",
        ),
        ("no network for root's operations", "crates/anchored/src/x.rs", "std::net::UdpSocket::bind(any)"),
        ("insecure TLS", "crates/cli/src/x.rs", ".danger_accept_invalid_certs(true)"),
        ("insecure TLS", "crates/proxmox-client/src/wire/tls.rs", "Ok(HandshakeSignatureValid::assertion())"),
        ("pinned certificates", "crates/agent/src/x.rs", "Ok(ServerCertVerified::assertion())"),
        ("proof of authority", "crates/warden/src/x.rs", "let forged = Authorized { inner: order };"),
        ("proof of authority", "selftest/scenarios/src/x.rs", "Authorized { inner }"),
        ("clocks in pure crates", "crates/reconcile/src/x.rs", "let now = SystemTime::now();"),
        ("clocks in pure crates", "crates/authz/src/x.rs", "getrandom::fill(&mut bytes)"),
        ("files in pure crates", "crates/protocol/src/x.rs", "std::fs::read(path)"),
        ("files in pure crates", "crates/authz/src/verify.rs", "use std::fs;"),
        ("the agent reads", "crates/agent/src/x.rs", "client.snapshot_rollback(kind, vmid, &name)"),
        ("simulators", "crates/warden/src/x.rs", "use pve_sim::Sim;"),
    ];
    for rule in TEXT {
        assert!(
            offenders.iter().any(|(name, ..)| *name == rule.name),
            "{} is never shown failing",
            rule.name
        );
    }
    for (rule, path, text) in offenders {
        let found = text_violations(&[(path.to_owned(), text.to_owned())]);
        assert!(found.iter().any(|line| line.contains(rule)), "{path}: {text} went unnoticed: {found:?}");
    }
    let innocent = "use std::process::ExitCode; // std::process::Command would be refused";
    assert!(text_violations(&[("crates/hub/src/main.rs".into(), innocent.into())]).is_empty());
}

/// The lints that carry the fence are switched on everywhere, and no crate replaces the root's file.
#[test]
fn lints_are_on_everywhere() {
    let root = workspace();
    let read = |path: &Path| -> toml::Table { std::fs::read_to_string(path).unwrap().parse().unwrap() };
    let manifest = read(&root.join("Cargo.toml"));
    let lints = &manifest["workspace"]["lints"];
    assert_eq!(
        lints["rust"]["unsafe_code"].as_str(),
        Some("forbid"),
        "raw exec would be a way around the fence"
    );
    for lint in [
        "disallowed_types",
        "disallowed_methods",
        "allow_attributes",
        "allow_attributes_without_reason",
        "unwrap_used",
    ] {
        assert_eq!(lints["clippy"][lint].as_str(), Some("deny"), "{lint}");
    }
    let clippy = std::fs::read_to_string(root.join("clippy.toml")).unwrap();
    for banned in ["std::process::Command", "tokio::process::Command", "std::process::exit"] {
        assert!(clippy.contains(&format!("path = \"{banned}\"")), "{banned} is not banned in clippy.toml");
    }
    for member in manifest["workspace"]["members"].as_array().unwrap().iter().filter_map(|m| m.as_str()) {
        let folder = root.join(member);
        let manifest = read(&folder.join("Cargo.toml"));
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{member}");
        for name in ["clippy.toml", ".clippy.toml"] {
            assert!(!folder.join(name).exists(), "{member}: its own {name} would replace the root's rules");
        }
        // A feature is switched on for everybody: only selftest and the runner may ask tokio for processes.
        let asks = |table: &str| {
            manifest.get(table).and_then(|t| t.get("tokio")).and_then(|t| t.get("features")).is_some_and(
                |f| f.as_array().unwrap().iter().any(|f| matches!(f.as_str(), Some("process" | "full"))),
            )
        };
        let may = member.starts_with("selftest/") || member == "crates/runner";
        assert!(
            may || !(asks("dependencies") || asks("dev-dependencies")),
            "{member} asks tokio for processes"
        );
    }
}

/// A file over 600 lines is two files.
#[test]
fn no_room_is_crowded() {
    let crowded: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > 600)
        .map(|(path, text)| format!("{path}: {} lines", text.lines().count()))
        .collect();
    assert_eq!(crowded, Vec::<String>::new());
}
