//! Packages that an operator's policy makes the server offer.

use crate::{
    admin_client::Package,
    conformance::{
        agent::{Agent, can},
        case::{Step, Verdict, cases, ensure, skip},
        context::{Context, no_error},
        offers,
        protobuf::{Fields, Message},
        reply::capability,
        websocket::Socket,
    },
};

cases! {
    "PKG-01" Must WebSocket "PackagesAvailable Message" "an agent that accepts packages is offered them" offers;
    "PKG-02" Must WebSocket "AgentToServer.capabilities" "an agent that accepts no packages is offered none"
        offers_only_to_the_capable;
    "PKG-03" Must WebSocket "All Packages Hash" "an offer has all_packages_hash, and each package its hash" has_hashes;
    "PKG-04" Must WebSocket "DownloadableFile.content_hash" "the hash of a file's content arrives as it was given"
        keeps_content_hash;
    "PKG-05" Must WebSocket "DownloadableFile.signature" "signature and headers of a file arrive as they were given"
        keeps_signature;
    "PKG-06" Should WebSocket "PackageStatuses.server_provided_all_packages_hash"
        "an agent that reports the hash of all packages is not offered them" offers_nothing_known;
    "PKG-07" Field WebSocket "PackageStatus.status" "packages that could not be installed are not offered again unchanged"
        leaves_failures;
    "PKG-08" Must WebSocket "Package Hash" "another version has another hash" hashes_cover_versions;
    "PKG-09" Must WebSocket "Package Hash" "another type has another hash" hashes_cover_types;
    "PKG-10" Field WebSocket "All Packages Hash" "the hashes of the same packages are the same for every agent"
        hashes_are_stable;
    "PKG-11" Must Http "Plain HTTP Transport" "packages come with the answer to a poll" offers_by_poll;
}

const NAME: &str = "conformance";

fn package(version: &str) -> Package {
    Package {
        name: NAME.to_owned(),
        is_addon: false,
        version: version.to_owned(),
        url: format!("https://packages.example.com/conformance-{version}.tar.gz"),
        content_hash: vec![0xab; 32],
        signature: b"signed".to_vec(),
        headers: vec![("Authorization".to_owned(), "Bearer of-the-conformance-run".to_owned())],
    }
}

fn agent(cx: &Context) -> Agent {
    cx.agent().with(can::REPORT | can::ACCEPT_PACKAGES | can::REPORT_PACKAGE_STATUSES)
}

/// What is offered to an agent that comes, of what the operator made for it.
async fn offered(cx: &Context, package: Package, agent: &mut Agent) -> Step<(Socket, Fields)> {
    cx.offer_packages("p", &[package]).await?;
    offers::PACKAGES.first(cx, agent).await
}

/// The package that the operator gave.
fn ours(offer: &Fields) -> Step<Fields> {
    let packages = offer.map(1)?;
    let found = packages.into_iter().find(|(name, _)| name == NAME).map(|(_, package)| package);
    Ok(found.ok_or("the offer has no package of this name")?)
}

fn file(offer: &Fields) -> Step<Fields> {
    Ok(ours(offer)?.message(3)?.unwrap_or_default())
}

/// The file of a package whose file was uploaded, as it is offered.
pub async fn offered_file(cx: &Context, sha256: [u8; 32]) -> Step<Fields> {
    let package =
        Package { url: String::new(), headers: Vec::new(), content_hash: sha256.to_vec(), ..package("1.0.0") };
    let (_, offer) = offered(cx, package, &mut agent(cx)).await?;
    file(&offer)
}

/// The hash of all packages, and of ours.
fn hashes(offer: &Fields) -> Step<(Vec<u8>, Vec<u8>)> {
    let package = ours(offer)?;
    Ok((offer.bytes(2)?.unwrap_or_default().to_vec(), package.bytes(4)?.unwrap_or_default().to_vec()))
}

/// A report on the packages of an offer.
fn statuses(offer: &Fields, status: u64) -> Step<Message> {
    let (all, one) = hashes(offer)?;
    let package = Message::new().bytes(1, NAME).bytes(2, "1.0.0").bytes(3, &one).bytes(4, "1.0.0").bytes(5, &one);
    let package = package.uint(6, status);
    let package = if status == INSTALL_FAILED { package.bytes(7, "no space") } else { package };
    Ok(Message::new().entry(1, NAME, &package).bytes(2, all))
}

/// Values of `PackageStatus.status`.
const INSTALLED: u64 = 0;
const INSTALL_FAILED: u64 = 3;

async fn offers(cx: &Context) -> Verdict {
    let given = package("1.0.0");
    let (_, offer) = offered(cx, given.clone(), &mut agent(cx)).await?;
    let (kind, version, url) = (ours(&offer)?.uint(1)?, ours(&offer)?.text(2)?, file(&offer)?.text(1)?);
    ensure!(kind == 0, "the type is {kind}, and not TopLevel");
    ensure!(version == given.version, "the version is {version:?}");
    ensure!(url == given.url, "the download_url is {url:?}");
    Ok(())
}

async fn offers_only_to_the_capable(cx: &Context) -> Verdict {
    cx.offer_packages("p", &[package("1.0.0")]).await?;
    let mut agent = cx.agent();
    let (mut socket, first) = cx.online(&mut agent).await?;
    offers::PACKAGES.stays_away(cx, &mut socket, &mut agent, Some(first)).await
}

async fn has_hashes(cx: &Context) -> Verdict {
    let (_, offer) = offered(cx, package("1.0.0"), &mut agent(cx)).await?;
    let (all, one) = hashes(&offer)?;
    ensure!(!all.is_empty(), "all_packages_hash is empty");
    ensure!(!one.is_empty(), "the package's hash is empty");
    Ok(())
}

async fn keeps_content_hash(cx: &Context) -> Verdict {
    let (_, offer) = offered(cx, package("1.0.0"), &mut agent(cx)).await?;
    let found = file(&offer)?.bytes(2)?.unwrap_or_default().to_vec();
    ensure!(found == [0xab; 32], "content_hash is {}", hex::encode(found));
    Ok(())
}

async fn keeps_signature(cx: &Context) -> Verdict {
    let (_, offer) = offered(cx, package("1.0.0"), &mut agent(cx)).await?;
    let file = file(&offer)?;
    ensure!(file.bytes(3)? == Some(b"signed"), "the signature is {:?}", file.bytes(3)?);
    let headers = file.message(4)?.unwrap_or_default().messages(1)?;
    let has_header = headers.iter().any(|header| header.text(1).as_deref() == Ok("Authorization"));
    ensure!(has_header, "the header is not there");
    Ok(())
}

async fn reported(cx: &Context, status: u64) -> Step<(Socket, Agent, Message)> {
    let mut agent = agent(cx);
    let (mut socket, offer) = offered(cx, package("1.0.0"), &mut agent).await?;
    let statuses = statuses(&offer, status)?;
    no_error(&socket.say(&agent.heartbeat().message(8, &statuses)).await?)?;
    Ok((socket, agent, statuses))
}

async fn offers_nothing_known(cx: &Context) -> Verdict {
    let (mut socket, mut agent, statuses) = reported(cx, INSTALLED).await?;
    offers::PACKAGES.stays_away(cx, &mut socket, &mut agent, None).await?;
    drop(socket);
    let mut socket = cx.connect().await?;
    let first = socket.say(&agent.full().message(8, &statuses)).await?;
    offers::PACKAGES.stays_away(cx, &mut socket, &mut agent, Some(first)).await
}

async fn leaves_failures(cx: &Context) -> Verdict {
    let (mut socket, mut agent, _) = reported(cx, INSTALL_FAILED).await?;
    offers::PACKAGES.stays_away(cx, &mut socket, &mut agent, None).await
}

async fn hashes_differ_between(cx: &Context, first: Package, second: Package) -> Verdict {
    let mut agent = agent(cx);
    let (mut socket, offer) = offered(cx, first, &mut agent).await?;
    no_error(&socket.say(&agent.heartbeat().message(8, &statuses(&offer, INSTALLED)?)).await?)?;
    cx.offer_packages("p", &[second]).await?;
    let (before, after) = (hashes(&offer)?, hashes(&offers::PACKAGES.next(&mut socket).await?)?);
    ensure!(before.0 != after.0, "both have the all_packages_hash {}", hex::encode(before.0));
    ensure!(before.1 != after.1, "both have the package hash {}", hex::encode(before.1));
    Ok(())
}

async fn hashes_cover_versions(cx: &Context) -> Verdict {
    let second = Package { version: "1.0.1".to_owned(), ..package("1.0.0") };
    hashes_differ_between(cx, package("1.0.0"), second).await
}

async fn hashes_cover_types(cx: &Context) -> Verdict {
    let second = Package { is_addon: true, ..package("1.0.0") };
    hashes_differ_between(cx, package("1.0.0"), second).await
}

async fn hashes_are_stable(cx: &Context) -> Verdict {
    let (_, first) = offered(cx, package("1.0.0"), &mut agent(cx)).await?;
    let (_, second) = offered(cx, package("1.0.0"), &mut agent(cx)).await?;
    let (first, second) = (hashes(&first)?, hashes(&second)?);
    ensure!(first == second, "{} and {}", hex::encode(&first.0), hex::encode(&second.0));
    Ok(())
}

async fn offers_by_poll(cx: &Context) -> Verdict {
    cx.offer_packages("p", &[package("1.0.0")]).await?;
    let (mut http, mut agent) = (cx.http().await?, agent(cx));
    let mut message = agent.full();
    for _ in 0..10 {
        let reply = http.say(&message).await?;
        if reply.capabilities & capability::OFFERS_PACKAGES == 0 {
            skip!("the server does not say OffersPackages");
        }
        if reply.packages.is_some() {
            return Ok(());
        }
        tokio::time::sleep(cx.quiet / 5).await;
        message = agent.heartbeat();
    }
    Err("no poll is answered with packages".into())
}
