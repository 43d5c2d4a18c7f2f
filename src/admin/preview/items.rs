//! What an agent has of one kind, as far as a change of it is concerned.

use std::collections::BTreeMap;

use prost::Message;

use crate::{
    admin::convert::policy::without_secrets,
    model::{
        ContentHash,
        desired::{DesiredConfig, DesiredFile, DesiredPackage, PolicySet},
        policy::PolicyKind,
        settings,
    },
};

/// Files, packages or connections by name.
#[derive(Debug)]
pub struct Items {
    pub by_name: BTreeMap<String, Item>,
    /// Bytes of all of them.
    pub size: u64,
    /// The same for what makes no difference to an agent.
    pub digest: ContentHash,
}

#[derive(Debug)]
pub struct Item {
    pub text: String,
    /// Of a file.
    pub content: Option<ContentHash>,
    pub size: u64,
}

impl Default for Items {
    fn default() -> Self {
        Self::new(BTreeMap::new(), 0)
    }
}

impl Items {
    fn new(by_name: BTreeMap<String, Item>, size: u64) -> Self {
        let mut text = String::new();
        for (name, item) in &by_name {
            text += &format!("{} {name} {} {}", name.len(), item.text.len(), item.text);
        }
        Self { digest: ContentHash::of(text.as_bytes()), by_name, size }
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The files of a configuration.
    pub fn files(config: &DesiredConfig) -> Self {
        let item = |file: &DesiredFile| Item {
            text: format!("{} {:?} {:?}", file.file.content, file.file.content_type, file.file.role),
            content: Some(file.file.content),
            size: file.file.size,
        };
        let by_name: BTreeMap<_, _> = config.files.iter().map(|(name, file)| (name.clone(), item(file))).collect();
        let size = by_name.iter().map(|(name, item)| name.len() as u64 + item.size).sum();
        Self::new(by_name, size)
    }

    /// What agents for whom these policies hold should have of one kind that has no files.
    pub fn others(set: &PolicySet, matching: &[u32], kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Config => Self::default(),
            PolicyKind::Packages => {
                let packages = set.packages(matching);
                let size = packages.values().map(|package| package.package.encoded_len() as u64).sum();
                Self::new(packages.into_iter().map(|(name, package)| (name, self::package(package))).collect(), size)
            }
            PolicyKind::ConnectionSettings => {
                let merged = set.merge_settings(matching);
                let whole = ContentHash::of(&merged.encode_to_vec());
                let item = |(part, endpoint): (String, String)| (part, described(format!("endpoint {endpoint}\n")));
                let mut items: BTreeMap<_, _> = settings::endpoints(&merged).into_iter().map(item).collect();
                if !items.is_empty() {
                    items.insert("settings as a whole".to_owned(), described(format!("{whole}\n")));
                }
                Self::new(items, merged.encoded_len() as u64)
            }
        }
    }
}

fn described(text: String) -> Item {
    Item { text, content: None, size: 0 }
}

/// Values of headers may be secrets: that they differ is seen, not how.
fn package(package: DesiredPackage) -> Item {
    let hash = ContentHash::of(&package.package.encode_to_vec());
    let shown = without_secrets(package.package);
    let file = shown.file.unwrap_or_default();
    described(format!(
        "version {}\nurl {}\nsha256 {}\npackage {hash}\n",
        shown.version,
        file.download_url,
        hex::encode(&file.content_hash)
    ))
}
