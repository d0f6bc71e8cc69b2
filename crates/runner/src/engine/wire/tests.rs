use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use super::*;

fn exec() -> ExecSpec {
    ExecSpec {
        program: "/bin/sh".into(),
        args: vec!["a\nb".into(), "\u{0}é\"".into()],
        env: vec![("A".into(), "b=c".into())],
        identity: Some(Identity { name: "anna".into(), uid: 1000, gid: 1000 }),
        cwd: "/home/anna".into(),
        stdio: Stdio::Script,
    }
}

fn spec() -> SuperviseSpec {
    SuperviseSpec { token: Token::random().unwrap(), cgroup: true, limit_ms: 1, exec: exec(), dir: None }
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

fn take(bytes: &[u8]) -> Result<SuperviseSpec, WireError> {
    let (mut ours, theirs) = pair();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || {
        // The other end may have had enough.
        let _ = ours.write_all(&bytes);
    });
    let taken = receive(theirs.as_fd());
    drop(theirs);
    writer.join().unwrap();
    taken.map(|(spec, _)| spec)
}

#[test]
fn a_specification_arrives_with_its_descriptors() {
    let (ours, theirs) = pair();
    let (mut read, write) = pair();
    let sent = spec();
    send(ours.as_fd(), &sent, &[write.as_fd(), read.as_fd(), ours.as_fd()]).unwrap();
    drop(write);
    let (got, mut fds) = receive::<SuperviseSpec>(theirs.as_fd()).unwrap();
    assert_eq!((got, fds.len()), (sent, 3));
    for fd in &fds {
        let flags = rustix::io::fcntl_getfd(fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    let mut write = std::fs::File::from(fds.remove(0));
    write.write_all(b"in order").unwrap();
    let mut said = [0; 8];
    read.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"in order");
}

#[test]
fn the_longest_specification_that_can_be_ordered_fits() {
    let (ours, theirs) = pair();
    let word = "\\\"".repeat(256);
    let mut long = spec();
    long.exec.args = vec![word.clone(); 64];
    long.exec.env = vec![("N".repeat(64), word); 64];
    let sent = long.clone();
    let sender =
        std::thread::spawn(move || send(ours.as_fd(), &sent, &[]).map_err(|error| error.to_string()));
    assert_eq!(receive::<SuperviseSpec>(theirs.as_fd()).unwrap().0, long);
    sender.join().unwrap().unwrap();
    let (ours, _theirs) = pair();
    long.exec.args = vec!["x".repeat(512); 600];
    assert!(matches!(send(ours.as_fd(), &long, &[]), Err(WireError::Malformed("too long"))));
}

#[test]
fn hostile_lines_are_refused() {
    let good = serde_json::to_string(&spec()).unwrap();
    assert!(take(format!("{good}\n").as_bytes()).is_ok());
    let value: serde_json::Value = serde_json::from_str(&good).unwrap();
    let changed = |pointer: &str, key: &str, to: serde_json::Value| {
        let mut value = value.clone();
        value.pointer_mut(pointer).unwrap()[key] = to;
        format!("{value}\n")
    };
    for bad in [
        "\n".to_owned(),
        "null\n".into(),
        format!("{good}\n{good}\n"),
        format!("{good}\nx"),
        format!("{}\n", "[".repeat(200_000)),
        changed("", "more", 1.into()),
        changed("", "token", "../x".into()),
        changed("", "limit_ms", (-1).into()),
        changed("", "limit_ms", 1.5.into()),
        changed("/exec", "shell", "/bin/sh".into()),
        changed("/exec", "stdio", "tty".into()),
        changed("/exec/identity", "uid", (-1).into()),
        changed("/exec/identity", "uid", 4_294_967_296u64.into()),
        changed("/exec/identity", "groups", "all".into()),
    ] {
        assert!(take(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(80)]);
    }
    assert!(matches!(take(b""), Err(WireError::Closed)));
    assert!(matches!(take(good.as_bytes()), Err(WireError::Closed)), "no line without its end");
    assert!(matches!(take(&vec![b' '; 2 * MAX_LINE]), Err(WireError::Malformed("too long"))));
}

#[test]
fn more_descriptors_than_there_is_a_use_for_are_refused() {
    let (ours, theirs) = pair();
    let fd = ours.as_fd();
    assert!(send(fd, &spec(), &[fd; 4]).is_err(), "not even sent");
    for _ in 0..2 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let three = [fd; 3];
        assert!(control.push(SendAncillaryMessage::ScmRights(&three)));
        rustix::net::sendmsg(fd, &[IoSlice::new(b" ")], &mut control, SendFlags::empty()).unwrap();
    }
    (&ours).write_all(b"\n").unwrap();
    let taken = receive::<SuperviseSpec>(theirs.as_fd());
    assert!(matches!(taken, Err(WireError::Malformed("too many descriptors"))));
}

#[test]
fn reports_with_anything_more_are_refused() {
    for bad in [
        r#"{"report":"started","main":{"pid":7,"start":1}}{"#,
        r#"{"report":"started","main":{"pid":0,"start":1},"cgroup":null}"#,
        r#"{"report":"ended","end":{"end":"exited"},"duration_ms":1,"killed":0,"survivors":[]}"#,
        r#"{"report":"ended","end":{"end":"exited","code":0,"x":1},"duration_ms":1,"killed":0,"survivors":[]}"#,
        r#"{"report":"ended","end":{"end":"exited","code":0},"duration_ms":1,"killed":-1,"survivors":[]}"#,
        r#"{"report":"fine"}"#,
        r#"{"stage":"ready"}"#,
    ] {
        assert!(serde_json::from_str::<Report>(bad).is_err(), "{bad}");
    }
    for bad in [r#"{"stage":"ready","x":1}"#, r#"{"stage":"failed"}"#, r#"{"stage":"failed","why":1}"#] {
        assert!(serde_json::from_str::<StageReport>(bad).is_err(), "{bad}");
    }
}

#[test]
fn tokens_name_nothing_else() {
    for bad in [
        "",
        ".",
        "..",
        "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcde/",
        "0123456789ABCDEF0123456789abcdef",
    ] {
        assert_eq!(bad.parse::<Token>(), Err(NotAToken), "{bad:?}");
    }
    let (a, b) = (Token::random().unwrap(), Token::random().unwrap());
    assert!(a != b && a.as_str().parse::<Token>().unwrap() == a);
}

/// The runner's end is made asynchronous before anything is sent: what fails later could not be told from a
/// program that never ran.
#[test]
fn a_long_line_goes_through_a_socket_that_does_not_block() {
    let (ours, theirs) = pair();
    ours.set_nonblocking(true).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, 4096).unwrap();
    let mut spec = spec();
    spec.exec.args = vec!["x".repeat(512); 128];
    let wanted = spec.clone();
    let reader = std::thread::spawn(move || receive::<SuperviseSpec>(theirs.as_fd()));
    send(ours.as_fd(), &spec, &[]).unwrap();
    assert_eq!(reader.join().unwrap().unwrap().0, wanted);
    let (ours, theirs) = pair();
    ours.set_nonblocking(true).unwrap();
    drop(theirs);
    assert!(matches!(send(ours.as_fd(), &spec, &[]), Err(WireError::Closed)));
}
