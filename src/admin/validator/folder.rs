//! The files that a validator reads, in a folder of their own for as long as it runs.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use bytes::Bytes;
use tempfile::TempDir;

use super::command::Written;
use crate::model::syntax::Language;

/// Names are cut to this, with room for a number.
const MAX_NAME_CHARS: usize = 100;

/// A file as agents get it.
#[derive(Clone, Debug)]
pub struct File {
    pub name: String,
    pub content_type: String,
    pub body: Bytes,
}

/// Deleted with everything in it when it is dropped.
pub struct Folder {
    folder: TempDir,
    /// In the order in which supervisors put files together: that of their names, the empty one last.
    pub files: Vec<Written>,
}

impl Folder {
    pub fn write(mut files: Vec<File>) -> io::Result<Self> {
        files.sort_by(|a, b| (a.name.is_empty(), &a.name).cmp(&(b.name.is_empty(), &b.name)));
        let private = Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("muster-validator-").permissions(private).tempdir()?;
        let mut names = BTreeSet::new();
        let mut written = Vec::new();
        for file in files {
            let path = folder.path().join(safe_name(&file.name, &mut names));
            fs::write(&path, &file.body)?;
            written.push(Written { path, is_yaml: is_yaml(&file) });
        }
        Ok(Self { folder, files: written })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A name that is one in every file system, is no option, leads nowhere, and is not among `taken`, to which it is added.
fn safe_name(name: &str, taken: &mut BTreeSet<String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).take(MAX_NAME_CHARS).collect();
    let plain = match plain.chars().next() {
        None => "unnamed".to_owned(),
        Some('.' | '-') => format!("_{plain}"),
        Some(_) => plain,
    };
    // At the front, so that what stands for a file's type stays at its end.
    let numbered = (2..).map(|number| format!("{number}-{plain}"));
    let mut candidates = std::iter::once(plain.clone()).chain(numbered);
    let free = candidates.find(|name| !taken.contains(name)).unwrap_or(plain);
    taken.insert(free.clone());
    free
}

fn is_yaml(file: &File) -> bool {
    let ending = || file.name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    match file.content_type.is_empty() {
        true => ending().is_some_and(|ending| ["yaml", "yml", "json"].contains(&ending.as_str())),
        false => Language::of(&file.content_type).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content_type: &str) -> File {
        File { name: name.into(), content_type: content_type.into(), body: Bytes::from(name.to_owned()) }
    }

    #[test]
    fn names_are_safe_and_differ() {
        let names = ["", "../../etc/passwd", ".hidden", "-option", "a/b.yaml", "a_b.yaml", "ü\n\0", &"x".repeat(300)];
        let mut taken = BTreeSet::new();
        let safe: Vec<String> = names.iter().map(|name| safe_name(name, &mut taken)).collect();
        let expected =
            ["unnamed", "_.._.._etc_passwd", "_.hidden", "_-option", "a_b.yaml", "2-a_b.yaml", "___", &"x".repeat(100)];
        assert_eq!(safe, expected);
    }

    #[test]
    fn files_are_there_for_as_long_as_they_are_needed() {
        let files = ["", "b.yml", "a.pem", "c"].map(|name| file(name, if name == "c" { "text/x-yaml" } else { "" }));
        let folder = Folder::write(files.into()).unwrap();
        let path = folder.path().to_owned();
        let name = |file: &Written| file.path.strip_prefix(&path).unwrap().to_str().unwrap().to_owned();
        let written: Vec<_> = folder.files.iter().map(|file| (name(file), file.is_yaml)).collect();
        let expected = [("a.pem", false), ("b.yml", true), ("c", true), ("unnamed", false)];
        assert_eq!(written, expected.map(|(name, is_yaml)| (name.to_owned(), is_yaml)));
        assert_eq!(fs::read(&folder.files[1].path).unwrap(), b"b.yml");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }
}
