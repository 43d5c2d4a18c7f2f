//! The PackageFiles service.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    authorized::Authorized,
    context::Context,
    convert::timestamp,
    errors::{self, Violations, from_store},
    pages::{self, Pages},
};
use crate::{
    model::ContentHash,
    packages::{self, Storage, Upload, UploadError},
    proto::admin::{
        self, DeletePackageFileRequest, DeletePackageFileResponse, GetPackageFileRequest, ListPackageFilesRequest,
        ListPackageFilesResponse, PackageFileHead, UploadPackageFileRequest, UploadPackageFileResponse,
        package_files_server::PackageFiles, upload_package_file_request::Part,
    },
    store::{Actor, NewPackageFile, PackageFile},
};

/// With room for what goes around a chunk.
pub const MAX_MESSAGE_BYTES: usize = (2 << 20) + 1024;

const MAX_NAME_BYTES: usize = 256;

pub struct Service {
    pub context: Arc<Context>,
    pub storage: Option<Storage>,
    pub max_file_bytes: u64,
    /// Between two messages of an upload, which may take as long as it needs as a whole.
    pub message_timeout: Duration,
}

#[tonic::async_trait]
impl PackageFiles for Service {
    async fn upload_package_file(
        &self,
        request: Request<Streaming<UploadPackageFileRequest>>,
    ) -> Result<Response<UploadPackageFileResponse>, Status> {
        self.upload(Authorized::of(request)?).await.map(Response::new)
    }

    async fn get_package_file(
        &self,
        request: Request<GetPackageFileRequest>,
    ) -> Result<Response<admin::PackageFile>, Status> {
        let request = Authorized::of(request)?;
        let sha256 = sha256(&request.message.sha256)?;
        let file = self.context.store.get_package_file(sha256).await.map_err(from_store)?;
        Ok(Response::new(to_wire(file.ok_or_else(|| not_found(sha256))?)))
    }

    async fn list_package_files(
        &self,
        request: Request<ListPackageFilesRequest>,
    ) -> Result<Response<ListPackageFilesResponse>, Status> {
        self.list(Authorized::of(request)?).await.map(Response::new)
    }

    async fn delete_package_file(
        &self,
        request: Request<DeletePackageFileRequest>,
    ) -> Result<Response<DeletePackageFileResponse>, Status> {
        self.delete(Authorized::of(request)?).await.map(Response::new)
    }
}

impl Service {
    async fn upload(
        &self,
        request: Authorized<Streaming<UploadPackageFileRequest>>,
    ) -> Result<UploadPackageFileResponse, Status> {
        let actor = request.actor();
        let mut parts = request.message;
        let storage = self.storage()?;
        let Some(Part::Head(head)) = self.next(&mut parts).await? else {
            return Err(errors::invalid("head", "the first message must have it"));
        };
        let new = self.check(head)?;
        if let Some(file) = self.existing(storage, &new).await? {
            return Ok(UploadPackageFileResponse { file: Some(to_wire(file)), existed: true });
        }
        let mut upload = storage.upload(new.sha256).await.map_err(away)?;
        match self.receive(&mut parts, &mut upload, new.size).await {
            Ok(()) => {}
            Err(status) => {
                upload.abort().await;
                return Err(status);
            }
        }
        upload.finish().await.map_err(|error| match error {
            UploadError::WrongHash { .. } => errors::invalid("sha256", error.to_string()),
            UploadError::Storage(error) => away(error),
        })?;
        let file = self.keep(storage, &new, &actor).await?;
        Ok(UploadPackageFileResponse { file: Some(to_wire(file)), existed: false })
    }

    /// The next part; `None` at the end.
    async fn next(&self, parts: &mut Streaming<UploadPackageFileRequest>) -> Result<Option<Part>, Status> {
        let Ok(message) = tokio::time::timeout(self.message_timeout, parts.message()).await else {
            let problem = format!("nothing came for {:?}", self.message_timeout);
            return Err(errors::status(Code::DeadlineExceeded, "TIMED_OUT", problem, &[]));
        };
        match message? {
            None => Ok(None),
            Some(UploadPackageFileRequest { part: Some(part) }) => Ok(Some(part)),
            Some(UploadPackageFileRequest { part: None }) => Err(errors::invalid("part", "must be given")),
        }
    }

    fn check(&self, head: PackageFileHead) -> Result<NewPackageFile, Status> {
        let mut violations = Violations::default();
        let hash = ContentHash::from_slice(&head.sha256);
        let hash = violations.take("head.sha256", hash.ok_or_else(|| "must be 32 bytes".to_owned()));
        if head.size == 0 {
            violations.add("head.size", "a package file has at least one byte");
        }
        if head.size > self.max_file_bytes {
            let problem = format!("{} bytes are more than the {} that are allowed", head.size, self.max_file_bytes);
            violations.add("head.size", problem);
        }
        violations.take("head.name", check_name(&head.name));
        violations.check()?;
        // It is there: nothing was violated.
        let sha256 = hash.unwrap_or(ContentHash([0; 32]));
        Ok(NewPackageFile { sha256, size: head.size, name: head.name })
    }

    /// The file, if it is whole in the storage and known to the store.
    async fn existing(&self, storage: &Storage, new: &NewPackageFile) -> Result<Option<PackageFile>, Status> {
        let file = self.context.store.get_package_file(new.sha256).await.map_err(from_store)?;
        let Some(file) = file else { return Ok(None) };
        if file.size != new.size {
            let problem = format!("the file with this SHA-256 has {} bytes", file.size);
            return Err(errors::invalid("head.size", problem));
        }
        let size = storage.size(&new.sha256).await.map_err(away)?;
        Ok(Some(file).filter(|file| size == Some(file.size)))
    }

    /// Takes all bytes, as many as announced.
    async fn receive(
        &self,
        parts: &mut Streaming<UploadPackageFileRequest>,
        upload: &mut Upload,
        size: u64,
    ) -> Result<(), Status> {
        while let Some(part) = self.next(parts).await? {
            let Part::Chunk(chunk) = part else { return Err(errors::invalid("head", "comes once")) };
            if chunk.len() as u64 > size - upload.size() {
                return Err(errors::invalid("head.size", format!("more than the announced {size} bytes have come")));
            }
            upload.write(chunk).await.map_err(away)?;
        }
        match upload.size() {
            all if all == size => Ok(()),
            some => Err(errors::invalid("head.size", format!("{some} of the announced {size} bytes have come"))),
        }
    }

    /// Says in the store that the file is there; and makes sure that it is: it may have been deleted since it was written,
    /// having been uploaded by somebody else before.
    async fn keep(&self, storage: &Storage, new: &NewPackageFile, actor: &Actor) -> Result<PackageFile, Status> {
        let file = self.context.store.put_package_file(new, actor).await.map_err(from_store)?;
        if storage.size(&new.sha256).await.map_err(away)? == Some(new.size) {
            return Ok(file);
        }
        self.context.store.begin_delete_package_file(new.sha256, actor).await.map_err(from_store)?;
        self.context.store.end_delete_package_file(new.sha256).await.map_err(from_store)?;
        let problem = "the file was deleted while it was uploaded; upload it again";
        Err(errors::status(Code::Aborted, "PACKAGE_FILE_DELETED", problem, &[("name", &new.sha256.to_string())]))
    }

    async fn list(&self, request: Authorized<ListPackageFilesRequest>) -> Result<ListPackageFilesResponse, Status> {
        let size = pages::size(request.message.page_size)?;
        let pages = Pages::of(&["package-files"]);
        let after = pages.after(&request.message.page_token)?;
        let after = after.map(|after| ContentHash::from_slice(&after).ok_or_else(pages::invalid_token)).transpose()?;
        let files = self.context.store.list_package_files(after, size as u32).await.map_err(from_store)?;
        let last = files.last().filter(|_| files.len() == size);
        Ok(ListPackageFilesResponse {
            next_page_token: last.map(|file| pages.token(&file.sha256.0)).unwrap_or_default(),
            files: files.into_iter().filter(|file| file.deleting_since.is_none()).map(to_wire).collect(),
        })
    }

    async fn delete(&self, request: Authorized<DeletePackageFileRequest>) -> Result<DeletePackageFileResponse, Status> {
        let actor = request.actor();
        let sha256 = sha256(&request.message.sha256)?;
        let storage = self.storage()?;
        self.context.store.begin_delete_package_file(sha256, &actor).await.map_err(from_store)?;
        storage.delete(&sha256).await.map_err(away)?;
        self.context.store.end_delete_package_file(sha256).await.map_err(from_store)?;
        Ok(DeletePackageFileResponse {})
    }

    fn storage(&self) -> Result<&Storage, Status> {
        let problem = "this deployment has no package storage (setting package-storage)";
        self.storage
            .as_ref()
            .ok_or_else(|| errors::status(Code::FailedPrecondition, "NO_PACKAGE_STORAGE", problem, &[]))
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(format!("must have at most {MAX_NAME_BYTES} bytes and no control characters"));
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> Result<ContentHash, Status> {
    ContentHash::from_slice(bytes).ok_or_else(|| errors::invalid("sha256", "must be 32 bytes"))
}

fn not_found(sha256: ContentHash) -> Status {
    from_store(crate::store::Error::NotFound { kind: "package file", name: sha256.to_string() })
}

fn away(error: packages::Error) -> Status {
    tracing::warn!(%error, "an admin call failed");
    errors::unavailable("PACKAGE_STORAGE_UNAVAILABLE", error.to_string())
}

fn to_wire(file: PackageFile) -> admin::PackageFile {
    admin::PackageFile {
        sha256: file.sha256.to_bytes(),
        size: file.size,
        name: file.name,
        create_time: Some(timestamp(file.created_at)),
        author: file.author,
    }
}
