//! The folder of `standalone`: `muster.db`, `agent.token`, `operator.token`, `listen.json`, `lock`, and the
//! folder `packages`. Also `agent-ca.pem` and `agent-ca.key`, the authority that issues agents' certificates.

use std::{
    fs::{self, File},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

use super::listeners::write_atomically;
use crate::{auth::token, store::TokenKind};

/// A data folder that this process alone uses.
pub struct DataDir {
    path: PathBuf,
    /// Held for the life of the process; the system releases it however that ends.
    _lock: File,
}

/// The text of a first token.
pub struct FirstToken {
    pub text: String,
    pub path: PathBuf,
    /// It was made just now.
    pub is_new: bool,
}

impl DataDir {
    /// Makes the folder if it is not there (for its owner alone), and refuses one that another process uses.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let at = || format!("data folder {}", path.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(at)?;
        let lock_path = path.join("lock");
        let lock = File::options().write(true).create(true).truncate(false).open(&lock_path).with_context(at)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => bail!("data folder {} is in use by another process", path.display()),
            Err(error) => return Err(error).with_context(at),
        }
        let mode = fs::metadata(path).with_context(at)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(
                folder = %path.display(),
                mode = format!("{:o}", mode & 0o777),
                "others than its owner may look into the data folder"
            );
        }
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn database(&self) -> PathBuf {
        self.path.join("muster.db")
    }

    pub fn packages(&self) -> PathBuf {
        self.path.join("packages")
    }

    pub fn listen_file(&self) -> PathBuf {
        self.path.join("listen.json")
    }

    /// The certificate and the key of the folder's certificate authority, in PEM; `make` makes them on the first start.
    pub fn authority(
        &self,
        make: impl FnOnce() -> anyhow::Result<(String, String)>,
    ) -> anyhow::Result<(String, String)> {
        let (certificate, key) = (self.path.join("agent-ca.pem"), self.path.join("agent-ca.key"));
        match (certificate.exists(), key.exists()) {
            (true, _) => {}
            // A start was cut short, or a file is missing. Keys are not overwritten.
            (false, true) => {
                bail!("{} has no agent-ca.pem beside it: put that back, or delete the key for a new one", key.display())
            }
            (false, false) => {
                let (certificate_text, key_text) = make()?;
                write_atomically(&key, key_text.as_bytes(), 0o600)?;
                write_atomically(&certificate, certificate_text.as_bytes(), 0o644)?;
            }
        }
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        Ok((read(&certificate)?, read(&key)?))
    }

    /// Reads the folder's token, or makes one on the first start.
    pub fn token(&self, kind: TokenKind) -> anyhow::Result<FirstToken> {
        let path = self.path.join(format!("{}.token", kind.name()));
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => Ok(FirstToken { text: text.trim().to_owned(), path, is_new: false }),
            Ok(_) => bail!("{} is empty: delete it to get a new token", path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = token::generate(kind);
                write_atomically(&path, format!("{text}\n").as_bytes(), 0o600)?;
                Ok(FirstToken { text, path, is_new: true })
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user_and_keeps_its_tokens() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let folder = DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let error = DataDir::open(&path).err().unwrap().to_string();
        assert!(error.contains("in use"), "{error}");

        let made = folder.token(TokenKind::Agent).unwrap();
        assert!(made.is_new && made.text.starts_with("muster_agent_"));
        assert_eq!(fs::metadata(&made.path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(folder);
        let kept = DataDir::open(&path).unwrap().token(TokenKind::Agent).unwrap();
        assert!(!kept.is_new && kept.text == made.text);
        let files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files.len(), 2, "nothing temporary is left: {files:?}");
    }

    #[test]
    fn an_authority_is_made_once_and_its_key_kept_private() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataDir::open(parent.path()).unwrap();
        let pair = || ("certificate".to_owned(), "key".to_owned());
        assert_eq!(folder.authority(|| Ok(pair())).unwrap(), pair());
        let key = parent.path().join("agent-ca.key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(folder.authority(|| panic!("there is one")).unwrap(), pair());
        fs::remove_file(parent.path().join("agent-ca.pem")).unwrap();
        let error = folder.authority(|| panic!("there is a key")).unwrap_err().to_string();
        assert!(error.contains("has no agent-ca.pem"), "{error}");
        assert_eq!(fs::read_to_string(key).unwrap(), "key");
    }
}
