//! The management socket: made so that only root and one group can use it, replaced if it is stale.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::config::Management;
use crate::instance::InstanceError;

/// A listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    /// The listener; it does not block.
    pub listener: UnixListener,
    path: PathBuf,
    /// Device and inode: a later instance's file is not ours to remove.
    identity: (u64, u64),
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // Nobody is left to tell; the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The number of a group in `/etc/group`.
fn group_id(name: &str) -> io::Result<u32> {
    let groups = fs::read_to_string("/etc/group")?;
    let mut lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.first() == Some(&name));
    found
        .and_then(|fields| fields.get(2)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("/etc/group has no group `{name}`")))
}

impl Socket {
    /// Listens at the configured path.
    ///
    /// # Errors
    /// Another instance listens there, or the system refuses.
    pub fn open(settings: &Management) -> Result<Self, InstanceError> {
        let path = &settings.socket;
        let failed = |action: &str, source: io::Error| {
            let hint = match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "; run as root, or set `management.socket` to a path in a directory of yours and \
                     `management.group` to a group of yours"
                }
                _ => "",
            };
            let source = io::Error::new(source.kind(), format!("{source}{hint}"));
            InstanceError::System { action: format!("{action} {}", path.display()), source }
        };
        if let Some(directory) = path.parent() {
            let mut builder = fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .map_err(|e| failed("make the directory of", e))?;
        }
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                let error = io::Error::new(io::ErrorKind::AlreadyExists, "it is there and is no socket");
                return Err(failed("listen at", error));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                let error = io::Error::new(io::ErrorKind::AddrInUse, "another instance listens there");
                return Err(failed("listen at", error));
            }
            Ok(_) => {
                tracing::warn!(
                    "replacing the socket {}, left by an instance that was killed",
                    path.display()
                );
            }
            Err(_) => {}
        }
        let group = group_id(&settings.group).map_err(|e| failed("find the group of", e))?;
        // Made under another name, so that nobody can connect before its owner and mode are right.
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(format!(".{}", std::process::id()));
        let hidden = PathBuf::from(hidden);
        // Of an earlier process of this number that was killed.
        let _ = fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden).map_err(|e| failed("listen at", e))?;
        let made = chown(&hidden, None, Some(group))
            .and_then(|()| fs::set_permissions(&hidden, fs::Permissions::from_mode(0o660)))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::rename(&hidden, path))
            .and_then(|()| identity(path));
        match made {
            Ok(identity) => Ok(Self { listener, path: path.clone(), identity }),
            Err(error) => {
                let _ = fs::remove_file(&hidden);
                Err(failed("give mode 0660 and its group to", error))
            }
        }
    }
}
