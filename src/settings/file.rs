//! The settings file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clap::Command;

use super::{Error, layers::settings_of};

/// Longest file taken.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a settings file says for one command.
#[derive(Debug, Default)]
pub struct File {
    /// Values by key, each as it would be written on the command line.
    pub values: BTreeMap<String, Vec<String>>,
}

/// Reads the file at `path` for the command named `role`. Keys at the top level may belong to any command; a table
/// named after a command holds settings of that command alone, which win. Keys that no command has are refused.
pub fn read(path: &Path, root: &Command, role: &str) -> Result<File, Error> {
    let error = |problem: String| Error::File { path: path.to_path_buf(), problem };
    let metadata = fs::metadata(path).map_err(|e| error(e.to_string()))?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(error(format!("longer than {MAX_FILE_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| error(e.to_string()))?;
    Reader { path: path.to_path_buf(), root, role }.file(table)
}

struct Reader<'a> {
    path: PathBuf,
    root: &'a Command,
    role: &'a str,
}

impl Reader<'_> {
    fn file(&self, table: toml::Table) -> Result<File, Error> {
        let (tables, top): (toml::Table, toml::Table) = table.into_iter().partition(|(_, value)| value.is_table());
        let mut file = File::default();
        for (key, value) in top {
            if !self.root.get_subcommands().any(|command| has(command, &key)) {
                return Err(self.unknown(key));
            }
            let values = self.texts(&key, value)?;
            file.values.insert(key, values);
        }
        for (name, table) in tables {
            let command = self.root.find_subcommand(&name).ok_or_else(|| self.unknown(name.clone()))?;
            for (key, value) in table.as_table().cloned().unwrap_or_default() {
                if !has(command, &key) {
                    return Err(self.unknown(format!("{name}.{key}")));
                }
                let values = self.texts(&key, value)?;
                if name == self.role {
                    file.values.insert(key, values);
                }
            }
        }
        Ok(file)
    }

    fn texts(&self, key: &str, value: toml::Value) -> Result<Vec<String>, Error> {
        use toml::Value;
        let text = |value: Value| match value {
            Value::String(text) => Ok(text),
            Value::Integer(number) => Ok(number.to_string()),
            Value::Float(number) => Ok(number.to_string()),
            Value::Boolean(flag) => Ok(flag.to_string()),
            other => {
                let problem = format!("{key:?} cannot be a {}", other.type_str());
                Err(Error::File { path: self.path.clone(), problem })
            }
        };
        match value {
            Value::Array(values) => values.into_iter().map(text).collect(),
            single => Ok(vec![text(single)?]),
        }
    }

    fn unknown(&self, key: String) -> Error {
        let near = key.replace('-', "_");
        let is_near = near != key && self.root.get_subcommands().any(|command| has(command, &near));
        let hint = if is_near { format!(" (it is written {near:?})") } else { String::new() };
        Error::UnknownKey { path: self.path.clone(), key, hint }
    }
}

/// Whether the command has this setting, and takes it from a file.
fn has(command: &Command, key: &str) -> bool {
    key != "config_file" && settings_of(command).any(|setting| setting.get_id() == key)
}
