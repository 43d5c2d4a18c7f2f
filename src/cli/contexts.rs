//! The file of contexts: servers and tokens by name.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::error::Result;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_context: Option<String>,
    pub contexts: BTreeMap<String, Context>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Context {
    pub server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// Where the file is, or would be: `$MUSTER_CONFIG`, or `muster/config.yaml` in the user's configuration folder.
pub fn path() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("MUSTER_CONFIG") {
        return Ok(path);
    }
    let folder = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let folder =
        folder.ok_or_else(|| "neither MUSTER_CONFIG nor HOME is set, so there is no place for contexts".to_owned())?;
    Ok(folder.join("muster/config.yaml"))
}

/// The contexts at `path`; none if there is no such file.
pub fn load(path: &Path) -> Result<File> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(File::default()),
        Err(error) => return Err(format!("{}: {error}", path.display()).into()),
    };
    serde_saphyr::from_str(&text).map_err(|error| format!("{}: {}", path.display(), error.without_snippet()).into())
}

/// Replaces the file as a whole; only the user may read it, for it may hold tokens.
pub fn save(path: &Path, file: &File) -> Result<()> {
    let text = serde_saphyr::to_string(file).map_err(|error| format!("contexts: {error}"))?;
    write_private(path, text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn contexts_are_kept_privately() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/config.yaml");
        assert_eq!(load(&path).unwrap(), File::default());
        let context = Context { server: "http://a:4321".into(), token: Some("t: \"x\"".into()), token_file: None };
        let file = File { current_context: Some("prod".into()), contexts: [("prod".into(), context)].into() };
        save(&path, &file).unwrap();
        assert_eq!(load(&path).unwrap(), file);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_wrong_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        fs::write(&path, "contexts:\n  a: {server: x, tokn: y}\n").unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("config.yaml") && error.contains("tokn") && error.contains("line 2"), "{error}");
    }
}
