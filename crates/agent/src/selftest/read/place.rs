//! Which node is asked.

use proxmox_client::{ApiError, Client, ErrorClass, NodeEntry, NodeName, Pin};

use super::words;
use crate::selftest::Check;
use crate::selftest::report::some_of;

/// A client for the node, or what to do when nobody knows which that is.
pub(super) struct Place {
    pub(super) client: Client,
    pub(super) node: Result<Found, Check>,
    /// Another certificate or a dead token: there is no use in going on.
    pub(super) over: bool,
}

/// The node, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: NodeName,
    /// Nothing but its certificate tells, so a configuration has to name it.
    pub(super) by_certificate: bool,
}

/// The node that was named, the only one, or the one that answers. Every token may read the list of nodes;
/// which of them is the local one takes Sys.Audit, but each entry holds the fingerprint of its certificate.
pub(super) async fn find(client: Client, wanted: Option<&NodeName>) -> Place {
    let mut over = false;
    let node = look(&client, wanted, &mut over).await;
    let client = match &node {
        Ok(found) => client.with_node(found.name.clone()),
        Err(_) => client,
    };
    Place { client, node, over }
}

async fn look(client: &Client, wanted: Option<&NodeName>, over: &mut bool) -> Result<Found, Check> {
    let nodes = match client.nodes().await {
        Ok(nodes) => nodes,
        Err(error) => {
            *over = matches!(error.class(), ErrorClass::Untrusted | ErrorClass::Auth);
            return Err(unread(&error));
        }
    };
    let leaf = client.presented().map(|presented| presented.leaf);
    match choose(&nodes, wanted, leaf.as_ref())? {
        Some((name, false)) => Ok(Found { name, by_certificate: false }),
        // Whether the agent and the warden would find it as well.
        Some((name, true)) => match client.node().await {
            Ok(local) if *local == name => Ok(Found { name, by_certificate: false }),
            _ => Ok(Found { name, by_certificate: true }),
        },
        None => match client.node().await {
            Ok(name) => Ok(Found { name: name.clone(), by_certificate: false }),
            Err(_) => {
                let text = format!(
                    "which of the nodes {} answers here cannot be told: the token may not ask (Sys.Audit on /), and none lists the certificate that was shown",
                    names(&nodes)
                );
                Err(Check::fail("node", text).with("Name the node: --node NAME."))
            }
        },
    }
}

fn unread(error: &ApiError) -> Check {
    Check::fail("node", words(error))
}

/// One of the list, and whether it is only known by its certificate; nothing if nobody can tell.
fn choose(
    nodes: &[NodeEntry],
    wanted: Option<&NodeName>,
    leaf: Option<&Pin>,
) -> Result<Option<(NodeName, bool)>, Check> {
    if let Some(wanted) = wanted {
        if nodes.is_empty() || nodes.iter().any(|entry| entry.node == wanted.as_str()) {
            return Ok(Some((wanted.clone(), false)));
        }
        let text = format!("there is no node {wanted}; there is {}", names(nodes));
        return Err(Check::fail("node", text).with("Name one of these: --node NAME."));
    }
    let by_certificate = nodes.len() > 1;
    let mut fits = nodes.iter().filter(|entry| {
        !by_certificate || entry.ssl_fingerprint.as_deref().is_some_and(|text| is_leaf(text, leaf))
    });
    let (Some(entry), None) = (fits.next(), fits.next()) else { return Ok(None) };
    let name = entry.node.parse().map_err(|error: proxmox_client::IdError| {
        Check::fail("node", error.to_string()).with("Name the node: --node NAME.")
    })?;
    Ok(Some((name, by_certificate)))
}

fn is_leaf(fingerprint: &str, leaf: Option<&Pin>) -> bool {
    leaf.is_some_and(|leaf| format!("leaf:{fingerprint}").parse::<Pin>().ok().as_ref() == Some(leaf))
}

fn names(nodes: &[NodeEntry]) -> String {
    some_of(&nodes.iter().map(|entry| entry.node.clone()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, byte: Option<u8>) -> NodeEntry {
        NodeEntry {
            node: name.to_owned(),
            ssl_fingerprint: byte.map(|byte| vec![format!("{byte:02X}"); 32].join(":")),
            ..NodeEntry::default()
        }
    }

    #[test]
    fn the_node_is_the_named_the_only_or_the_one_that_showed_its_certificate() {
        let leaf: Pin = format!("leaf:{}", "02".repeat(32)).parse().unwrap();
        let found = |nodes: &[NodeEntry], wanted: Option<&str>, leaf: Option<&Pin>| {
            let wanted = wanted.map(|name| name.parse::<NodeName>().unwrap());
            let found = choose(nodes, wanted.as_ref(), leaf)?;
            Ok::<_, Check>(found.map(|(name, by)| (name.to_string(), by)))
        };
        let said = |name: &str, by: bool| Ok(Some((name.to_owned(), by)));
        let one = [entry("pve1", None)];
        let two = [entry("pve1", Some(1)), entry("pve2", Some(2))];
        let twins = [entry("pve1", Some(2)), entry("pve2", Some(2)), entry("pve3", None)];
        assert_eq!(found(&one, None, None), said("pve1", false));
        assert_eq!(found(&two, None, Some(&leaf)), said("pve2", true));
        assert_eq!(found(&two, Some("pve1"), Some(&leaf)), said("pve1", false));
        assert_eq!(found(&twins, None, Some(&leaf)), Ok(None));
        assert_eq!(found(&two, None, None), Ok(None));
        assert_eq!(found(&[entry("pve1", None), entry("pve2", None)], None, Some(&leaf)), Ok(None));
        assert_eq!(found(&[], None, Some(&leaf)), Ok(None));
        let unknown = found(&two, Some("pve9"), Some(&leaf)).unwrap_err();
        assert!(unknown.detail.contains("no node pve9; there is pve1, pve2"), "{unknown}");
        let strange = [NodeEntry { node: "../x".to_owned(), ..NodeEntry::default() }];
        assert!(found(&strange, None, None).unwrap_err().remedy.unwrap().contains("--node"));
    }
}
