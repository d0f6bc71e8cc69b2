//! Whether the task that a mutation names is the one that was asked for. An answer that names another
//! (a proxy that mixed two answers up, a server that lies) would be waited for and reported as the end
//! of something that never ran.

use serde_json::Value;

use crate::catalog::Shape;
use crate::value::upid::Upid;

/// Why the task that `data` names cannot be the request's, with that task; `None` where it can, where
/// nothing is named and where the call starts none. `segments` are those of the path, as given;
/// `author` is who asked, `None` if that is not known.
pub(crate) fn wrong_task(
    shape: &Shape,
    segments: &[&str],
    author: Option<&str>,
    data: &Value,
) -> Option<(Upid, String)> {
    let upid: Upid = data.as_str().filter(|_| !shape.starts.is_empty())?.parse().ok()?;
    let places = shape.path.split('/').filter(|part| !part.is_empty());
    let at = |wanted: &str| {
        places.clone().zip(segments).find_map(|(place, value)| (place == wanted).then_some(*value))
    };
    // Proxmox takes `localhost` for the node that answers, and names it by its name in the UPID.
    let node = at("{node}").filter(|node| *node != "localhost" && *node != upid.node());
    let guest = at("{vmid}").filter(|vmid| *vmid != upid.id());
    let author = author.filter(|author| *author != upid.user());
    let why = if let Some(node) = node {
        format!("it runs on `{}`, not on `{node}`", upid.node())
    } else if !shape.starts.contains(&upid.task_type()) {
        format!("`{}` starts {}, not `{}`", shape.name, shape.starts.join(" or "), upid.task_type())
    } else if let Some(vmid) = guest {
        format!("it is about `{}`, not about {vmid}", upid.id())
    } else if let Some(author) = author {
        format!("its author is `{}`, not `{author}`", upid.user())
    } else {
        return None;
    };
    Some((upid, why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::shapes;

    fn why(call: &str, segments: &[&str], task: &str) -> Option<String> {
        let shape = shapes().find(|shape| shape.name == call).unwrap();
        let (node, rest) = task.split_once(' ').unwrap();
        let data = json!(format!("UPID:{node}:000003A4:000359AB:6B025FB3:{rest}:"));
        wrong_task(shape, segments, Some("tester@pve!full"), &data).map(|(_, why)| why)
    }

    #[test]
    fn only_the_task_that_was_asked_for_is_taken() {
        let path = ["nodes", "pve1", "qemu", "100", "snapshot"];
        assert_eq!(why("qemu snapshot create", &path, "pve1 qmsnapshot:100:tester@pve!full"), None);
        for (task, word) in [
            ("pve9 qmsnapshot:100:tester@pve!full", "runs on `pve9`"),
            ("pve1 qmdestroy:100:tester@pve!full", "not `qmdestroy`"),
            ("pve1 vzsnapshot:100:tester@pve!full", "not `vzsnapshot`"),
            ("pve1 qmsnapshot:101:tester@pve!full", "about `101`"),
            ("pve1 qmsnapshot::tester@pve!full", "about ``"),
            ("pve1 qmsnapshot:100:tester@pve", "author is `tester@pve`"),
            ("pve1 qmsnapshot:100:root@pam", "author is `root@pam`"),
        ] {
            let why = why("qemu snapshot create", &path, task).unwrap();
            assert!(why.contains(word), "{task}: {why}");
        }
    }

    #[test]
    fn what_ha_and_a_node_by_another_name_do_is_known() {
        let path = ["nodes", "localhost", "lxc", "200", "status", "shutdown"];
        for task in ["vzshutdown", "hastop"] {
            assert_eq!(why("lxc shutdown", &path, &format!("pve1 {task}:200:tester@pve!full")), None);
        }
        assert!(why("lxc shutdown", &path, "pve1 hastart:200:tester@pve!full").is_some());
        // No guest in the path, so the id says whatever that call puts there.
        let path = ["nodes", "pve1", "vzdump"];
        for id in ["", "100"] {
            assert_eq!(why("vzdump", &path, &format!("pve1 vzdump:{id}:tester@pve!full")), None);
        }
        assert_eq!(
            wrong_task(shapes().find(|s| s.name == "vzdump").unwrap(), &path, None, &json!("OK")),
            None
        );
    }

    #[test]
    fn every_call_that_answers_with_a_task_says_which() {
        let data = |text: &str| crate::catalog::Data::of(json!(text));
        for call in crate::catalog::all() {
            let names = call.check(data("UPID:pve1:000003A4:000359AB:6B025FB3:x:100:a@pve:")).is_ok()
                && call.check(data("UPID:")).is_err();
            assert_eq!(names, !call.shape().starts.is_empty(), "{}", call.shape().name);
        }
    }
}
