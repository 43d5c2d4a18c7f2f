//! Where files are kept, as a setting says it.

use std::{fmt, path::PathBuf, str::FromStr};

const S3_SCHEME: &str = "s3://";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Of this machine, or shared by several.
    Folder(PathBuf),
    /// Of S3, or of what speaks its protocol.
    Bucket { name: String, prefix: String },
}

impl FromStr for Location {
    type Err = String;

    /// `s3://bucket`, `s3://bucket/prefix`, or the path of a folder.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix(S3_SCHEME) {
            let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if name.is_empty() || name.contains(['@', '?', '#', ':']) {
                return Err("write a bucket like s3://bucket or s3://bucket/prefix".to_owned());
            }
            return Ok(Self::Bucket { name: name.to_owned(), prefix: prefix.trim_matches('/').to_owned() });
        }
        if text.contains("://") {
            return Err("must be a folder, or s3://bucket or s3://bucket/prefix".to_owned());
        }
        match text.trim() {
            "" => Err("is empty".to_owned()),
            path => Ok(Self::Folder(path.into())),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Bucket { name, prefix } if prefix.is_empty() => write!(f, "{S3_SCHEME}{name}"),
            Self::Bucket { name, prefix } => write!(f, "{S3_SCHEME}{name}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_buckets_are_told_apart() {
        for (text, shown) in [
            ("./packages", "./packages"),
            ("/mnt/s3:/x", "/mnt/s3:/x"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ] {
            assert_eq!(text.parse::<Location>().map(|location| location.to_string()), Ok(shown.to_owned()));
        }
        for bad in ["", " ", "s3://", "s3:///x", "s3://key:secret@bucket", "gs://bucket", "https://x/y", "file:///x"] {
            assert!(bad.parse::<Location>().is_err(), "{bad:?}");
        }
    }
}
