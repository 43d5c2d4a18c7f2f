//! The admin API for programs that need few of its calls: makes policies and tokens, commands agents, and says what is known
//! of them.
//!
//! Architecture invariant: gives and takes plain values. Nobody who uses it sees the API's generated types.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::proto::{
    admin::{
        self, CertificateState, agents_client::AgentsClient, attribute_value, certificates_client::CertificatesClient,
        commands_client::CommandsClient, package_files_client::PackageFilesClient, policies_client::PoliciesClient,
        tokens_client::TokensClient, upload_package_file_request::Part,
    },
    opamp,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is no URL: {1}")]
    Url(String, String),
    #[error("the operator token has characters that no token has")]
    Token,
    #[error("no connection to {0}: {1}")]
    Connect(String, String),
    #[error("{0}: {1:?}: {2}")]
    Call(&'static str, Code, String),
}

impl Error {
    /// Not now, or not in this deployment.
    pub fn is_precondition(&self) -> bool {
        matches!(self, Self::Call(_, Code::FailedPrecondition, _))
    }
}

/// A connection to the admin API.
#[derive(Clone)]
pub struct AdminClient {
    channel: Channel,
    authorization: MetadataValue<Ascii>,
}

/// One file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct File {
    pub name: String,
    pub content_type: String,
    pub role: String,
    pub body: Vec<u8>,
}

/// What the server knows of an agent. Values of attributes are JSON, bytes `{"bytes": hex}`.
#[derive(Clone, Debug, Default)]
pub struct AgentState {
    pub is_connected: bool,
    pub is_healthy: Option<bool>,
    pub health_status: String,
    pub health_error: String,
    pub attributes: BTreeMap<String, Value>,
    /// Components of the health by name, each with `healthy`, `status`, `last_error` and `components`.
    pub components: Value,
    /// `UNSET`, `APPLIED`, `APPLYING` or `FAILED`.
    pub config_status: &'static str,
    pub config_error: String,
    pub reported_config_hash: Vec<u8>,
    pub is_converged: bool,
    pub capabilities: Vec<String>,
}

/// One package. Without a URL its file is one that was uploaded.
#[derive(Clone, Debug, Default)]
pub struct Package {
    pub name: String,
    pub is_addon: bool,
    pub version: String,
    pub url: String,
    /// SHA-256.
    pub content_hash: Vec<u8>,
    pub signature: Vec<u8>,
    pub headers: Vec<(String, String)>,
}

/// Connection settings.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub opamp: Option<Destination>,
    pub own_metrics: Option<Destination>,
    pub other: Vec<OtherConnection>,
}

/// A connection by name, with settings of its own.
#[derive(Clone, Debug, Default)]
pub struct OtherConnection {
    pub name: String,
    pub to: Destination,
    pub settings: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default)]
pub struct Destination {
    pub endpoint: String,
    pub headers: Vec<(String, String)>,
    /// Of OpAMP alone; 0 for the server's default.
    pub heartbeat_s: u64,
}

/// A certificate that an agent asked for, or that it was issued.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub id: String,
    /// Nobody has decided yet.
    pub is_pending: bool,
    /// It may be used.
    pub is_issued: bool,
}

/// A custom message of an agent.
#[derive(Clone, Debug, Default)]
pub struct CustomMessage {
    pub instance_uid: String,
    pub capability: String,
    pub kind: String,
    pub data: Vec<u8>,
}

/// Custom messages as agents send them.
pub struct CustomMessages(Streaming<admin::WatchMessagesResponse>);

impl CustomMessages {
    /// The next one, if it comes within this time.
    pub async fn next_within(&mut self, time: Duration) -> Result<Option<CustomMessage>, Error> {
        let deadline = tokio::time::Instant::now() + time;
        loop {
            let Ok(next) = tokio::time::timeout_at(deadline, self.0.message()).await else { return Ok(None) };
            let event = next.map_err(failed("watch messages"))?.and_then(|response| response.event);
            match event {
                None => return Ok(None),
                Some(admin::watch_messages_response::Event::Lost(_)) => {}
                Some(admin::watch_messages_response::Event::Message(message)) => {
                    return Ok(Some(CustomMessage {
                        instance_uid: message.instance_uid,
                        capability: message.capability,
                        kind: message.r#type,
                        data: message.data.to_vec(),
                    }));
                }
            }
        }
    }
}

impl AdminClient {
    pub async fn connect(url: &str, token: &str) -> Result<Self, Error> {
        let mut authorization: MetadataValue<Ascii> =
            format!("Bearer {}", token.trim()).parse().map_err(|_| Error::Token)?;
        authorization.set_sensitive(true);
        let endpoint = Endpoint::from_shared(url.to_owned());
        let endpoint = endpoint.map_err(|error| Error::Url(url.to_owned(), error.to_string()))?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT);
        let channel = endpoint.connect().await.map_err(|error| Error::Connect(url.to_owned(), root(&error)))?;
        Ok(Self { channel, authorization })
    }

    /// Whether the server takes the token.
    pub async fn check(&self) -> Result<(), Error> {
        let request = self.request(admin::ListPoliciesRequest { page_size: 1, ..Default::default() });
        self.policies().list_policies(request).await.map_err(failed("list policies"))?;
        Ok(())
    }

    /// Makes a policy, or a new revision of it.
    pub async fn apply_config(&self, name: &str, selector: &str, priority: i32, files: &[File]) -> Result<(), Error> {
        let file = |file: &File| admin::PolicyFile {
            name: file.name.clone(),
            content_type: file.content_type.clone(),
            role: file.role.clone(),
            body: file.body.clone().into(),
            ..Default::default()
        };
        let request = self.request(admin::ApplyPolicyRequest {
            name: name.to_owned(),
            kind: admin::PolicyKind::Config as i32,
            selector: selector.to_owned(),
            priority,
            files: files.iter().map(file).collect(),
            ..Default::default()
        });
        self.policies().apply_policy(request).await.map_err(failed("apply a policy"))?;
        Ok(())
    }

    pub async fn apply_packages(&self, name: &str, selector: &str, packages: &[Package]) -> Result<(), Error> {
        let package = |package: &Package| {
            let file = opamp::DownloadableFile {
                download_url: package.url.clone(),
                content_hash: package.content_hash.clone().into(),
                signature: package.signature.clone().into(),
                headers: headers(&package.headers),
            };
            let available = opamp::PackageAvailable {
                r#type: i32::from(package.is_addon),
                version: package.version.clone(),
                file: Some(file),
                ..Default::default()
            };
            (package.name.clone(), available)
        };
        let request = self.request(admin::ApplyPolicyRequest {
            name: name.to_owned(),
            kind: admin::PolicyKind::Packages as i32,
            selector: selector.to_owned(),
            packages: packages.iter().map(package).collect(),
            ..Default::default()
        });
        self.policies().apply_policy(request).await.map_err(failed("apply a policy"))?;
        Ok(())
    }

    pub async fn apply_settings(&self, name: &str, selector: &str, settings: &Settings) -> Result<(), Error> {
        let opamp = settings.opamp.as_ref().map(|to| opamp::OpAmpConnectionSettings {
            destination_endpoint: to.endpoint.clone(),
            headers: headers(&to.headers),
            heartbeat_interval_seconds: to.heartbeat_s,
            ..Default::default()
        });
        let own_metrics = settings.own_metrics.as_ref().map(|to| opamp::TelemetryConnectionSettings {
            destination_endpoint: to.endpoint.clone(),
            headers: headers(&to.headers),
            ..Default::default()
        });
        let other = settings.other.iter().map(|OtherConnection { name, to, settings }| {
            let connection = opamp::OtherConnectionSettings {
                destination_endpoint: to.endpoint.clone(),
                headers: headers(&to.headers),
                other_settings: settings.iter().cloned().collect(),
                ..Default::default()
            };
            (name.clone(), connection)
        });
        let offers = opamp::ConnectionSettingsOffers {
            opamp,
            own_metrics,
            other_connections: other.collect(),
            ..Default::default()
        };
        let request = self.request(admin::ApplyPolicyRequest {
            name: name.to_owned(),
            kind: admin::PolicyKind::ConnectionSettings as i32,
            selector: selector.to_owned(),
            connection_settings: Some(offers),
            ..Default::default()
        });
        self.policies().apply_policy(request).await.map_err(failed("apply a policy"))?;
        Ok(())
    }

    /// Has the server host a small file; gives its SHA-256.
    pub async fn upload_package_file(&self, name: &str, content: &[u8]) -> Result<[u8; 32], Error> {
        let sha256: [u8; 32] = Sha256::digest(content).into();
        let (hash, size) = (sha256.to_vec().into(), content.len() as u64);
        let head = Part::Head(admin::PackageFileHead { sha256: hash, size, name: name.to_owned() });
        let parts = [head, Part::Chunk(content.to_vec().into())];
        let parts = parts.map(|part| admin::UploadPackageFileRequest { part: Some(part) });
        let request = self.request(futures_util::stream::iter(parts));
        self.package_files().upload_package_file(request).await.map_err(failed("upload a package file"))?;
        Ok(sha256)
    }

    pub async fn delete_package_file(&self, sha256: &[u8; 32]) -> Result<(), Error> {
        let request = self.request(admin::DeletePackageFileRequest { sha256: sha256.to_vec().into() });
        let answer = self.package_files().delete_package_file(request).await;
        gone(answer.map(|_| ()), "delete a package file")
    }

    /// One that is not there is as good as deleted.
    pub async fn delete_policy(&self, name: &str) -> Result<(), Error> {
        let request = self.request(admin::DeletePolicyRequest { name: name.to_owned(), ..Default::default() });
        gone(self.policies().delete_policy(request).await.map(|_| ()), "delete a policy")
    }

    /// The text of a new agent token.
    pub async fn create_agent_token(&self, name: &str) -> Result<String, Error> {
        let kind = admin::TokenKind::Agent as i32;
        let request = self.request(admin::CreateTokenRequest { kind, name: name.to_owned(), ..Default::default() });
        let answer = self.tokens().create_token(request).await.map_err(failed("create a token"))?;
        Ok(answer.into_inner().text)
    }

    pub async fn revoke_token(&self, name: &str) -> Result<(), Error> {
        let request = self.request(admin::RevokeTokenRequest { token: name.to_owned() });
        gone(self.tokens().revoke_token(request).await.map(|_| ()), "revoke a token")
    }

    pub async fn agent(&self, uid: &str) -> Result<Option<AgentState>, Error> {
        let request = self.request(admin::GetAgentRequest { instance_uid: uid.to_owned() });
        match self.agents().get_agent(request).await {
            Ok(answer) => Ok(Some(state(answer.into_inner()))),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed("get an agent")(status)),
        }
    }

    /// The effective configuration that the agent reported.
    pub async fn effective_config(&self, uid: &str) -> Result<Vec<File>, Error> {
        let request = self.request(admin::GetAgentConfigRequest { instance_uid: uid.to_owned() });
        let answer = self.agents().get_agent_config(request).await.map_err(failed("get an agent's configuration"))?;
        let file = |file: admin::EffectiveFile| File {
            name: file.name,
            content_type: file.content_type,
            role: String::new(),
            body: file.body.to_vec(),
        };
        Ok(answer.into_inner().effective.into_iter().map(file).collect())
    }

    /// Deletes what is known of an agent, connected or not.
    pub async fn forget_agent(&self, uid: &str) -> Result<(), Error> {
        let request =
            self.request(admin::ForgetAgentRequest { instance_uid: uid.to_owned(), force: true, ..Default::default() });
        gone(self.agents().forget_agent(request).await.map(|_| ()), "forget an agent")
    }

    /// Has the agent restart.
    pub async fn restart(&self, uid: &str) -> Result<(), Error> {
        let to = Some(admin::restart_request::To::InstanceUid(uid.to_owned()));
        let request = self.request(admin::RestartRequest { to, ..Default::default() });
        self.commands().restart(request).await.map_err(failed("restart an agent"))?;
        Ok(())
    }

    /// Sends the agent a custom message.
    pub async fn send_message(&self, uid: &str, capability: &str, kind: &str, data: &[u8]) -> Result<(), Error> {
        let request = self.request(admin::SendMessageRequest {
            to: Some(admin::send_message_request::To::InstanceUid(uid.to_owned())),
            capability: capability.to_owned(),
            r#type: kind.to_owned(),
            data: data.to_vec().into(),
            ..Default::default()
        });
        self.commands().send_message(request).await.map_err(failed("send a message"))?;
        Ok(())
    }

    /// What agents send of this capability from now on.
    pub async fn watch_messages(&self, capability: &str) -> Result<CustomMessages, Error> {
        let capability = capability.to_owned();
        let request = self.request(admin::WatchMessagesRequest { capability, ..Default::default() });
        let stream = self.commands().watch_messages(request).await.map_err(failed("watch messages"))?;
        Ok(CustomMessages(stream.into_inner()))
    }

    /// What the agent asked for.
    pub async fn certificates(&self, uid: &str) -> Result<Vec<Certificate>, Error> {
        let request =
            self.request(admin::ListCertificatesRequest { instance_uid: uid.to_owned(), ..Default::default() });
        let answer = self.issuing().list_certificates(request).await.map_err(failed("list certificates"))?;
        let certificate = |it: admin::Certificate| Certificate {
            is_pending: it.state() == CertificateState::Pending,
            is_issued: it.state() == CertificateState::Issued,
            id: it.id,
        };
        Ok(answer.into_inner().certificates.into_iter().map(certificate).collect())
    }

    pub async fn approve_certificate(&self, id: &str) -> Result<(), Error> {
        let request = self.request(admin::ApproveCertificateRequest { id: id.to_owned() });
        self.issuing().approve_certificate(request).await.map_err(failed("approve a certificate"))?;
        Ok(())
    }

    /// Denies a request, or revokes what was issued.
    pub async fn deny_certificate(&self, id: &str) -> Result<(), Error> {
        let request = self.request(admin::DenyCertificateRequest { id: id.to_owned() });
        self.issuing().deny_certificate(request).await.map_err(failed("deny a certificate"))?;
        Ok(())
    }

    fn issuing(&self) -> CertificatesClient<Channel> {
        CertificatesClient::new(self.channel.clone())
    }

    fn commands(&self) -> CommandsClient<Channel> {
        CommandsClient::new(self.channel.clone())
    }

    fn agents(&self) -> AgentsClient<Channel> {
        AgentsClient::new(self.channel.clone())
    }

    fn package_files(&self) -> PackageFilesClient<Channel> {
        PackageFilesClient::new(self.channel.clone())
    }

    fn policies(&self) -> PoliciesClient<Channel> {
        PoliciesClient::new(self.channel.clone())
    }

    fn tokens(&self) -> TokensClient<Channel> {
        TokensClient::new(self.channel.clone())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request
    }
}

fn headers(headers: &[(String, String)]) -> Option<opamp::Headers> {
    let header = |(key, value): &(String, String)| opamp::Header { key: key.clone(), value: value.clone() };
    (!headers.is_empty()).then(|| opamp::Headers { headers: headers.iter().map(header).collect() })
}

fn failed(what: &'static str) -> impl Fn(Status) -> Error {
    move |status| Error::Call(what, status.code(), status.message().to_owned())
}

fn gone(result: Result<(), Status>, what: &'static str) -> Result<(), Error> {
    match result {
        Err(status) if status.code() != Code::NotFound => Err(failed(what)(status)),
        _ => Ok(()),
    }
}

fn root(error: &dyn std::error::Error) -> String {
    let mut reason = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}

fn state(agent: admin::Agent) -> AgentState {
    AgentState {
        is_connected: agent.connected,
        is_healthy: agent.healthy,
        config_status: match agent.config_status() {
            admin::ConfigStatus::Unset => "UNSET",
            admin::ConfigStatus::Applied => "APPLIED",
            admin::ConfigStatus::Applying => "APPLYING",
            admin::ConfigStatus::Failed => "FAILED",
        },
        is_converged: agent.convergence() == admin::Convergence::Converged,
        health_status: agent.health_status,
        health_error: agent.health_error,
        attributes: agent.attributes.into_iter().map(|(key, value)| (key, attribute(value))).collect(),
        components: components(agent.components),
        config_error: agent.config_error,
        reported_config_hash: agent.reported_config_hash.to_vec(),
        capabilities: agent.capabilities,
    }
}

fn components(of: BTreeMap<String, admin::ComponentHealth>) -> Value {
    let component = |it: admin::ComponentHealth| json!({"healthy": it.healthy, "status": it.status, "last_error": it.last_error, "components": components(it.components)});
    of.into_iter().map(|(name, it)| (name, component(it))).collect()
}

fn attribute(value: admin::AttributeValue) -> Value {
    use attribute_value::Value as Of;
    match value.value {
        None => Value::Null,
        Some(Of::StringValue(text)) => text.into(),
        Some(Of::BoolValue(value)) => value.into(),
        Some(Of::IntValue(value)) => value.into(),
        Some(Of::DoubleValue(value)) => value.into(),
        Some(Of::BytesValue(bytes)) => json!({"bytes": hex::encode(bytes)}),
        Some(Of::ListValue(list)) => list.values.into_iter().map(attribute).collect(),
        Some(Of::MapValue(map)) => map.values.into_iter().map(|(key, value)| (key, attribute(value))).collect(),
    }
}
