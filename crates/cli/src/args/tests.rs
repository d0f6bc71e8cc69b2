use super::*;
use clap::CommandFactory as _;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn examples_of_the_help_parse() {
    for line in [
        "writ policy init --operator alice=a.pub --operator bob=b.pub --guests 100-199 -o p.json",
        "writ policy import --krl revoked.krl -o next.json",
        "writ policy import --krl revoked.krl next.json --ignore-unknown-sha1",
        "writ policy import --allowed-signers allowed_signers next.json",
        "writ login --hub https://hub.example:8440 --pin SPKI:3F:00:000000000000000000000000000000000000000000000000000000000000 --key k --policy p",
        "writ enroll new --name web1 --site berlin --code-only",
        "writ enroll approve web1 --wait 60s",
        "writ hosts --json",
        "writ op snapshot.rollback web1 101 before-update --start --reason x --ticket OPS-118 --valid 10m",
        "writ op guest.tag web1 101 a b c -o o.json",
        "writ submit order.json --sig a.sig --sig b.sig --timeout 30m",
        "writ submit x --raw web1",
        "writ receipts web1 --json --home /tmp/x -q",
        "writ audit log web1 --json",
        "writ audit export web1 ./web1-log",
        "writ audit verify ./web1-log --host-key key.pub --json",
        "writ audit checkpoint web1",
        "writ audit compare mine.note",
        "writ audit compare --checkpoint mine.note",
        "writ audit forget web1",
        "writ run web1 -- zpool status -x",
        "writ run web1 --user www-data --timeout 60s -- id",
        "writ run web1 --script update.sh --env DRY_RUN=1 --env A= -- --all",
        "writ run web1 --script - --interpreter /usr/bin/python3 --max-output 2MiB --raw --reason x --key id.pub",
        "writ ssh web1",
        "writ ssh --user www-data web1 -t top -d 1",
        "writ ssh --mode forward web1 -N -L 8006:127.0.0.1:8006",
        "writ cp -rp --user bob web1:/etc/* ./logs",
        "writ connect --ssh-config --user bob web1",
        "writ connect web1 --mode exec --command id --idle 5s --max 24h --forward a:1 --forward [::1]:2",
        "writ sessions web1 --json",
        "writ verify-case corpus/armor-crlf/1 corpus/good-keys/1 --json",
        "writ sessions close 00112233445566778899aabbccddeeff",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_words_are_refused_with_the_rule() {
    for (line, says) in [
        ("writ op snapshot.rollback web1 99 before-update", "100 to 999999999"),
        ("writ op snapshot.rollback web1 101 current", "not current"),
        ("writ op snapshot.rollback WEB1 101 ok-name", "a-z"),
        ("writ op guest.tag web1 101 UPPER", "a-z"),
        ("writ op guest.explode web1 101", "unrecognized"),
        ("writ op guest.destory web1 101", "guest.destroy"),
        ("writ op guest.destroy web1", "<VMID>"),
        ("writ op guest.config web1 101", "--set <KEY=VALUE>|--unset <KEY>"),
        ("writ op guest.config web1 101 --set onboot", "KEY=VALUE"),
        ("writ op guest.config web1 101 --set args=-x", "root only"),
        ("writ op guest.config web1 101 --unset memory", "guest.resize"),
        ("writ op guest.resize web1 101", "--cores <N>|--sockets <N>|--memory <SIZE>|--swap <SIZE>"),
        ("writ op guest.resize web1 101 --memory 4096", "a unit"),
        ("writ op guest.grow web1 101 scsi0", "<SIZE>"),
        ("writ op guest.grow web1 101 scsi31 +1G", "a slot such as scsi0"),
        ("writ op guest.grow web1 101 scsi0 +1", "a unit"),
        ("writ op guest.shutdown web1 101 --timeout 2h", "1s to 60m"),
        ("writ op guest.create web1 301", "--from <VOLUME>|--clone <VMID>|--backup <VOLUME>"),
        (
            "writ op guest.create web1 301 --from a:vztmpl/x --name a --storage b1 --cores 1 --memory 1G",
            "STORAGE:NAME",
        ),
        (
            "writ op guest.create web1 301 --from aa:vztmpl/x --name a --storage b1 --cores 1 --memory 1G",
            "--sha256",
        ),
        ("writ op guest.create web1 301 --clone 9000 --backup aa:backup/x --name a", "cannot be used with"),
        (
            "writ op guest.create web1 301 --clone 9000 --vlan 3 --name a --storage b1 --cores 1 --memory 1G",
            "--bridge",
        ),
        ("writ op backup.create web1 101", "--storage <STORAGE>"),
        (
            "writ op backup.create web1 101 --storage local --mode suspend",
            "[possible values: snapshot, stop]",
        ),
        ("writ op backup.delete web1 101", "<VOLUME>"),
        ("writ op backup.prune web1 101 --storage local", "--keep <VOLUME>...|--keep-last <N>"),
        ("writ op backup.prune web1 101 --storage local --keep-last 0", "1..=127"),
        (
            "writ op backup.prune web1 101 --storage local --keep-last 1 --keep aa:backup/x",
            "cannot be used with",
        ),
        ("writ op volume.delete web1 101 disk-1", "unused0"),
        ("writ op volume.delete web1 105 unused0 --gone vm", "[possible values: qemu, lxc]"),
        ("writ op storage.add web1 tank --zfs tank --content images", "--guid"),
        (
            "writ op storage.add web1 tank --zfs tank --guid 1 --content images,all",
            "[possible values: images",
        ),
        ("writ op storage.add web1 tank --zfs tank --guid 1", "--content"),
        ("writ op storage.add web1 tank --content iso", "--dir <PATH>|--zfs <POOL>|--lvmthin <VG/POOL>"),
        ("writ op usb.mount web1 ABCD-0123 backup", "--filesystem"),
        ("writ op usb.mount web1 ABCD-0123 ../x --filesystem ext4", "a-z"),
        ("writ op guest.start web1 101 --preview -o x.json", "cannot be used with"),
        ("writ login --pin 00", "64 hexadecimal digits"),
        ("writ policy init --operator alice", "NAME=KEY.pub"),
        ("writ policy import next.json", "--krl"),
        ("writ policy import --krl k", "required"),
        ("writ policy import --krl k a.json -o b.json", "cannot be used with"),
        ("writ policy import --krl k --allowed-signers a b.json", "cannot be used with"),
        ("writ policy import --allowed-signers a -o b.json", "cannot be used with"),
        ("writ policy import --allowed-signers a b.json --ignore-unknown-sha1", "cannot be used with"),
        ("writ policy init --operator a=b --guests 200-100", "smaller"),
        ("writ enroll new --name a --site b --expires 10", "90s, 10m"),
        ("writ order web1 123", "64 lower-case"),
        ("writ run web1", "ARG"),
        ("writ run web1 uptime", "[-- <ARG>...]"),
        ("writ run web1 --interpreter /bin/sh -- id", "--script"),
        ("writ run web1 --timeout 25h -- id", "1s to 24h"),
        ("writ run web1 --timeout 0s -- id", "1s to 24h"),
        ("writ run web1 --max-output 3MiB -- id", "at most 2MiB"),
        ("writ run web1 --env LD_PRELOAD=x -- id", "LD_"),
        ("writ run web1 --env NAME -- id", "NAME=VALUE"),
        ("writ run web1 --user 0day -- id", "letter"),
        ("writ run web1 --json --raw -- id", "cannot be used with"),
        ("writ run web1 --script x --interpreter sh", "absolute path"),
        ("writ connect web1 --idle 4s", "5s to 24h"),
        ("writ connect web1 --mode exec", "--command"),
        ("writ connect web1 --mode shell", "[possible values: full, sftp, forward, exec]"),
        ("writ connect web1 --forward *:22", "HOST:PORT"),
        ("writ ssh", "HOST"),
        ("writ ssh root@web1", "a-z"),
        ("writ cp a", "2 values"),
        ("writ sessions", "HOST"),
        ("writ sessions close 00", "32 lower-case"),
        ("writ result web1 zz", "64 lower-case"),
    ] {
        let error = parse(line).unwrap_err().to_string();
        assert!(error.contains(says), "{line}: {error}");
    }
    let bidi = "a\u{202e}b";
    let error = Cli::try_parse_from(["writ", "op", "guest.start", "web1", "101", "--reason", bidi]);
    assert!(error.unwrap_err().to_string().contains("U+202E"));
}

/// Each kind of order is a subcommand of its own name, with a sentence and its words explained.
#[test]
fn every_kind_has_help() {
    let mut command = <Cli as clap::CommandFactory>::command();
    let op = command.find_subcommand_mut("op").unwrap();
    let elsewhere = ["plan.approve", "job.run", "session.open", "policy.update", "key.revoke", "host.rebind"];
    for kind in authz::Kind::ALL.iter().map(|kind| kind.as_str()) {
        let found = op.find_subcommand_mut(kind);
        if elsewhere.contains(&kind) || ["log.reanchor", "agent.update"].contains(&kind) {
            assert!(found.is_none(), "{kind} is prepared elsewhere");
            continue;
        }
        let found = found.unwrap_or_else(|| panic!("{kind} cannot be prepared"));
        let help = found.render_long_help().to_string();
        for says in ["The host's name", "--preview", "--min-signers", "--ticket", "The order:"] {
            assert!(help.contains(says), "{kind}: {help}");
        }
        for argument in found.get_arguments().filter(|argument| argument.get_id() != "help") {
            let said = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(said.len() > 4, "{kind}: {} is not explained", argument.get_id());
        }
    }
    let all = op.render_long_help().to_string();
    for says in
        ["everything since is lost", "with its disks and snapshots", "as if its plug were pulled", "for good"]
    {
        assert!(all.contains(says), "{says}: {all}");
    }
}

/// The examples in the help of each kind are command lines that parse.
#[test]
fn examples_of_the_kinds_parse() {
    let mut command = <Cli as clap::CommandFactory>::command();
    let op = command.find_subcommand_mut("op").unwrap();
    let mut count = 0;
    for kind in op.get_subcommands() {
        let help = kind.get_after_help().map(ToString::to_string).unwrap_or_default().replace("\\\n", " ");
        for line in help.lines().filter_map(|line| line.trim().strip_prefix("writ op ")) {
            let line =
                line.replace(" HEX", &format!(" {}", "1".repeat(64))).replace("'before the move'", "x");
            let line = format!("writ op {line}").split_whitespace().collect::<Vec<_>>().join(" ");
            if let Err(error) = parse(&line) {
                panic!("{line}: {error}");
            }
            count += 1;
        }
    }
    assert!(count >= 18, "{count} examples");
}

#[test]
fn help_does_not_promise_what_the_hub_refuses() {
    let mut command = <Cli as clap::CommandFactory>::command();
    let help = command.find_subcommand_mut("submit").unwrap().render_long_help().to_string();
    assert!(!help.contains("signed or not") && help.contains("without any signature are refused by the hub"));
}

#[test]
fn help_says_what_is_safe() {
    let help = |name: &str| {
        let mut command = <Cli as clap::CommandFactory>::command();
        command.find_subcommand_mut(name).unwrap().render_long_help().to_string()
    };
    let connect = help("connect");
    assert!(
        connect.contains("writ connect --ssh-config web1 > web1.ssh\n  ssh -F web1.ssh web1.writ"),
        "{connect}"
    );
    assert!(!connect.contains(">> ~/.ssh/config"), "{connect}");
    assert!(help("run").contains("put a comment of random characters into it"));
}

#[test]
fn what_stands_after_the_host_is_for_ssh() {
    let Command::Ssh(args) = parse("writ ssh --user bob web1 -tv -L 1:a:2 ls --user x -q").unwrap().command
    else {
        panic!("not ssh")
    };
    assert_eq!(args.args, ["-tv", "-L", "1:a:2", "ls", "--user", "x", "-q"]);
    assert_eq!(args.grant.user.as_str(), "bob");
    let Command::Run(args) = parse("writ run web1 -- ls --json -q").unwrap().command else {
        panic!("not run")
    };
    assert_eq!(args.args, ["ls", "--json", "-q"]);
    assert!(!args.print.json);
}

#[test]
fn every_commands_failure_has_a_status() {
    for (line, status) in [
        ("writ run web1 -- id", 255),
        (&format!("writ result web1 {}", "0".repeat(64)), 255),
        ("writ ssh web1", 255),
        ("writ cp a web1:b", 255),
        ("writ connect web1", 255),
        ("writ sessions web1", 1),
        ("writ hosts", 1),
        ("writ submit x", 1),
    ] {
        assert_eq!(crate::error::failure_status(&parse(line).unwrap().command), status, "{line}");
    }
}
