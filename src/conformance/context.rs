//! What a case works with: connections, agents, the operator's hand; and what has to be put away after it.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;

use super::{
    agent::{Agent, CASE_ATTRIBUTE, can, uid_text},
    case::{Step, Stop, Verdict},
    http::{Http, Request, Response},
    protobuf::Message,
    reply::{RemoteConfig, Reply},
    target::{Target, Trust, Url},
    websocket::{Socket, accept_of},
};
use crate::admin_client::{AdminClient, AgentState, CustomMessages, Error, File, Package, Settings};

/// What all cases of one run share.
pub struct World {
    pub target: Target,
    pub second: Option<Target>,
    pub token: Option<String>,
    pub trust: Trust,
    pub admin: Option<AdminClient>,
    /// How long a server is watched that may do something.
    pub watch: Duration,
    /// How long an answer may take.
    pub patience: Duration,
    /// Makes names of this run unlike those of any other.
    pub run: String,
}

/// What one case has.
pub struct Context {
    pub world: Arc<World>,
    /// The case's name in lower case, unique to this run.
    pub mark: String,
    /// How long an answer may take.
    pub patience: Duration,
    /// How long to watch a server that may do something, and may as well not.
    pub watch: Duration,
    /// How long to wait for what must not come.
    pub quiet: Duration,
    /// For what a server may well do late.
    pub long: Duration,
    traces: Mutex<Traces>,
}

/// What the case leaves behind on the server.
#[derive(Default)]
struct Traces {
    agents: Vec<[u8; 16]>,
    policies: Vec<String>,
    tokens: Vec<String>,
    package_files: Vec<[u8; 32]>,
    /// The agents that ask for certificates.
    certificates: Vec<[u8; 16]>,
    /// Plain HTTP was used, where no connection ends to say that an agent is gone.
    is_over_http: bool,
}

impl Context {
    pub fn new(world: Arc<World>, id: &str) -> Self {
        let (patience, watch) = (world.patience, world.watch);
        Self {
            mark: format!("{}-{}", world.run, id.to_lowercase()),
            patience,
            watch,
            quiet: watch / 5,
            long: patience.max(watch * 6),
            traces: Mutex::default(),
            world,
        }
    }

    /// An agent that nobody knows yet.
    pub fn agent(&self) -> Agent {
        let agent = Agent::new(uuid::Uuid::now_v7().into_bytes(), &self.mark);
        self.remember(agent.uid);
        agent
    }

    /// One that takes configurations.
    pub fn config_agent(&self) -> Agent {
        self.agent().with(can::CONFIG)
    }

    /// Has an agent by this uid put away at the end.
    pub fn remember(&self, uid: [u8; 16]) {
        self.traces.lock().agents.push(uid);
    }

    /// A request to the server as an agent makes it, without a body.
    pub fn request(&self, method: &'static str) -> Request {
        self.request_to(&self.world.target, method)
    }

    fn request_to(&self, target: &Target, method: &'static str) -> Request {
        let mut headers = vec![("Host".to_owned(), target.url.authority())];
        headers.push(("Content-Type".to_owned(), "application/x-protobuf".to_owned()));
        if let Some(token) = &self.world.token {
            headers.push(("Authorization".to_owned(), format!("Bearer {token}")));
        }
        Request { method, path: target.url.path.clone(), headers, body: Vec::new(), is_chunked: false }
    }

    /// A connection for plain HTTP.
    pub async fn http(&self) -> Step<Http> {
        self.http_to(&self.world.target).await
    }

    pub async fn http_to(&self, target: &Target) -> Step<Http> {
        self.traces.lock().is_over_http = true;
        let stream = target.connect(self.patience).await?;
        let template = self.request_to(target, "POST");
        Ok(Http { stream, buffer: Vec::new(), patience: self.patience, template })
    }

    /// Makes one request on a connection of its own.
    pub async fn ask(&self, request: &Request) -> Step<Response> {
        self.http().await?.exchange(request).await
    }

    /// An upgrade to WebSocket as an agent asks for it.
    pub fn upgrade(&self) -> (Request, String) {
        self.upgrade_to(&self.world.target)
    }

    pub fn upgrade_to(&self, target: &Target) -> (Request, String) {
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        let request = self.request_to(target, "GET").without("Content-Type");
        let request = request.header("Connection", "Upgrade").header("Upgrade", "websocket");
        (request.header("Sec-WebSocket-Version", "13").header("Sec-WebSocket-Key", &key), key)
    }

    /// A WebSocket.
    pub async fn connect(&self) -> Step<Socket> {
        self.connect_to(&self.world.target).await
    }

    pub async fn connect_to(&self, target: &Target) -> Step<Socket> {
        let (request, key) = self.upgrade_to(target);
        self.connect_with(target, &request, &key).await
    }

    /// A WebSocket by this very request.
    pub async fn connect_with(&self, target: &Target, request: &Request, key: &str) -> Step<Socket> {
        let stream = target.connect(self.patience).await?;
        let template = self.request_to(target, "POST");
        let mut http = Http { stream, buffer: Vec::new(), patience: self.patience, template };
        let answer = http.exchange(request).await?;
        if answer.status != 101 {
            return Err(Stop::Fail(format!("the upgrade was answered with status {}", answer.status)));
        }
        if answer.header("sec-websocket-accept") != Some(&accept_of(key)) {
            let accept = answer.header("sec-websocket-accept");
            return Err(Stop::Fail(format!("the upgrade was answered with Sec-WebSocket-Accept {accept:?}")));
        }
        Ok(Socket { stream: http.stream, buffer: http.buffer, patience: self.patience })
    }

    /// A WebSocket on which an agent has said everything and been answered.
    pub async fn online(&self, agent: &mut Agent) -> Step<(Socket, Reply)> {
        let mut socket = self.connect().await?;
        let reply = socket.say(&agent.full()).await?;
        no_error(&reply)?;
        Ok((socket, reply))
    }

    /// The other node.
    pub fn second(&self) -> Step<&Target> {
        self.world.second.as_ref().ok_or_else(|| Stop::Skip("needs --second-url".to_owned()))
    }

    /// The operator's hand.
    pub fn admin(&self) -> Step<&AdminClient> {
        self.world.admin.as_ref().ok_or_else(|| Stop::Skip("needs --admin".to_owned()))
    }

    /// Has the server offer one file to the agents of this case.
    pub async fn offer(&self, name: &str, body: &str) -> Verdict {
        self.offer_files(name, &[file("conformance.yaml", body)]).await
    }

    /// Makes a policy with these files for the agents of this case.
    pub async fn offer_files(&self, name: &str, files: &[File]) -> Verdict {
        let name = self.new_policy(name);
        Ok(self.admin()?.apply_config(&name, &self.selector(), 100, files).await.map_err(told)?)
    }

    fn selector(&self) -> String {
        format!("{CASE_ATTRIBUTE} = {}", self.mark)
    }

    /// The name of a policy that is deleted at the end.
    fn new_policy(&self, name: &str) -> String {
        let name = self.policy_name(name);
        self.traces.lock().policies.push(name.clone());
        name
    }

    /// Makes a policy with these connection settings for the agents of this case.
    pub async fn offer_settings(&self, name: &str, settings: &Settings) -> Verdict {
        let name = self.new_policy(name);
        Ok(self.admin()?.apply_settings(&name, &self.selector(), settings).await.map_err(told)?)
    }

    /// Makes a policy with these packages for the agents of this case.
    pub async fn offer_packages(&self, name: &str, packages: &[Package]) -> Verdict {
        let name = self.new_policy(name);
        self.admin()?.apply_packages(&name, &self.selector(), packages).await.map_err(unless_impossible)
    }

    /// Has the server host this file; gives its SHA-256.
    pub async fn host(&self, name: &str, content: &[u8]) -> Step<[u8; 32]> {
        let sha256 = self.admin()?.upload_package_file(name, content).await.map_err(unless_impossible)?;
        self.traces.lock().package_files.push(sha256);
        Ok(sha256)
    }

    /// Fetches what is at a URL that the server offered, with these headers alone.
    pub async fn fetch(&self, url: &str, headers: &[(String, String)]) -> Step<Response> {
        let url: Url = url.parse().map_err(|error| format!("the URL {url:?}: {error}"))?;
        let target = Target::new(url, &self.world.trust)?;
        let mut all = vec![("Host".to_owned(), target.url.authority())];
        all.extend_from_slice(headers);
        let path = target.url.path.clone();
        let request = Request { method: "GET", path, headers: all, body: Vec::new(), is_chunked: false };
        let stream = target.connect(self.patience).await?;
        let mut http = Http { stream, buffer: Vec::new(), patience: self.patience, template: request.clone() };
        http.exchange(&request).await
    }

    /// What this agent asks for, or is issued, is denied or revoked at the end.
    pub fn will_ask_certificates(&self, uid: [u8; 16]) {
        self.traces.lock().certificates.push(uid);
    }

    /// Approves or denies the agent's request for a certificate, which may still be on its way; whether there was anything
    /// to decide.
    pub async fn decide_certificate(&self, uid: &[u8], is_approved: bool) -> Step<bool> {
        let admin = self.admin()?;
        let deadline = tokio::time::Instant::now() + self.patience;
        loop {
            let known = admin.certificates(&uid_text(uid)).await.map_err(told)?;
            if let Some(pending) = known.iter().find(|certificate| certificate.is_pending) {
                match is_approved {
                    true => admin.approve_certificate(&pending.id).await.map_err(told)?,
                    false => admin.deny_certificate(&pending.id).await.map_err(told)?,
                }
                return Ok(true);
            }
            if known.iter().any(|certificate| certificate.is_issued) {
                return Ok(false);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Stop::Fail("the operator does not see that the agent asked for a certificate".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has an agent restart.
    pub async fn restart(&self, uid: &[u8]) -> Verdict {
        Ok(self.admin()?.restart(&uid_text(uid)).await.map_err(told)?)
    }

    /// Sends a custom message of type `hello` to an agent.
    pub async fn send_message(&self, uid: &[u8], capability: &str, data: &[u8]) -> Verdict {
        Ok(self.admin()?.send_message(&uid_text(uid), capability, "hello", data).await.map_err(told)?)
    }

    /// What agents send of this capability from now on.
    pub async fn messages(&self, capability: &str) -> Step<CustomMessages> {
        Ok(self.admin()?.watch_messages(capability).await.map_err(told)?)
    }

    pub async fn withdraw(&self, name: &str) -> Verdict {
        Ok(self.admin()?.delete_policy(&self.policy_name(name)).await.map_err(told)?)
    }

    fn policy_name(&self, name: &str) -> String {
        format!("conformance-{}-{name}", self.mark)
    }

    /// A new agent token, revoked at the end.
    pub async fn new_token(&self, name: &str) -> Step<String> {
        let name = self.policy_name(name);
        let text = self.admin()?.create_agent_token(&name).await.map_err(told)?;
        self.traces.lock().tokens.push(name);
        Ok(text)
    }

    pub async fn revoke_token(&self, name: &str) -> Verdict {
        Ok(self.admin()?.revoke_token(&self.policy_name(name)).await.map_err(told)?)
    }

    /// What the operator sees of an agent.
    pub async fn seen(&self, uid: &[u8]) -> Step<Option<AgentState>> {
        Ok(self.admin()?.agent(&uid_text(uid)).await.map_err(told)?)
    }

    /// Waits until the operator sees that of an agent.
    pub async fn seen_as(&self, uid: &[u8], what: &str, is_so: impl Fn(&AgentState) -> bool) -> Step<AgentState> {
        let deadline = tokio::time::Instant::now() + self.patience;
        loop {
            let state = self.seen(uid).await?;
            match state {
                Some(state) if is_so(&state) => return Ok(state),
                state if tokio::time::Instant::now() >= deadline => {
                    let state = state.map_or("an agent that is not known".to_owned(), |state| format!("{state:?}"));
                    return Err(Stop::Fail(format!("the operator does not see that {what}, but {state}")));
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Puts away what the case left on the server.
    pub async fn clean_up(&self) {
        let traces = std::mem::take(&mut *self.traces.lock());
        if traces.is_over_http {
            for uid in &traces.agents {
                self.say_goodbye(uid).await;
            }
        }
        let Some(admin) = &self.world.admin else { return };
        for policy in &traces.policies {
            report("policy", policy, admin.delete_policy(policy).await);
        }
        for file in &traces.package_files {
            report("package file", &hex::encode(file), admin.delete_package_file(file).await);
        }
        for token in &traces.tokens {
            report("token", token, admin.revoke_token(token).await);
        }
        for uid in &traces.certificates {
            report("certificates of", &uid_text(uid), withdraw_certificates(admin, &uid_text(uid)).await);
        }
        for uid in &traces.agents {
            report("agent", &uid_text(uid), admin.forget_agent(&uid_text(uid)).await);
        }
    }

    /// Nobody waits for the answer: it is a courtesy.
    async fn say_goodbye(&self, uid: &[u8; 16]) {
        let goodbye = Message::new().bytes(1, uid).uint(2, u64::from(u32::MAX)).message(9, &Message::new());
        if let Ok(mut http) = self.http().await
            && http.say(&goodbye).await.is_ok()
        {
            let _ = http.stream.shutdown().await;
        }
    }
}

/// A certificate outlives its agent's record.
async fn withdraw_certificates(admin: &AdminClient, uid: &str) -> Result<(), Error> {
    for certificate in admin.certificates(uid).await? {
        if certificate.is_pending || certificate.is_issued {
            admin.deny_certificate(&certificate.id).await?;
        }
    }
    Ok(())
}

/// What the operator could not do makes a case fail.
fn told(error: Error) -> String {
    format!("the operator: {error}")
}

/// As [`told`], but for what this deployment is not made for.
fn unless_impossible(error: Error) -> Stop {
    if error.is_precondition() {
        Stop::Skip(format!("the server is not set up for it: {error}"))
    } else {
        Stop::Fail(told(error))
    }
}

fn report(kind: &str, name: &str, result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the {kind} {name} is left behind on the server");
    }
}

pub fn file(name: &str, body: impl Into<Vec<u8>>) -> File {
    File { name: name.to_owned(), content_type: "text/yaml".to_owned(), role: String::new(), body: body.into() }
}

/// Fails on a reply that is an error.
pub fn no_error(reply: &Reply) -> Verdict {
    match &reply.error {
        Some(_) => Err(Stop::Fail(format!("answered with {}", reply.summary()))),
        None => Ok(()),
    }
}

/// The offer in a reply; there must be one.
pub fn offer_of(reply: &Reply) -> Step<RemoteConfig> {
    let offer = reply.remote_config.clone();
    offer.ok_or_else(|| Stop::Fail(format!("no remote_config is offered: {}", reply.summary())))
}
