//! Package files: upload, list, delete.

use std::path::PathBuf;

use super::PAGE_SIZE;
use crate::{
    cli::{
        connection::Client,
        error::Result,
        local_file::LocalFile,
        output::{self, Format},
        view::package_file::PackageFile,
    },
    model::ContentHash,
    proto::admin::{DeletePackageFileRequest, ListPackageFilesRequest},
};

/// A line for each file.
pub async fn upload(client: &Client, paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let file = LocalFile::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        upload_one(client, &file).await?;
    }
    Ok(())
}

pub async fn upload_one(client: &Client, file: &LocalFile) -> Result<()> {
    let done = if file.upload(client).await? { "uploaded" } else { "unchanged" };
    output::write(&format!("package-file/{} {done}\n", file.sha256))
}

pub async fn list(client: &Client, format: Format) -> Result<()> {
    let mut files: Vec<PackageFile> = Vec::new();
    let mut request = ListPackageFilesRequest { page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = client.package_files().list_package_files(client.request(request.clone())).await?.into_inner();
        files.extend(page.files.into_iter().map(PackageFile::from));
        if page.next_page_token.is_empty() {
            return output::list(format, &files);
        }
        request.page_token = page.next_page_token;
    }
}

pub async fn delete(client: &Client, sha256: ContentHash) -> Result<()> {
    let request = client.request(DeletePackageFileRequest { sha256: sha256.to_bytes() });
    client.package_files().delete_package_file(request).await?;
    output::write(&format!("package-file/{sha256} deleted\n"))
}
