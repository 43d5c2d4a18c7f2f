//! The folder of `standalone`: `muster.db`, `agent.token`, `operator.token`, `listen.json`, `lock`, and the
//! folder `packages`.

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
}
