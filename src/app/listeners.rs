//! Sockets that a role listens on, and where others find out about them.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::{gateway::Tls, settings::Gateway};

/// Connections that the kernel completes before we accept them: a second or two of a whole fleet coming back. The system's
/// own limit (`net.core.somaxconn`) still holds.
const BACKLOG: i32 = 4_096;

/// Listens on `address`. `what` names the listener in errors.
pub fn bind(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for connections of the last run.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().with_context(|| format!("cannot listen on {address} for {what}"))
}

/// The certificate of the OpAMP listener; `None` for plain text.
pub fn tls(settings: &Gateway) -> anyhow::Result<Option<Tls>> {
    settings.tls()?.map(|config| Tls::load(config).context("TLS")).transpose()
}

/// Says so when anybody who reaches the gateway from elsewhere may be an agent of it.
pub fn warn_if_open(settings: &Gateway, opamp: SocketAddr) {
    if settings.admits_anybody() && !opamp.ip().is_loopback() {
        tracing::warn!(%opamp, "agents need no token or certificate, and the address can be reached from other machines");
    }
}

/// A file with the addresses that listeners have got; removed when this is dropped.
pub struct ListenFile(PathBuf);

impl ListenFile {
    /// Writes `listeners` as a JSON object from name to address. Readers see all of it or nothing.
    pub fn write(path: &Path, listeners: &[(&str, SocketAddr)]) -> anyhow::Result<Self> {
        let object: serde_json::Map<_, _> =
            listeners.iter().map(|(name, address)| ((*name).to_owned(), address.to_string().into())).collect();
        let text = serde_json::Value::Object(object).to_string();
        write_atomically(path, text.as_bytes(), 0o644)?;
        Ok(Self(path.to_path_buf()))
    }
}

impl Drop for ListenFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(%error, file = %self.0.display(), "cannot remove the listen file");
        }
    }
}

/// Puts a file in place at once and with `mode` from its first byte on.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = path.file_name().context("a path without a file name")?.to_os_string();
    name.push(format!(".{:08x}.tmp", rand::random::<u32>()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .with_context(|| format!("cannot write {}", path.display()))
}
