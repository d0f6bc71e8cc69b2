//! What a job gets and what comes back.

use std::os::fd::AsFd as _;
use std::time::Duration;

use crate::common::*;
use runner::engine::job::{self, How, JobEnd, JobSpec, Script};
use runner::engine::{Engine, StartError, UserError};

pub(crate) fn spec(script: &str) -> JobSpec {
    JobSpec {
        script: Script::seal(script.as_bytes()).unwrap(),
        interpreter: "/bin/sh".parse().unwrap(),
        args: vec![],
        user: myself(),
        env: vec![],
        timeout: Duration::from_secs(20),
        max_output: 64 * 1024,
    }
}

pub(crate) async fn run_on(engine: &Engine, spec: JobSpec) -> JobEnd {
    let end = job::start(engine, spec).await.unwrap().wait().await;
    assert_eq!(end.survivors, Vec::<i32>::new());
    end
}

pub(crate) async fn run(script: &str) -> JobEnd {
    run_on(&engine(), spec(script)).await
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn exit_code_and_both_streams_come_back() {
    let end = run("echo out; echo err >&2; sleep 0.05; exit 42").await;
    assert_eq!(end.how, How::Exited(42));
    assert_eq!((text(&end.stdout), text(&end.stderr)), ("out\n".into(), "err\n".into()));
    assert!(!end.truncated && end.leftovers_killed == 0);
    assert!(
        end.duration >= Duration::from_millis(50) && end.duration < Duration::from_secs(5),
        "{:?}",
        end.duration
    );
}

#[tokio::test]
async fn a_signal_is_told_apart_from_an_exit_code() {
    assert_eq!(run("kill -USR1 $$").await.how, How::Signaled(10));
    assert_eq!(run("exit 138").await.how, How::Exited(138));
    // The whole process group of the script, which the supervisor must not be in.
    assert_eq!(run("kill -TERM 0; sleep 1000").await.how, How::Signaled(15));
}

#[tokio::test]
async fn arguments_arrive_as_they_are() {
    let mut spec = spec("printf '[%s]' \"$@\"");
    spec.args = ["a b", "", "$HOME `id` 'x\"", "--"].map(|arg| arg.parse().unwrap()).to_vec();
    assert_eq!(text(&run_on(&engine(), spec).await.stdout), "[a b][][$HOME `id` 'x\"][--]");
}

#[tokio::test]
async fn scripts_and_output_are_bytes() {
    let mut bytes = b"printf '\\000\\377\\n'; : '\xff\xfe'".to_vec();
    bytes.extend_from_slice(&[b'#', 0x80, 0xff, b'\n']);
    let mut spec = spec("");
    spec.script = Script::seal(&bytes).unwrap();
    let end = run_on(&engine(), spec).await;
    assert_eq!((end.how, end.stdout), (How::Exited(0), vec![0, 0xff, b'\n']));
}

#[tokio::test]
async fn too_much_output_is_dropped_and_blocks_nobody() {
    let end = run("head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2; exit 3").await;
    assert_eq!(end.how, How::Exited(3));
    assert!(end.truncated);
    assert_eq!(end.stdout.len() + end.stderr.len(), 64 * 1024);
    let end = run("head -c 65536 /dev/zero").await;
    assert!(!end.truncated && end.stdout.len() == 64 * 1024, "exactly the limit is not too much");
}

#[tokio::test]
async fn standard_input_is_empty() {
    let end = run("cat; echo $?; readlink /proc/self/fd/0").await;
    assert_eq!(text(&end.stdout), "0\n/dev/null\n");
}

#[tokio::test]
async fn the_environment_is_exactly_the_list() {
    let mut spec = spec("cat /proc/$$/environ");
    spec.env = vec![
        ("COLOUR".parse().unwrap(), "red green".parse().unwrap()),
        ("LANG".parse().unwrap(), "de_DE.UTF-8".parse().unwrap()),
    ];
    let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    let end = run_on(&engine(), spec).await;
    let mut found: Vec<&str> = std::str::from_utf8(&end.stdout).unwrap().split_terminator('\0').collect();
    found.sort_unstable();
    let (home, shell) = (me.dir.display(), me.shell.display());
    assert_eq!(
        found,
        [
            "COLOUR=red green",
            &format!("HOME={home}"),
            "LANG=de_DE.UTF-8",
            &format!("LOGNAME={}", me.name),
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            &format!("SHELL={shell}"),
            &format!("USER={}", me.name),
        ]
    );
}

#[tokio::test]
async fn nothing_else_is_inherited() {
    // What a careless parent leaves open: not close-on-exec.
    let leak = std::fs::File::open("/dev/zero").unwrap();
    rustix::io::fcntl_setfd(leak.as_fd(), rustix::io::FdFlags::empty()).unwrap();
    let end = run("pwd; umask; ulimit -c; ulimit -H -c; ls -l /proc/$$/fd").await;
    let said = text(&end.stdout);
    let lines: Vec<&str> = said.lines().collect();
    let home = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().dir;
    assert_eq!(lines[..4], [home.to_str().unwrap(), "0022", "0", "0"], "{said}");
    let targets: Vec<&str> = lines[5..].iter().map(|line| line.split(" -> ").last().unwrap()).collect();
    let scripts = targets.iter().filter(|target| target.starts_with("/memfd:writ-")).count();
    let pipes = targets.iter().filter(|target| target.starts_with("pipe:")).count();
    // The script twice: as it was handed over, and as the shell has opened it.
    assert_eq!((targets.len(), scripts, pipes), (5, 2, 2), "{said}");
    assert!(targets.contains(&"/dev/null"), "{said}");
}

#[test]
fn signals_are_as_a_program_expects_them() {
    let mut actor = act_ignoring_signals("signals", &[]);
    let said: Vec<String> = serde_json::from_str(&actor.says()).unwrap();
    let mask = |name: &str| {
        let digits = said.iter().find_map(|line| line.strip_prefix(name)).unwrap();
        // 32 and 33 belong to the C library, which lets nobody change them back.
        u64::from_str_radix(digits.trim(), 16).unwrap() & !(0b11 << 31)
    };
    assert_eq!((mask("SigBlk:"), mask("SigIgn:")), (0, 0), "{said:?}");
}

#[tokio::test]
async fn the_script_cannot_be_changed_by_itself() {
    let script = "for how in 'printf X 1<>' 'printf X >' 'true >' 'printf X >>'; do\n\
                  eval \"$how \\\"\\$0\\\"\" 2>/dev/null && echo changed by $how\ndone\n\
                  truncate -s 0 \"$0\" 2>/dev/null && echo truncated\nchmod 755 \"$0\" 2>/dev/null; cat \"$0\"\n";
    assert_eq!(text(&run(script).await.stdout), script);
}

#[tokio::test]
async fn who_cannot_be_is_refused_before_anything_starts() {
    let nobody: protocol::UserName = "no-such-user-here".parse().unwrap();
    let refused = job::start(&engine(), JobSpec { user: nobody, ..spec("") }).await.unwrap_err();
    assert!(refused.nothing_ran());
    assert!(matches!(refused, StartError::User(UserError::Unknown(_))), "{refused}");
    let interpreter = "/no/such/interpreter".parse().unwrap();
    let refused = job::start(&engine(), JobSpec { interpreter, ..spec("") }).await.unwrap_err();
    assert!(refused.nothing_ran());
    let why = refused.to_string();
    assert!(
        why.starts_with("it was not started: /no/such/interpreter cannot be executed (No such file"),
        "{why}"
    );
    if !is_root() {
        let refused = job::start(&engine(), JobSpec { user: "root".parse().unwrap(), ..spec("") }).await;
        assert!(matches!(refused.unwrap_err(), StartError::User(UserError::NotOneself(_))));
    }
}

#[tokio::test]
async fn root_becomes_the_user_with_all_groups() {
    if !needs_root("root_becomes_the_user_with_all_groups") {
        return;
    }
    let user = TemporaryUser::create(2);
    let script = "id -u; id -ru; id -G; pwd; echo $HOME; grep -E '^(Uid|Gid|CapEff)' /proc/self/status; \
                  cat \"$0\" >/dev/null && echo read";
    let end = run_on(&engine(), JobSpec { user: user.name.clone(), ..spec(script) }).await;
    let said = text(&end.stdout);
    let lines: Vec<&str> = said.lines().collect();
    let (uid, home) = (user.uid.to_string(), user.home.to_str().unwrap());
    let mut groups: Vec<u32> = lines[2].split(' ').map(|id| id.parse().unwrap()).collect();
    groups.sort_unstable();
    assert_eq!((lines[0], lines[1]), (&uid[..], &uid[..]), "{said}{}", text(&end.stderr));
    assert_eq!(groups, user.group_ids());
    assert_eq!(lines[3..5], [home, home]);
    assert_eq!(lines[5], format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"));
    assert!(lines.contains(&"CapEff:\t0000000000000000") && lines.contains(&"read"), "{said}");
    // A home that cannot be entered is no reason not to run.
    std::fs::remove_dir_all(&user.home).unwrap();
    let end = run_on(&engine(), JobSpec { user: user.name.clone(), ..spec("pwd") }).await;
    assert_eq!(text(&end.stdout), "/\n");
}
