//! Files that come to a storage: uploads, downloads, templates from the appliance index.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::node::{NODE, resolve};
use super::params::{Field, Params, Ty};
use super::storage::{STORAGE, enter};
use super::{Call, Reply};
use crate::world::{Refusal, StorageJob};

/// Uploads over this are refused; a real node takes what its disk takes.
pub(crate) const UPLOAD_LIMIT: usize = 64 << 20;

const ALGORITHMS: &[&str] = &["md5", "sha1", "sha224", "sha256", "sha384", "sha512"];
const WANTED: &[&str] = &["iso", "vztmpl", "import"];

/// The checksum of data; the simulator has no MD5 and no SHA-1.
fn checksum(algorithm: &str, data: &[u8]) -> Option<String> {
    Some(match algorithm {
        "sha224" => HEXLOWER.encode(&Sha224::digest(data)),
        "sha256" => HEXLOWER.encode(&Sha256::digest(data)),
        "sha384" => HEXLOWER.encode(&Sha384::digest(data)),
        "sha512" => HEXLOWER.encode(&Sha512::digest(data)),
        _ => return None,
    })
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    (!part.is_empty() && text.len() >= part.len())
        .then(|| text.windows(part.len()).position(|w| w == part))?
}

/// Reads a `multipart/form-data` body. As on the real node the file must be the last part: what
/// comes after it is not looked at. Besides the fields the result has `filename`, `tmpfilename`,
/// and two names of no schema: the size and the checksum of the data.
pub(crate) fn read(content_type: &str, body: &[u8]) -> Result<Params, Refusal> {
    let boundary = content_type.split(';').skip(1).find_map(|p| p.trim().strip_prefix("boundary="));
    let boundary = boundary.map(|b| b.trim_matches('"')).filter(|b| !b.is_empty());
    let boundary = boundary.ok_or_else(|| Refusal::new(501, "multipart upload without boundary"))?;
    let marker = format!("--{boundary}");
    let bad = || Refusal::new(501, "unable to parse the multipart body");
    let mut params = Params::default();
    let mut rest = body;
    let start = find(rest, marker.as_bytes()).ok_or_else(bad)?;
    rest = rest.get(start + marker.len()..).ok_or_else(bad)?;
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let end = find(part, b"\r\n\r\n").ok_or_else(bad)?;
        let head = String::from_utf8_lossy(part.get(..end).ok_or_else(bad)?).into_owned();
        let data = part.get(end + 4..).ok_or_else(bad)?;
        let close = find(data, format!("\r\n{marker}").as_bytes()).ok_or_else(bad)?;
        let (value, after) = data.split_at_checked(close).ok_or_else(bad)?;
        let property = |key: &str| -> Option<String> {
            let line = head.lines().find(|l| l.to_ascii_lowercase().starts_with("content-disposition:"))?;
            let part = line.split(';').find_map(|p| p.trim().strip_prefix(key)?.strip_prefix('='))?;
            Some(part.trim_matches('"').to_owned())
        };
        let name = property("name").ok_or_else(bad)?;
        if name == "filename" {
            let filename = property("filename").ok_or_else(bad)?;
            params.put("filename", &filename);
            params.put("tmpfilename", "/var/tmp/pveupload-0123456789abcdef0123456789abcdef");
            params.put("\0size", &value.len().to_string());
            let algorithm = params.get("checksum-algorithm").unwrap_or_default().to_owned();
            if let Some(sum) = checksum(&algorithm, value) {
                params.put("\0sum", &sum);
            }
            return Ok(params);
        }
        params.put(&name, &String::from_utf8_lossy(value));
        rest = after.get(2 + marker.len()..).ok_or_else(bad)?;
    }
    Ok(params)
}

/// The checks of a name and a storage that all three ways share; the volume id.
fn target(call: &Call<'_>, id: &str, content: &str, filename: &str) -> Result<String, Refusal> {
    let wrong = |why: &str| Err(Refusal::parameter("filename", why));
    // The real node cuts the path off and replaces what is not plain.
    let name = filename.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '_' }).collect();
    let ends = |all: &[&str]| all.iter().any(|e| name.ends_with(e) && name.len() > e.len());
    let fits = match content {
        "iso" => ends(&[".iso", ".img"]),
        "vztmpl" => ends(&[".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2"]),
        _ => ends(&[".ova", ".ovf", ".qcow2", ".raw", ".vmdk"]),
    };
    if !fits || name.starts_with('.') {
        return wrong("wrong file extension");
    }
    let storage = call.world.active_storage(id)?;
    if !storage.has_files() {
        let text = format!("can't upload to storage type '{}'", storage.plugin);
        return Err(Refusal::parameter("storage", text));
    }
    if !storage.holds(content) {
        return Err(Refusal::internal(format!("storage '{id}' does not support '{content}' content")));
    }
    Ok(format!("{id}:{content}/{name}"))
}

fn algorithm_pair(call: &Call<'_>) -> Result<(), Refusal> {
    let missing = match (call.params.get("checksum"), call.params.get("checksum-algorithm")) {
        (Some(_), None) => Some(("checksum-algorithm", "checksum")),
        (None, Some(_)) => Some(("checksum", "checksum-algorithm")),
        _ => None,
    };
    match missing {
        Some((name, by)) => {
            Err(Refusal::parameter(name, format!("missing property - '{by}' requires this property")))
        }
        None => Ok(()),
    }
}

/// What a checksum does to the end of a task.
fn verdict(call: &Call<'_>, got: Option<&str>, log: &mut Vec<String>) -> Option<String> {
    let expected = call.params.get("checksum")?.to_lowercase();
    let algorithm = call.params.get("checksum-algorithm").unwrap_or_default();
    match got {
        Some(sum) if sum == expected => {
            log.push("calculating checksum...OK, checksum verified".to_owned());
            None
        }
        Some(sum) => Some(format!("checksum mismatch: got '{sum}' != expect '{expected}'")),
        None => Some(format!("the simulator cannot calculate {algorithm}")),
    }
}

/// `POST …/upload`. Not recorded.
pub(crate) fn upload(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    let size = call.params.take("\0size").and_then(|s| s.parse::<u64>().ok());
    let sum = call.params.take("\0sum");
    let fields = [
        NODE,
        STORAGE,
        Field("content", Ty::Enum(WANTED), false),
        Field("filename", Ty::Text(255), false),
        Field("tmpfilename", Ty::Any, true),
        Field("checksum", Ty::Any, true),
        Field("checksum-algorithm", Ty::Enum(ALGORITHMS), true),
    ];
    enter(call, node, id, &["Datastore.AllocateTemplate"], &fields)?;
    algorithm_pair(call)?;
    let (content, filename) = (call.params.get("content").unwrap_or_default(), call.params.get("filename"));
    let volid = target(call, id, content, filename.unwrap_or_default())?;
    let tmp = call.params.get("tmpfilename").unwrap_or_default();
    let size = size.ok_or_else(|| Refusal::internal(format!("missing temporary upload file {tmp}")))?;
    let path = call.world.volume_path(&volid)?;
    let mut log = vec![
        format!("starting file import from: {tmp}"),
        format!("target node: {}", call.world.node),
        format!("target file: {path}"),
        format!("file size is: {size} ({:.2} MiB)", size as f64 / f64::from(1 << 20)),
    ];
    let problem = verdict(call, sum.as_deref(), &mut log);
    log.push(format!("command: cp -- {tmp} {path}"));
    let job = StorageJob::Store { volid, size, log, problem };
    Ok(json!(call.world.begin_storage(call.now, &call.who, "imgcopy", "", job)).into())
}

/// A task id may not have a colon.
fn encode_id(text: &str) -> String {
    text.replace('%', "%25").replace(':', "%3A")
}

fn network_rights(call: &Call<'_>, node: &str) -> Result<(), Refusal> {
    // Either both rights on the root, or the newer one on the node; the text is that of the latter.
    let both = call.may("/", &["Sys.Audit"]) && call.may("/", &["Sys.Modify"]);
    if both { Ok(()) } else { call.require(&format!("/nodes/{node}"), &["Sys.AccessNetwork"]) }
}

/// `POST …/download-url`. Not recorded. The simulator goes to no network: the file that appears has
/// the URL as its content, and that is also what a checksum is compared with.
pub(crate) fn download(call: &mut Call<'_>, node: &str, id: &str) -> Result<Reply, Refusal> {
    call.require(&format!("/storage/{id}"), &["Datastore.AllocateTemplate"])?;
    network_rights(call, node)?;
    let fields = [
        NODE,
        STORAGE,
        Field("url", Ty::Any, false),
        Field("content", Ty::Enum(WANTED), false),
        Field("filename", Ty::Text(255), false),
        Field("checksum", Ty::Any, true),
        Field("checksum-algorithm", Ty::Enum(ALGORITHMS), true),
        Field("compression", Ty::Any, true),
        Field("verify-certificates", Ty::Bool, true),
    ];
    enter(call, node, id, &[], &fields)?;
    let url = web_address(call)?;
    algorithm_pair(call)?;
    let (content, filename) = (call.params.get("content").unwrap_or_default(), call.params.get("filename"));
    let filename = filename.unwrap_or_default().to_owned();
    let volid = target(call, id, content, &filename)?;
    let path = call.world.volume_path(&volid)?;
    if call.world.volume(&volid).is_some() {
        return Err(Refusal::parameter("filename", format!("file already exists: '{path}'")));
    }
    let mut log = vec![format!("downloading {url} to {path}")];
    let algorithm = call.params.get("checksum-algorithm").unwrap_or_default();
    let problem = verdict(call, checksum(algorithm, url.as_bytes()).as_deref(), &mut log);
    if problem.is_none() {
        log.push(format!("download of '{url}' to '{path}' finished"));
    }
    let job = StorageJob::Store { volid, size: url.len() as u64, log, problem };
    let upid = call.world.begin_storage(call.now, &call.who, "download", &encode_id(&filename), job);
    Ok(json!(upid).into())
}

fn web_address(call: &Call<'_>) -> Result<String, Refusal> {
    let url = call.params.get("url").unwrap_or_default();
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    if rest.is_none_or(str::is_empty) {
        return Err(Refusal::parameter("url", "value does not match the regex pattern"));
    }
    Ok(url.to_owned())
}

/// `GET …/query-url-metadata`. Not recorded; what the simulated downloads would bring.
pub(crate) fn url_metadata(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    network_rights(call, node)?;
    resolve(call, node)?;
    let fields = [NODE, Field("url", Ty::Any, false), Field("verify-certificates", Ty::Bool, true)];
    call.params.check(&fields)?;
    let url = web_address(call)?;
    let name = url.rsplit('/').next().unwrap_or_default();
    Ok(json!({"filename": name, "mimetype": "application/octet-stream", "size": url.len()}).into())
}

/// Package, version, operating system, headline, archive and size of the templates on offer.
const TEMPLATES: [(&str, &str, &str, &str, u64); 3] = [
    ("alpine-3.22-default", "20250617", "alpine", "alpine-3.22-default_20250617_amd64.tar.xz", 3_276_800),
    ("debian-12-standard", "12.12-1", "debian-12", "debian-12-standard_12.12-1_amd64.tar.zst", 126_515_062),
    ("debian-13-standard", "13.1-2", "debian-13", "debian-13-standard_13.1-2_amd64.tar.zst", 129_710_398),
];

/// `GET …/aplinfo`. Not recorded; the fields are those of the published index.
pub(crate) fn templates(call: &Call<'_>, node: &str) -> Result<Reply, Refusal> {
    resolve(call, node)?;
    call.params.check(&[NODE])?;
    let rows: Vec<Value> = TEMPLATES
        .iter()
        .map(|(package, version, os, archive, _)| {
            json!({
                "package": package, "version": version, "os": os, "type": "lxc", "section": "system",
                "architecture": "amd64", "template": archive, "headline": format!("{package} (simulated)"),
                "description": "A container template of the simulator.", "maintainer": "simulator",
                "infopage": "https://templates.invalid/", "source": "https://templates.invalid/system",
                "location": format!("https://templates.invalid/system/{archive}"),
                "sha512sum": checksum("sha512", archive.as_bytes()),
            })
        })
        .collect();
    Ok(Value::from(rows).into())
}

/// `POST …/aplinfo`. Not recorded.
pub(crate) fn fetch_template(call: &mut Call<'_>, node: &str) -> Result<Reply, Refusal> {
    let id = call.params.get("storage").unwrap_or_default().to_owned();
    call.require(&format!("/storage/{id}"), &["Datastore.AllocateTemplate"])?;
    resolve(call, node)?;
    call.params.check(&[NODE, STORAGE, Field("template", Ty::Text(255), false)])?;
    let wanted = call.params.get("template").unwrap_or_default();
    let found = TEMPLATES.iter().find(|(.., archive, _)| *archive == wanted);
    let Some((.., archive, size)) = found else {
        return Err(Refusal::parameter("template", "no such template"));
    };
    let volid = target(call, &id, "vztmpl", archive)?;
    let path = call.world.volume_path(&volid)?;
    let url = format!("https://templates.invalid/system/{archive}");
    let log = vec![
        format!("downloading {url} to {path}"),
        "calculating checksum...OK, checksum verified".to_owned(),
        format!("download of '{url}' to '{path}' finished"),
    ];
    let job = StorageJob::Store { volid, size: *size, log, problem: None };
    Ok(json!(call.world.begin_storage(call.now, &call.who, "download", "", job)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=xyz";

    #[test]
    fn reads_the_parts_in_their_order() {
        let body = b"--xyz\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\niso\r\n\
            --xyz\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"a.iso\"\r\n\
            Content-Type: application/octet-stream\r\n\r\nda\r\nta\r\n--xyz--\r\n";
        let p = read(TYPE, body).unwrap();
        assert_eq!(
            (p.get("content"), p.get("filename"), p.get("\0size")),
            (Some("iso"), Some("a.iso"), Some("6"))
        );
        let late =
            b"--xyz\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"a.iso\"\r\n\r\nx\r\n\
            --xyz\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\niso\r\n--xyz--\r\n";
        assert_eq!(read(TYPE, late).unwrap().get("content"), None, "the file must come last");
    }

    #[test]
    fn hostile_bodies() {
        for bad in [
            &b""[..],
            b"--xyz",
            b"--xy\r\n",
            b"--xyz\r\n",
            b"--xyz\r\n\r\n",
            b"--xyz\r\nname\r\n\r\nx",
            b"--xyz\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xyz--",
            b"--xyz\r\nContent-Disposition: form-data; name=\"filename\"\r\n\r\nx\r\n--xyz--",
        ] {
            let got = read(TYPE, bad);
            assert!(got.as_ref().map_or(true, |p| p.get("filename").is_none()), "{bad:?}");
        }
        assert!(read("multipart/form-data", b"--\r\n").is_err());
        assert!(read("multipart/form-data; boundary=", b"--\r\n").is_err());
    }
}
