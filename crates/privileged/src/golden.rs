//! A golden image: found, copied, compared.
//!
//! Whoever may upload templates to a storage can exchange a file there at any moment, so a check of the file
//! itself would say nothing about what `pct` reads afterwards. The image is therefore copied into this
//! service's own directory, its SHA-256 taken on the way, and `pct` is given the copy.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use authz::RefusalCode;
use authz::files::{self, FileError};
use protocol::Sha256;
use protocol::refs::{TemplateName, VolumeId};
use sha2::{Digest as _, Sha256 as Hasher};

use crate::config::{PrivilegedConfig, only_ours};
use anchored::{Denied, chain};

/// Archives that Proxmox unpacks; it tells them by their names.
const ENDINGS: &[&str] = &[".tar.gz", ".tar.xz", ".tar.zst"];
const IMAGES: &str = "images";

/// A copy that is what was signed. It goes when this is dropped.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
}

impl Image {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes the directory for copies, and removes what a crash left there.
pub fn prepare(state_dir: &Path) -> Result<(), FileError> {
    let directory = state_dir.join(IMAGES);
    files::prepare_state_dir(&directory)?;
    let fail = |source| FileError::io("read", &directory, source);
    for entry in std::fs::read_dir(&directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        std::fs::remove_file(&path).map_err(|source| FileError::io("remove", &path, source))?;
    }
    Ok(())
}

/// Pure: where the image of this name lies, and the ending that Proxmox tells it by.
pub fn place(config: &PrivilegedConfig, volume: &VolumeId) -> Result<(PathBuf, &'static str), Denied> {
    let no = |why: String| Err(Denied::new(RefusalCode::Precondition, why));
    let storage = volume.storage();
    let Some(name) = volume.as_str().split_once(':').and_then(|(_, volume)| volume.strip_prefix("vztmpl/"))
    else {
        return no(format!("{volume} is no container template (STORAGE:vztmpl/NAME)"));
    };
    // One part, a letter or digit first.
    let Ok(name) = name.parse::<TemplateName>() else {
        return no(format!("{volume} is no file's name that can be used here: give the image a plain one"));
    };
    let Some(ending) = ENDINGS.iter().find(|ending| name.as_str().ends_with(**ending)) else {
        return no(format!("{volume} is no archive that Proxmox unpacks ({})", ENDINGS.join(", ")));
    };
    let Some(directory) = config.templates.get(&storage) else {
        return no(format!(
            "golden images of storage {storage} are not allowed on this host: root names its directory under [templates] in privileged.toml"
        ));
    };
    Ok((directory.join(name.as_str()), ending))
}

/// Copies the image, and gives the copy if it is the one that was signed. Blocks.
pub fn fetch(config: &PrivilegedConfig, volume: &VolumeId, sha256: &Sha256) -> Result<Image, Denied> {
    let (from, ending) = place(config, volume)?;
    let no = |why: String| Denied::new(RefusalCode::Precondition, why);
    let failed = |error: io::Error| no(format!("golden image {volume} could not be read: {error}"));
    let source = open(&from).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            no(format!("there is no golden image {volume}: {} does not exist", from.display()))
        }
        _ => failed(error),
    })?;
    let meta = source.metadata().map_err(failed)?;
    if !meta.is_file() || !only_ours(&meta) {
        return Err(no(format!(
            "golden image {volume} is no file that only root can change: look at who owns {}",
            from.display()
        )));
    }
    if meta.len() > config.max_image {
        return Err(no(format!(
            "golden image {volume} has {} bytes, allowed are {} (max_image)",
            meta.len(),
            config.max_image
        )));
    }
    let path = config.state_dir.join(IMAGES).join(format!("{sha256}{ending}"));
    // From here on it is removed whatever happens.
    let image = Image { path };
    let found = copy(source, &image.path, config.max_image).map_err(|error| {
        no(format!(
            "golden image {volume} could not be copied into {}: {}",
            config.state_dir.display(),
            chain(&error)
        ))
    })?;
    if found != *sha256 {
        return Err(no(format!(
            "golden image {volume} is not the one that was signed: its SHA-256 is {found}; prepare the order again, and look at who changed it"
        )));
    }
    Ok(image)
}

/// No link, and no pipe that never ends.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

fn copy(mut from: File, to: &Path, most: u64) -> io::Result<Sha256> {
    let _ = std::fs::remove_file(to);
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; 1 << 20];
    let mut copied = 0_u64;
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        copied += count as u64;
        if copied > most {
            return Err(io::Error::other("it grew while it was read"));
        }
        hasher.update(&chunk[..count]);
        to.write_all(&chunk[..count])?;
    }
    Ok(Sha256::from_bytes(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Rig {
        dir: tempfile::TempDir,
        config: PrivilegedConfig,
    }

    fn rig() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "state_dir = {:?}\nsocket = \"/x\"\nallowed_uids = [1]\nmax_image = 64\n[templates]\nlocal = {:?}\n",
            dir.path().join("state"),
            dir.path().join("cache"),
        );
        let config = protocol::config::parse_toml("x", &text).unwrap();
        std::fs::create_dir(dir.path().join("cache")).unwrap();
        files::prepare_state_dir(&dir.path().join("state")).unwrap();
        prepare(&dir.path().join("state")).unwrap();
        Rig { dir, config }
    }

    impl Rig {
        fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.dir.path().join("cache").join(name);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            path
        }

        fn fetch(&self, volume: &str, bytes: &[u8]) -> Result<Image, String> {
            fetch(&self.config, &volume.parse().unwrap(), &Sha256::of(bytes)).map_err(|denied| denied.why)
        }

        fn copies(&self) -> usize {
            std::fs::read_dir(self.dir.path().join("state/images")).unwrap().count()
        }
    }

    #[test]
    fn the_copy_is_what_was_signed_and_goes_afterwards() {
        let rig = rig();
        let from = rig.put("golden.tar.zst", b"image");
        let image = rig.fetch("local:vztmpl/golden.tar.zst", b"image").unwrap();
        std::fs::write(from, b"other").unwrap();
        assert_eq!(std::fs::read(image.path()).unwrap(), b"image", "exchanged too late");
        assert!(image.path().to_str().unwrap().ends_with(".tar.zst"), "Proxmox tells it by its name");
        drop(image);
        assert_eq!(rig.copies(), 0);
        let why = rig.fetch("local:vztmpl/golden.tar.zst", b"image").unwrap_err();
        assert!(why.contains("not the one that was signed"), "{why}");
        assert_eq!(rig.copies(), 0);
    }

    #[test]
    fn a_crash_leaves_no_copy_for_ever() {
        let rig = rig();
        std::fs::write(rig.dir.path().join("state/images/x.tar.zst"), "half").unwrap();
        prepare(&rig.config.state_dir).unwrap();
        assert_eq!(rig.copies(), 0);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let rig = rig();
        rig.put("golden.tar.zst", b"image");
        std::os::unix::fs::symlink("/etc/passwd", rig.dir.path().join("cache/link.tar.zst")).unwrap();
        std::fs::create_dir(rig.dir.path().join("cache/dir.tar.zst")).unwrap();
        for (volume, says) in [
            ("local:vztmpl/none.tar.zst", "does not exist"),
            ("local:vztmpl/golden.tar.bz2", "no archive that Proxmox unpacks"),
            ("local:vztmpl/golden", "no archive that Proxmox unpacks"),
            ("local:backup/golden.tar.zst", "no container template"),
            ("local:vztmpl/a/golden.tar.zst", "no file's name"),
            ("local:vztmpl/-golden.tar.zst", "no file's name"),
            ("local:vztmpl/~golden.tar.zst", "no file's name"),
            ("other:vztmpl/golden.tar.zst", "root names its directory"),
            ("local:vztmpl/link.tar.zst", "could not be read"),
            ("local:vztmpl/dir.tar.zst", "no file that only root can change"),
        ] {
            let why = rig.fetch(volume, b"image").unwrap_err();
            assert!(why.contains(says), "{volume}: {why}");
        }
        for bad in [
            "local:vztmpl/../x.tar.zst",
            "local:vztmpl/x y.tar.zst",
            "local:/etc/passwd",
            "local:vztmpl/$(x).tar.zst",
        ] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad} cannot even be said");
        }
    }

    #[test]
    fn files_of_others_and_endless_ones_are_refused() {
        let rig = rig();
        let path = rig.put("golden.tar.zst", b"image");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(rig.fetch("local:vztmpl/golden.tar.zst", b"image").unwrap_err().contains("only root"));
        rig.put("large.tar.zst", &[0; 65]);
        assert!(rig.fetch("local:vztmpl/large.tar.zst", &[0; 65]).unwrap_err().contains("max_image"));
        rig.put("right.tar.zst", &[0; 64]);
        rig.fetch("local:vztmpl/right.tar.zst", &[0; 64]).unwrap();
    }
}
