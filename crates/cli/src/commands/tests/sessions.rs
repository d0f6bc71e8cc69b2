//! `writ connect` and `writ sessions` against a host that really opens, and against lies.

use std::future::pending;
use std::sync::{Arc, Mutex};

use authz::order::{Params, SessionMode, SessionParams};
use authz::{Event, Namespace, Order, Outcome, PublicKey, RefusalCode};
use protocol::api::{TunnelAnswer, TunnelView};
use protocol::tunnel::{HEADER, close_frame, data_header};
use protocol::{Envelope, HostId, Sha256, TunnelId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::super::connect::serve;
use super::super::fake_hub::{no, ok};
use super::super::{Context, dispatch};
use super::{Desk, text};
use crate::agent::Agent;
use crate::args::Command;
use crate::error::{Answer, Failure};
use crate::judge::JudgeError;
use crate::testing::{alice, ended, mallory, name, receipt};

fn tunnel() -> TunnelId {
    TunnelId::from_bytes([7; 16])
}

/// The session's SSH host key: any will do here.
fn session_key() -> PublicKey {
    mallory().public()
}

fn params(envelope: &Envelope) -> SessionParams {
    let armored = &envelope.sigs[0];
    authz::sshsig::verify(armored, Namespace::Session, &envelope.payload.0, &alice().public()).unwrap();
    let order = Order::decode(&envelope.payload.0).unwrap();
    assert!(order.exp - order.nbf <= 300);
    let Params::SessionOpen(params) = order.params else { panic!("not a session") };
    params
}

fn ready(op: Sha256) -> Event {
    Event::SessionReady { op, host_key: session_key().to_wire() }
}

impl Desk {
    fn opens(&self, host: impl Fn(&Envelope) -> (u16, String) + Send + 'static) {
        self.hub.says.lock().unwrap().opens = Some(Box::new(host));
    }

    fn answers(&self, answer: impl Fn(&Envelope) -> TunnelAnswer + Send + 'static) {
        self.opens(move |envelope| ok(&answer(envelope)));
    }

    fn opens_honestly(&self) {
        self.answers(|envelope| {
            params(envelope);
            TunnelAnswer::Ready { id: tunnel(), receipt: receipt(1, None, ready(envelope.id())) }
        });
    }

    /// The other end of the data connection, once it is dialled.
    fn far_end(&self) -> DuplexStream {
        let (near, far) = duplex(1 << 20);
        let relay = move |mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>| {
            let mut near = near;
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut near).await });
        };
        self.hub.says.lock().unwrap().data = Some(Box::new(relay));
        far
    }

    /// `writ connect …` between the test and the hub.
    fn connect(&self, words: &[&str]) -> (DuplexStream, tokio::task::JoinHandle<Result<Answer, Failure>>) {
        let cli = self.parse(&[&["connect"], words].concat());
        let Command::Connect(args) = cli.command else { panic!("not connect") };
        let ctx = Context { home: cli.home, quiet: true, verbose: false, agent: Agent::default() };
        let (client, near) = duplex(1 << 20);
        let task = tokio::spawn(async move {
            let (input, output) = tokio::io::split(near);
            serve(&ctx, args, input, output, pending()).await
        });
        (client, task)
    }

    fn dialled(&self) -> bool {
        self.hub.says.lock().unwrap().heard("GET", "/data").is_some()
    }
}

#[tokio::test]
async fn a_session_is_relayed_both_ways_and_leaves_no_host_key() {
    let desk = Desk::ready().await;
    let directory = desk.path("s");
    let seen = Arc::new(Mutex::new(None));
    let (at, into) = (directory.clone(), seen.clone());
    desk.answers(move |envelope| {
        let params = params(envelope);
        // ssh looks for the key at any time; nobody may be believed yet.
        let public = std::fs::read_to_string(at.join("id_ed25519.pub")).unwrap();
        assert_eq!(PublicKey::from_line(&public).unwrap().to_wire(), params.key);
        assert!(at.join("id_ed25519").exists() && !at.join("known_hosts").exists());
        let answer = TunnelAnswer::Ready { id: tunnel(), receipt: receipt(1, None, ready(envelope.id())) };
        *into.lock().unwrap() = Some(params);
        answer
    });
    let mut far = desk.far_end();
    let words = ["web1", "--user", "www-data", "--session-dir", text(&directory), "--forward", "[::1]:22"];
    let (mut client, task) = desk.connect(&[&words[..], &["--idle", "5s", "--max", "1h"]].concat());

    client.write_all(b"SSH-2.0-client\r\n").await.unwrap();
    let mut frame = [0; HEADER + 16];
    far.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[..HEADER], data_header(16).unwrap());
    assert_eq!(&frame[HEADER..], b"SSH-2.0-client\r\n");
    let known = std::fs::read_to_string(directory.join("known_hosts")).unwrap();
    assert_eq!(known, format!("writ-web1 {}\n", session_key()));
    let says = [&data_header(5).unwrap()[..], b"hello"].concat();
    far.write_all(&says).await.unwrap();
    let mut got = [0; 5];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");

    far.write_all(&close_frame("it was idle for 5 s")).await.unwrap();
    let answer = task.await.unwrap().unwrap();
    assert_eq!(answer.notes, ["the host ended the session: it was idle for 5 s"]);
    assert_eq!(answer.status, 255);
    // The key stays, as the next ssh may have read it already; it opens nothing without a new grant.
    assert!(!directory.join("known_hosts").exists(), "no host key outlives its session");
    let params = seen.lock().unwrap().take().unwrap();
    assert_eq!((params.user.as_str(), params.mode), ("www-data", SessionMode::Full {}));
    assert_eq!((params.idle_s, params.max_s, params.forwards[0].as_str()), (5, 3_600, "[::1]:22"));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_session() {
    let desk = Desk::ready().await;
    desk.opens_honestly();
    let mut far = desk.far_end();
    let (client, task) = desk.connect(&["web1", "--mode", "exec", "--command", "id"]);
    drop(client);
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, close_frame("the operator's client ended the connection"));
    assert_eq!(task.await.unwrap().unwrap(), Answer::default());
    // The default directory is the host's own.
    let left = std::fs::read_dir(desk.path("home/sessions/web1")).unwrap().count();
    assert_eq!(left, 4, "the locks and the key");
}

#[tokio::test]
async fn a_signal_before_the_session_says_what_becomes_of_it() {
    let desk = Desk::ready().await;
    let cli = desk.parse(&["connect", "web1"]);
    let Command::Connect(args) = cli.command else { panic!("not connect") };
    let ctx = Context { home: cli.home, quiet: true, verbose: false, agent: Agent::default() };
    let (_client, near) = duplex(64);
    let (input, output) = tokio::io::split(near);
    let error = serve(&ctx, args, input, output, std::future::ready(())).await.unwrap_err();
    assert!(matches!(error, Failure::Interrupted(_)) && !desk.path("home/sessions/web1/id_ed25519").exists());
}

#[tokio::test]
async fn a_ready_that_the_host_did_not_sign_is_refused_before_any_byte() {
    let desk = Desk::ready().await;
    type Lie = Box<dyn Fn(&Envelope) -> protocol::Signed + Send>;
    let lies: [(&str, Lie); 5] = [
        ("another host", Box::new(|envelope| receipt(2, None, ready(envelope.id())))),
        (
            "a thief",
            Box::new(|envelope| {
                let host = crate::testing::believed(1, "web1");
                let real = receipt(1, None, ready(envelope.id()));
                authz::Receipt::verify(&real, host.id(), &host.key).unwrap().sign(&mallory())
            }),
        ),
        ("an old session", Box::new(|_| receipt(1, None, ready(Sha256::of(b"another"))))),
        (
            "another key in it",
            Box::new(|envelope| {
                let mut real = receipt(1, None, ready(envelope.id()));
                let text = String::from_utf8(real.payload.0.clone()).unwrap();
                let (ours, theirs) = (session_key().to_string(), alice().public().to_string());
                real.payload.0 = text.replace(&ours, &theirs).into_bytes();
                real
            }),
        ),
        ("an end", Box::new(|envelope| receipt(1, None, ended(envelope.id(), crate::testing::done())))),
    ];
    for (what, lie) in lies {
        desk.answers(move |envelope| TunnelAnswer::Ready { id: tunnel(), receipt: lie(envelope) });
        let (mut client, task) = desk.connect(&["web1"]);
        client.write_all(b"SSH-2.0-client\r\n").await.unwrap();
        let error = task.await.unwrap().unwrap_err();
        assert!(matches!(error, Failure::Judge(_)), "{what}: {error}");
        assert_eq!(
            matches!(error, Failure::Judge(JudgeError::Forged { .. })),
            !what.starts_with("an "),
            "{what}: {error}"
        );
        assert!(!desk.dialled(), "{what}: the data connection was dialled");
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert!(got.is_empty(), "{what}: bytes reached the client");
        assert!(!desk.path("home/sessions/web1/known_hosts").exists(), "{what}");
    }
}

#[tokio::test]
async fn a_session_that_does_not_open_says_why() {
    let desk = Desk::ready().await;
    let refusal = |code, why: &str| {
        let why: protocol::text::SafeText = why.parse().unwrap();
        move |op| receipt(1, None, ended(op, Outcome::Refused { code, why: why.clone() }))
    };
    let user = refusal(RefusalCode::User, "the account does not exist");
    let unsigned = refusal(RefusalCode::Unsigned, "there is no signature");
    let lost = |op| {
        let why = "it crashed".parse().unwrap();
        receipt(1, None, ended(op, Outcome::Unknown { upid: None, why }))
    };
    let forged = |op| receipt(2, None, ended(op, crate::testing::done()));
    type Says = super::super::fake_hub::Opener;
    let failure = |status, code: &str| -> Says {
        let denial = no(status, code);
        Box::new(move |_| denial.clone())
    };
    let answers: [(Says, &str); 11] = [
        (
            Box::new(move |e| ok(&TunnelAnswer::Refused { receipt: user(e.id()) })),
            "refused (user): the account",
        ),
        (
            Box::new(move |e| ok(&TunnelAnswer::Refused { receipt: unsigned(e.id()) })),
            "the hub altered the order",
        ),
        (Box::new(move |e| ok(&TunnelAnswer::Refused { receipt: forged(e.id()) })), "forged receipt"),
        (
            Box::new(|e| ok(&TunnelAnswer::Refused { receipt: receipt(1, None, ready(e.id())) })),
            "shows no refusal by it: the hub is wrong or lying",
        ),
        (
            Box::new(|_| ok(&TunnelAnswer::Trouble { problem: "no answer\u{1b}[2J".into() })),
            "did not come about: no answer?[2J (its word, not signed); should host 'web1' have opened",
        ),
        (failure(409, "session_exists"), "writ sessions close ID"),
        // Nobody signed that nothing was opened.
        (failure(409, "session_exists"), "should host 'web1' have opened a session"),
        (
            failure(503, "offline"),
            "the hub refuses (offline): in the hub's words; should host 'web1' have opened",
        ),
        (failure(401, "bad_token"), "`writ login`; should host 'web1' have opened"),
        (
            Box::new(move |e| ok(&TunnelAnswer::Refused { receipt: lost(e.id()) })),
            "any more, or there never was: unknown: it crashed",
        ),
        (Box::new(|_| (200, "{}".into())), "it ends by itself after 10 min idle"),
    ];
    for (answer, says) in answers {
        desk.opens(answer);
        let error = desk.connect(&["web1"]).1.await.unwrap().unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\u{1b}'), "{says}: {error}");
        assert!(!desk.dialled());
    }
    // The session of a moment ago: asked again, with the same order.
    let tries = Mutex::new(0);
    let gone = failure(409, "session_exists");
    let full = refusal(RefusalCode::Sessions, "alice has 1 session(s) open on this host");
    desk.opens(move |envelope| {
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        match *tries {
            1 => return gone(envelope),
            2 => return ok(&TunnelAnswer::Refused { receipt: full(envelope.id()) }),
            _ => {}
        }
        ok(&TunnelAnswer::Ready { id: tunnel(), receipt: receipt(1, None, ready(envelope.id())) })
    });
    // The hub has forgotten it meanwhile.
    let error = desk.connect(&["web1"]).1.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("status 404") && desk.dialled(), "{error}");
}

#[tokio::test]
async fn two_sessions_at_once_share_a_key_and_it_stays() {
    let desk = Desk::ready().await;
    desk.opens_honestly();
    let mut far = desk.far_end();
    let (mut client, first) = desk.connect(&["web1"]);
    client.write_all(b"x").await.unwrap();
    far.read_u8().await.unwrap();
    let (key, known) =
        (desk.path("home/sessions/web1/id_ed25519"), desk.path("home/sessions/web1/known_hosts"));
    let before = std::fs::read(&key).unwrap();
    let mut far2 = desk.far_end();
    let (mut client2, second) = desk.connect(&["web1"]);
    client2.write_all(b"y").await.unwrap();
    far2.read_u8().await.unwrap();
    assert_eq!(std::fs::read(&key).unwrap(), before);
    assert_eq!(std::fs::read_to_string(&known).unwrap().lines().count(), 2);
    let keys: Vec<_> = {
        let says = desk.hub.says.lock().unwrap();
        let asked =
            says.heard.iter().filter(|(method, path, _)| method == "POST" && path.ends_with("/tunnels"));
        asked.map(|(_, _, body)| params(&serde_json::from_slice(body).unwrap()).key).collect()
    };
    assert!(keys.len() == 2 && keys[0] == keys[1]);
    far.write_all(&close_frame("the session lasted 1.2 s and ended: the client left")).await.unwrap();
    assert_eq!(first.await.unwrap().unwrap(), Answer::default());
    assert!(key.exists() && known.exists());
    far2.write_all(&close_frame("")).await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), Answer::default());
    assert!(key.exists() && !known.exists());
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_asked() {
    let desk = Desk::ready().await;
    let asked = desk.hub.says.lock().unwrap().heard.len();
    for (words, says) in [
        (vec!["connect", "web1", "--command", "id"], "--mode exec"),
        (vec!["connect", "web1", "--mode", "forward"], "-L"),
        (vec!["ssh", "--mode", "forward", "web1", "-N"], "-L"),
        (vec!["ssh", "web1", "-D", "1080"], "-D cannot be used"),
        (vec!["ssh", "web1", "-NR", "1:a:2"], "-R cannot be used"),
        (vec!["ssh", "web1", "-L", "1:/run/x"], "no sockets"),
        (vec!["cp", "a", "b"], "HOST:PATH"),
        (vec!["cp", "web1:a", "web2:b"], "only one"),
        (vec!["cp", "a", "root@web1:b"], "is no host"),
    ] {
        let error = desk.run(&words).await.unwrap_err().to_string();
        assert!(error.contains(says), "{words:?}: {error}");
    }
    assert_eq!(desk.hub.says.lock().unwrap().heard.len(), asked);
}

#[tokio::test]
async fn the_block_for_ssh_needs_no_hub() {
    let desk = Desk::ready().await;
    let asked = desk.hub.says.lock().unwrap().heard.len();
    let words = ["connect", "--ssh-config", "web1", "--user", "www-data", "--forward", "127.0.0.1:8006"];
    let block = desk.run(&words).await.unwrap().stdout;
    let directory = desk.path("home/sessions/web1");
    for says in [
        "Host web1.writ\n",
        "    User www-data\n",
        &format!("    IdentityFile \"{}\"\n", directory.join("id_ed25519").display()),
        "'--forward' '127.0.0.1:8006'",
        &format!("'--home' '{}' ", desk.path("home").display()),
    ] {
        assert!(block.contains(says), "{says:?} is missing in\n{block}");
    }
    assert_eq!(desk.hub.says.lock().unwrap().heard.len(), asked);
}

#[tokio::test]
async fn sessions_are_listed_and_closed() {
    let desk = Desk::ready().await;
    let view = TunnelView {
        id: tunnel(),
        host_id: HostId::from_bytes([1; 16]),
        op: Sha256::of(b"op"),
        operator: name("alice"),
        opened_at: 1_000,
        closed_at: Some(2_000),
        why: Some("idle\u{1b}[2J".into()),
        bytes_to_host: 2_048,
        bytes_from_host: 5,
    };
    assert!(desk.run(&["sessions", "web1"]).await.unwrap().stdout.contains("No sessions"));
    let open = TunnelView { id: TunnelId::from_bytes([8; 16]), closed_at: None, ..view.clone() };
    desk.hub.says.lock().unwrap().tunnels = vec![view.clone(), open];
    let text = desk.run(&["sessions", "web1"]).await.unwrap().stdout;
    for says in ["UNSIGNED", "alice", "2.0 KiB", ": idle?[2J", "open for", &tunnel().to_string()] {
        assert!(text.contains(says), "{says:?} is missing in\n{text}");
    }
    let json = desk.run(&["sessions", "web1", "--json"]).await.unwrap().stdout;
    let back: Vec<TunnelView> = serde_json::from_str(&json).unwrap();
    assert_eq!(back[0], view);
    let closed = desk.run(&["sessions", "close", &tunnel().to_string()]).await.unwrap().stdout;
    assert!(closed.contains("is closed, says the hub"), "{closed}");
    desk.hub.says.lock().unwrap().tunnels[0].host_id = HostId::from_bytes([2; 16]);
    let error = desk.run(&["sessions", "web1"]).await.unwrap_err().to_string();
    assert!(error.contains("wrong or lying"), "{error}");
    // Nobody needs a list of all hosts to be told what is missing.
    let error = dispatch(desk.parse(&["sessions", "db9"]), Agent::default()).await.unwrap_err().to_string();
    assert!(error.contains("there is no host 'db9'"), "{error}");
}
