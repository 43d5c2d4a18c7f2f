//! Package files.

use serde::Serialize;

use super::{age, or_dash, rfc3339};
use crate::{cli::output::View, proto::admin};

#[derive(Serialize)]
pub struct PackageFile {
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    pub name: String,
    pub created_at: Option<String>,
    pub created_by: String,
    #[serde(skip)]
    created_age: String,
}

impl From<admin::PackageFile> for PackageFile {
    fn from(file: admin::PackageFile) -> Self {
        Self {
            sha256: hex::encode(&file.sha256),
            size: file.size,
            name: file.name,
            created_at: rfc3339(file.create_time),
            created_by: file.author,
            created_age: age(file.create_time),
        }
    }
}

impl View for PackageFile {
    const COLUMNS: &'static [&'static str] = &["SHA256", "NAME", "SIZE", "CREATED"];
    const WIDE_COLUMNS: &'static [&'static str] = &["CREATED BY"];

    fn cells(&self) -> Vec<String> {
        vec![self.sha256.clone(), or_dash(&self.name), bytes(self.size), self.created_age.clone()]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![or_dash(&self.created_by)]
    }

    fn name(&self) -> String {
        format!("package-file/{}", self.sha256)
    }
}

/// `512 B`, `1.5 KiB`, `20.0 MiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut size = count as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    // What would be shown as 1024.0 is shown in the next unit.
    while let Some(next) = units.next().filter(|_| size >= 1023.95) {
        size /= 1024.0;
        unit = Some(next);
    }
    format!("{size:.1} {}", unit.unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let sizes = [0, 1023, 1024, 1536, (1 << 20) - 1, 20 << 20, 5 << 30, 2048 << 40].map(bytes);
        let expected =
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "20.0 MiB", "5.0 GiB", "2048.0 TiB"].map(str::to_owned);
        assert_eq!(sizes, expected);
    }
}
