//! The JSON inside rows. Its field names are part of the schema.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ConfigFiles, Error, Result};
use crate::model::policy::FileRef;

/// [`ConfigFiles`] as stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Files(BTreeMap<String, File>);

#[derive(Debug, Serialize, Deserialize)]
struct File {
    /// SHA-256 in lower-case hex; the collection of garbage reads it in SQL.
    content: String,
    content_type: String,
    role: String,
    size: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    template: bool,
}

impl<'a, I: IntoIterator<Item = (&'a String, &'a FileRef)>> From<I> for Files {
    fn from(files: I) -> Self {
        Self(files.into_iter().map(|(name, file)| (name.clone(), File::from(file))).collect())
    }
}

impl From<&FileRef> for File {
    fn from(file: &FileRef) -> Self {
        let FileRef { content, content_type, role, size, is_template } = file.clone();
        Self { content: content.to_string(), content_type, role, size, template: is_template }
    }
}

impl TryFrom<Files> for ConfigFiles {
    type Error = Error;

    fn try_from(Files(files): Files) -> Result<Self> {
        files
            .into_iter()
            .map(|(name, File { content, content_type, role, size, template })| {
                let content = content.parse().map_err(|error| Error::damaged("file reference", error))?;
                Ok((name, FileRef { content, content_type, role, size, is_template: template }))
            })
            .collect()
    }
}
