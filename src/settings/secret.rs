//! Settings that must not be shown.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{Error, layers::env_name};

/// Longest secret taken from a file.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// A text that is left out of every output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for whoever needs it to connect or to compare.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(Self(text.trim().to_owned())) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The secret of setting `name`, given by itself or in a file, which is the setting `name` with `_file`.
pub fn one_of(name: &str, value: &Option<Secret>, file: &Option<PathBuf>) -> Result<Option<Secret>, Error> {
    let flag = name.replace('_', "-");
    match (value, file) {
        (Some(_), Some(_)) => Err(Error::Both(format!("--{flag}"), format!("--{flag}-file"))),
        (Some(secret), None) => Ok(Some(secret.clone())),
        (None, Some(path)) => read(name, path).map(Some),
        (None, None) => Ok(None),
    }
}

/// As [`one_of`], where the secret must be there.
pub fn required(name: &str, value: &Option<Secret>, file: &Option<PathBuf>) -> Result<Secret, Error> {
    let missing = || Error::Missing(format!("--{}", name.replace('_', "-")), env_name(name));
    one_of(name, value, file)?.ok_or_else(missing)
}

fn read(name: &str, path: &Path) -> Result<Secret, Error> {
    let error = |error: String| Error::SecretFile { what: name.replace('_', "-"), path: path.to_path_buf(), error };
    let metadata = fs::metadata(path).map_err(|e| error(e.to_string()))?;
    if metadata.len() > MAX_SECRET_BYTES {
        return Err(error(format!("longer than {MAX_SECRET_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
    Secret::parse(&text).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_one_place_and_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        fs::write(&path, "redis://:hunter2@h\n").unwrap();
        let direct = Some(Secret("direct".into()));
        let read = required("redis_url", &None, &Some(path.clone())).unwrap();
        assert_eq!(read.expose(), "redis://:hunter2@h");
        assert_eq!(format!("{read:?}"), "(secret)");
        let both = required("redis_url", &direct, &Some(path)).unwrap_err().to_string();
        assert!(both.contains("--redis-url and --redis-url-file"), "{both}");
        let none = required("redis_url", &None, &None).unwrap_err().to_string();
        assert!(none.contains("--redis-url") && none.contains("MUSTER_REDIS_URL"), "{none}");
        let gone = required("redis_url", &None, &Some("/nonexistent".into())).unwrap_err().to_string();
        assert!(gone.contains("/nonexistent"), "{gone}");
    }
}
