//! Whom to talk to, with which token, and the connection.

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::Uri;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{
    args::Global,
    contexts,
    error::{Error, Result},
};
use crate::proto::admin::{
    agents_client::AgentsClient, certificates_client::CertificatesClient, commands_client::CommandsClient,
    fleet_client::FleetClient, overrides_client::OverridesClient, package_files_client::PackageFilesClient,
    policies_client::PoliciesClient, rollouts_client::RolloutsClient, tokens_client::TokensClient,
};

const DEFAULT_SERVER: &str = "http://127.0.0.1:4321";
const DEFAULT_DATA_DIR: &str = "muster-data";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the server takes for any call but a watch.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// A server that vanished is noticed during long calls, too.
const PING_AFTER: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// As much as the server ever sends.
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;

/// A connection to the admin API.
pub struct Client {
    channel: Channel,
    /// The same server; calls may last.
    patient: Channel,
    authorization: MetadataValue<Ascii>,
    /// The trace that this run is part of, if whoever runs it says so.
    trace: Option<MetadataValue<Ascii>>,
}

/// By OpenTelemetry's convention for processes, what a header `traceparent` would say.
const TRACE: &str = "TRACEPARENT";

impl Client {
    pub async fn connect(global: &Global) -> Result<Self> {
        let Target { server, token } = target(global, &|name| env::var(name).ok().filter(|value| !value.is_empty()))?;
        let authorization = format!("Bearer {token}").parse();
        let mut authorization: MetadataValue<Ascii> =
            authorization.map_err(|_| "the operator token has characters that no token has".to_owned())?;
        authorization.set_sensitive(true);
        let endpoint = Endpoint::from(server.clone()).connect_timeout(CONNECT_TIMEOUT);
        let endpoint = endpoint.http2_keep_alive_interval(PING_AFTER).keep_alive_timeout(PING_TIMEOUT);
        let patient = endpoint.connect_lazy();
        let channel = endpoint.timeout(CALL_TIMEOUT).connect().await.map_err(|error| not_reachable(&server, &error))?;
        let trace = env::var(TRACE).ok().and_then(|text| text.parse().ok());
        Ok(Self { channel, patient, authorization, trace })
    }

    /// A request with the token in it.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        if let Some(trace) = &self.trace {
            request.metadata_mut().insert("traceparent", trace.clone());
        }
        request
    }

    pub fn agents(&self) -> AgentsClient<Channel> {
        AgentsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub fn policies(&self) -> PoliciesClient<Channel> {
        PoliciesClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub fn commands(&self) -> CommandsClient<Channel> {
        CommandsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Without a limit on the time of a call: uploads take as long as they need.
    pub fn package_files(&self) -> PackageFilesClient<Channel> {
        PackageFilesClient::new(self.patient.clone())
    }

    pub fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(self.channel.clone())
    }

    pub fn rollouts(&self) -> RolloutsClient<Channel> {
        RolloutsClient::new(self.channel.clone())
    }

    pub fn overrides(&self) -> OverridesClient<Channel> {
        OverridesClient::new(self.channel.clone())
    }

    pub fn certificates(&self) -> CertificatesClient<Channel> {
        CertificatesClient::new(self.channel.clone())
    }

    pub fn tokens(&self) -> TokensClient<Channel> {
        TokensClient::new(self.channel.clone())
    }
}

fn not_reachable(server: &Uri, error: &tonic::transport::Error) -> Error {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    Error::Message(format!("no connection to {server}: {reason}"))
}

#[derive(Debug, PartialEq)]
struct Target {
    server: Uri,
    token: String,
}

/// Flags, then the environment, then the context. The current context is left out as soon as a server is named, so that
/// its token never goes to another server.
fn target(global: &Global, env: &dyn Fn(&str) -> Option<String>) -> Result<Target> {
    let server = global.server.clone().or_else(|| env("MUSTER_SERVER"));
    let context = match (&global.context, &server) {
        (None, Some(_)) => None,
        (name, _) => context(name.as_deref())?,
    };
    let from_context = context.as_ref().map(|context| context.server.clone());
    let server = parse_server(&server.or(from_context).unwrap_or_else(|| DEFAULT_SERVER.to_owned()))?;
    let context = context.unwrap_or_default();
    let token = if let Some(token) = &global.token {
        token.clone()
    } else if let Some(path) = &global.token_file {
        read_token(path)?
    } else if let Some(token) = env("MUSTER_TOKEN") {
        token
    } else if let Some(path) = env("MUSTER_TOKEN_FILE") {
        read_token(Path::new(&path))?
    } else if let Some(token) = context.token {
        token
    } else if let Some(path) = context.token_file {
        read_token(&path)?
    } else {
        standalone_token(&server, global, env)?
    };
    Ok(Target { server, token: token.trim().to_owned() })
}

fn context(name: Option<&str>) -> Result<Option<contexts::Context>> {
    // Without a home there is no file, which only matters to who names a context.
    let path = match (contexts::path(), name) {
        (Ok(path), _) => path,
        (Err(_), None) => return Ok(None),
        (Err(error), Some(_)) => return Err(error),
    };
    let mut file = contexts::load(&path)?;
    let Some(name) = name.map(str::to_owned).or(file.current_context) else { return Ok(None) };
    match file.contexts.remove(&name) {
        Some(context) => Ok(Some(context)),
        None => Err(format!("{}: there is no context {name:?}", path.display()).into()),
    }
}

/// A URL, or host:port.
pub fn parse_server(text: &str) -> Result<Uri> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = url.parse().map_err(|error| format!("server {text:?}: {error}"))?;
    match uri.scheme_str() {
        Some("http") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        Some("https") => {
            Err(format!("server {text:?}: TLS is not supported yet; use http over a private network").into())
        }
        _ => Err(format!("server {text:?} is neither an http URL nor host:port").into()),
    }
}

fn read_token(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| format!("token file {}: {error}", path.display()).into())
}

/// The token that `muster standalone` left for who works on the same machine.
fn standalone_token(server: &Uri, global: &Global, env: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let hint = "give --token, MUSTER_TOKEN, --token-file or a context";
    if !is_loopback(server) {
        return Err(format!("no operator token for {server}: {hint}").into());
    }
    let folder = global.data_dir.clone().or_else(|| env("MUSTER_DATA_DIR").map(PathBuf::from));
    let path = folder.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR)).join("operator.token");
    fs::read_to_string(&path)
        .map_err(|error| format!("no operator token: {}: {error}; {hint}, or --data-dir", path.display()).into())
}

fn is_loopback(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls_or_host_and_port() {
        for (text, expected) in [
            ("127.0.0.1:4321", "http://127.0.0.1:4321/"),
            ("http://muster:4321", "http://muster:4321/"),
            ("[::1]:1", "http://[::1]:1/"),
            ("localhost", "http://localhost/"),
        ] {
            assert_eq!(parse_server(text).unwrap(), expected, "{text}");
        }
        for text in ["https://muster", "ftp://x", "", "http://", "a b"] {
            assert!(parse_server(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_a_loopback_server_gets_the_standalone_token() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("operator.token"), "secret\n").unwrap();
        let with = |server: &str| Global {
            server: Some(server.into()),
            data_dir: Some(folder.path().into()),
            ..Default::default()
        };
        for server in ["localhost:1", "127.0.0.2:1", "[::1]:1"] {
            assert_eq!(target(&with(server), &|_| None).unwrap().token, "secret", "{server}");
        }
        assert!(target(&with("10.0.0.1:1"), &|_| None).is_err());
    }

    #[test]
    fn flags_come_before_the_environment() {
        let env = |name: &str| match name {
            "MUSTER_SERVER" => Some("env:1".to_owned()),
            "MUSTER_TOKEN" => Some("from-env".to_owned()),
            _ => None,
        };
        let target_of = |global| target(&global, &env).unwrap();
        let found = target_of(Global::default());
        assert_eq!((found.server.to_string().as_str(), found.token.as_str()), ("http://env:1/", "from-env"));
        let flags = Global { server: Some("flag:2".into()), token: Some("from-flag".into()), ..Default::default() };
        let found = target_of(flags);
        assert_eq!((found.server.to_string().as_str(), found.token.as_str()), ("http://flag:2/", "from-flag"));
    }
}
