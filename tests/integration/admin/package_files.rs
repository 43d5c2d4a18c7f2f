//! Uploading package files.

use bytes::Bytes;
use muster::{
    admin,
    bus::in_process::InProcess,
    model::ContentHash,
    proto::admin::{
        DeletePackageFileRequest, GetPackageFileRequest, ListPackageFilesRequest, PackageFile, PackageFileHead,
        UploadPackageFileRequest, UploadPackageFileResponse, package_files_client::PackageFilesClient,
        upload_package_file_request::Part,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use super::{
    musterctl,
    world::{World, reason, violated},
};

const MAX_FILE_BYTES: u64 = 8 << 20;

async fn world() -> World {
    let config = admin::Config { max_package_file_bytes: MAX_FILE_BYTES, ..Default::default() };
    World::with(config, InProcess::new()).await
}

fn client(world: &World) -> PackageFilesClient<Channel> {
    PackageFilesClient::new(world.channel.clone())
}

fn head(body: &[u8]) -> PackageFileHead {
    PackageFileHead { sha256: ContentHash::of(body).to_bytes(), size: body.len() as u64, name: "a.tgz".into() }
}

fn chunks(body: &[u8]) -> Vec<Part> {
    body.chunks(1 << 20).map(|chunk| Part::Chunk(Bytes::copy_from_slice(chunk))).collect()
}

async fn send(world: &World, parts: Vec<Part>) -> Result<UploadPackageFileResponse, Status> {
    let messages = parts.into_iter().map(|part| UploadPackageFileRequest { part: Some(part) });
    let messages = futures_util::stream::iter(messages.collect::<Vec<_>>());
    Ok(client(world).upload_package_file(world.request(messages)).await?.into_inner())
}

async fn upload(world: &World, body: &[u8]) -> Result<UploadPackageFileResponse, Status> {
    send(world, [vec![Part::Head(head(body))], chunks(body)].concat()).await
}

async fn list(world: &World) -> Vec<PackageFile> {
    let mut request = ListPackageFilesRequest { page_size: 1, ..Default::default() };
    let mut files = Vec::new();
    loop {
        let page = client(world).list_package_files(world.request(request.clone())).await.unwrap().into_inner();
        files.extend(page.files);
        if page.next_page_token.is_empty() {
            return files;
        }
        request.page_token = page.next_page_token;
    }
}

async fn delete(world: &World, sha256: Bytes) -> Result<(), Status> {
    client(world).delete_package_file(world.request(DeletePackageFileRequest { sha256 })).await.map(drop)
}

fn body(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_uploaded_listed_and_deleted() {
    let world = world().await;
    let (large, small) = (body(5 << 20), body(3));
    let answer = upload(&world, &large).await.unwrap();
    assert!(!answer.existed);
    let file = answer.file.unwrap();
    assert_eq!((file.sha256.clone(), file.size), (ContentHash::of(&large).to_bytes(), 5 << 20));
    assert_eq!((file.name.as_str(), file.author.as_str(), file.create_time.is_some()), ("a.tgz", "root", true));
    assert!(!upload(&world, &small).await.unwrap().existed);
    let again = upload(&world, &large).await.unwrap();
    assert_eq!((again.existed, again.file.as_ref()), (true, Some(&file)));
    assert_eq!(list(&world).await.len(), 2);
    let get = async |sha256: Bytes| {
        client(&world)
            .get_package_file(world.request(GetPackageFileRequest { sha256 }))
            .await
            .map(|file| file.into_inner())
    };
    assert_eq!(get(file.sha256.clone()).await.unwrap(), file);

    delete(&world, file.sha256.clone()).await.unwrap();
    assert_eq!(list(&world).await.len(), 1);
    for status in [delete(&world, file.sha256.clone()).await.unwrap_err(), get(file.sha256.clone()).await.unwrap_err()]
    {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "PACKAGE_FILE_NOT_FOUND"));
    }
    assert!(!upload(&world, &large).await.unwrap().existed, "it is gone from the storage, too");
}

/// The answer to an upload of what is there does not wait for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_answered_at_once() {
    let world = world().await;
    let body = body(4 << 20);
    upload(&world, &body).await.unwrap();
    let (sender, receiver) = mpsc::channel(1);
    sender.send(UploadPackageFileRequest { part: Some(Part::Head(head(&body))) }).await.unwrap();
    let answer = client(&world).upload_package_file(world.request(ReceiverStream::new(receiver))).await.unwrap();
    assert!(answer.into_inner().existed);
    drop(sender);

    // A file that somebody took out of the storage, or damaged, is put back.
    let path = world.folder.path().join("packages").join(ContentHash::of(&body).to_string());
    std::fs::write(&path, "short").unwrap();
    assert!(!upload(&world, &body).await.unwrap().existed);
    assert!(std::fs::read(&path).unwrap() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_announced_leaves_nothing() {
    let world = world().await;
    let body = body(3 << 20);
    let head = Part::Head(head(&body));
    let other =
        PackageFileHead { sha256: ContentHash::of(b"other").to_bytes(), size: body.len() as u64, ..Default::default() };
    let wrong_hash = [vec![Part::Head(other)], chunks(&body)].concat();
    let short = [vec![head.clone()], chunks(&body[1..])].concat();
    let long = [vec![head.clone()], chunks(&body), chunks(b"x")].concat();
    let two_heads = vec![head.clone(), head.clone()];
    for (parts, field) in [
        (wrong_hash, "sha256"),
        (short, "head.size"),
        (long, "head.size"),
        (two_heads, "head"),
        (chunks(&body), "head"),
        (vec![], "head"),
    ] {
        let status = send(&world, parts).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(violated(&status), [field.to_owned()].into(), "{status}");
    }
    for (head, fields) in [
        (
            PackageFileHead { sha256: vec![1; 31].into(), size: 0, name: "a\nb".into() },
            vec!["head.sha256", "head.size", "head.name"],
        ),
        (
            PackageFileHead { size: MAX_FILE_BYTES + 1, sha256: vec![1; 32].into(), ..Default::default() },
            vec!["head.size"],
        ),
    ] {
        let status = send(&world, vec![Part::Head(head)]).await.unwrap_err();
        assert_eq!(violated(&status), fields.into_iter().map(str::to_owned).collect());
    }
    // One that breaks off in the middle.
    let (sender, receiver) = mpsc::channel(1);
    let mut cut_off = client(&world);
    let request = world.request(ReceiverStream::new(receiver));
    let call = tokio::spawn(async move { cut_off.upload_package_file(request).await });
    for part in [vec![head.clone()], chunks(&body[..2 << 20])].concat() {
        sender.send(UploadPackageFileRequest { part: Some(part) }).await.unwrap();
    }
    call.abort();
    let _ = call.await;
    assert_eq!(list(&world).await, []);
    crate::support::eventually("nothing is left", async || {
        std::fs::read_dir(world.folder.path().join("packages")).unwrap().next().is_none().then_some(())
    })
    .await;
    assert!(!upload(&world, &body).await.unwrap().existed, "and now it goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_for_operators() {
    let world = world().await;
    let messages = futures_util::stream::iter([UploadPackageFileRequest { part: Some(Part::Head(head(b"x"))) }]);
    let status = client(&world).upload_package_file(messages).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "TOKEN_MISSING"));
}

#[tokio::test(flavor = "multi_thread")]
async fn musterctl_uploads_and_deletes() {
    let world = world().await;
    let content = body(3 << 20);
    let path = world.folder.path().join("collector.tar.gz");
    std::fs::write(&path, &content).unwrap();
    let name = format!("package-file/{}", ContentHash::of(&content));
    let path = path.to_str().unwrap();
    assert_eq!(musterctl::run(&world, &["upload", path]).await, format!("{name} uploaded\n"));
    assert_eq!(musterctl::run(&world, &["upload", path]).await, format!("{name} unchanged\n"));
    let files = musterctl::json(&world, &["get", "package-files"]).await;
    assert_eq!((&files[0]["name"], &files[0]["size"]), (&"collector.tar.gz".into(), &(3 << 20).into()));
    let table = musterctl::run(&world, &["get", "package-files"]).await;
    assert!(table.contains("collector.tar.gz   3.0 MiB"), "{table}");
    let hash = ContentHash::of(&content).to_string();
    assert_eq!(musterctl::run(&world, &["delete", "package-file", &hash]).await, format!("{name} deleted\n"));
    let error = musterctl::fails(&world, &["upload", "/nonexistent"]).await;
    assert!(error.contains("/nonexistent"), "{error}");
    std::fs::write(world.folder.path().join("large"), body(MAX_FILE_BYTES as usize + 1)).unwrap();
    let error = musterctl::fails(&world, &["upload", "large"]).await;
    assert!(error.contains("8388609 bytes are more than the 8388608"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_may_host_no_files() {
    let world = World::without_packages().await;
    let status = upload(&world, b"x").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "NO_PACKAGE_STORAGE"));
}
