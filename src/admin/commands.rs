//! The Commands service.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{
    authorized::Authorized,
    context::{self, Context},
    convert,
    errors::{self, Violations, from_store},
    messages, metrics,
    pages::{self, Pages},
    scan::{self, Query},
};
use crate::{
    model::{
        AgentRecord, InstanceUid,
        command::{Action, CommandId, TargetState},
    },
    proto::{
        admin::{
            self, GetCommandRequest, ListCommandTargetsRequest, ListCommandTargetsResponse, RestartRequest,
            SendMessageRequest, WatchCommandRequest, WatchMessagesRequest, WatchMessagesResponse,
            commands_server::Commands, restart_request, send_message_request,
        },
        opamp,
    },
    store::{self, Actor, NewCommand},
};

const RESTARTS_PER_SECOND: u32 = 100;
const MESSAGES_PER_SECOND: u32 = 1_000;
/// Agents of one command.
const MAX_TARGETS: usize = 200_000;
const MAX_NAME_CHARS: usize = 256;
const MAX_DATA_BYTES: usize = 512 << 10;
/// Agents that a command names, of those that it was not sent to.
const MAX_NAMED: u32 = 1_000;
/// A command that is watched is read this often.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Agents read at once.
const PAGE: usize = 1_000;

pub struct Service(pub Arc<Context>);

#[tonic::async_trait]
impl Commands for Service {
    async fn restart(&self, request: Request<RestartRequest>) -> Result<Response<admin::Command>, Status> {
        let request = Authorized::of(request)?;
        let actor = request.actor();
        let RestartRequest { command_id, to, per_second } = request.message;
        let to = to.map(|to| match to {
            restart_request::To::InstanceUid(uid) => To::Agent(uid),
            restart_request::To::Selector(selector) => To::Selector(selector),
        });
        let per_second = if per_second == 0 { RESTARTS_PER_SECOND } else { per_second };
        self.create(&command_id, to, Action::Restart, per_second, &actor).await.map(Response::new)
    }

    async fn send_message(&self, request: Request<SendMessageRequest>) -> Result<Response<admin::Command>, Status> {
        let request = Authorized::of(request)?;
        let actor = request.actor();
        let SendMessageRequest { command_id, to, per_second, capability, r#type, data } = request.message;
        let to = to.map(|to| match to {
            send_message_request::To::InstanceUid(uid) => To::Agent(uid),
            send_message_request::To::Selector(selector) => To::Selector(selector),
        });
        let per_second = if per_second == 0 { MESSAGES_PER_SECOND } else { per_second };
        let message = opamp::CustomMessage { capability, r#type, data };
        check_message(&message)?;
        self.create(&command_id, to, Action::Message(message), per_second, &actor).await.map(Response::new)
    }

    async fn get_command(&self, request: Request<GetCommandRequest>) -> Result<Response<admin::Command>, Status> {
        let id = command_id(&Authorized::of(request)?.message.command_id)?;
        read(&self.0, id).await.map(Response::new)
    }

    type WatchCommandStream = ReceiverStream<Result<admin::Command, Status>>;

    async fn watch_command(
        &self,
        request: Request<WatchCommandRequest>,
    ) -> Result<Response<Self::WatchCommandStream>, Status> {
        let id = command_id(&Authorized::of(request)?.message.command_id)?;
        self.watch(id).await.map(Response::new)
    }

    async fn list_command_targets(
        &self,
        request: Request<ListCommandTargetsRequest>,
    ) -> Result<Response<ListCommandTargetsResponse>, Status> {
        self.targets(Authorized::of(request)?.message).await.map(Response::new)
    }

    type WatchMessagesStream = ReceiverStream<Result<WatchMessagesResponse, Status>>;

    async fn watch_messages(
        &self,
        request: Request<WatchMessagesRequest>,
    ) -> Result<Response<Self::WatchMessagesStream>, Status> {
        let Authorized { operator, message } = Authorized::of(request)?;
        let selector = errors::selector(&message.selector)?;
        messages::start(self.0.clone(), message.capability, selector, operator).await.map(Response::new)
    }
}

/// To whom a command is addressed.
enum To {
    Agent(String),
    Selector(String),
}

impl Service {
    async fn create(
        &self,
        id: &str,
        to: Option<To>,
        action: Action,
        per_second: u32,
        actor: &Actor,
    ) -> Result<admin::Command, Status> {
        let id = if id.is_empty() { CommandId(uuid::Uuid::now_v7()) } else { command_id(id)? };
        match self.0.store.get_command(id).await {
            Ok(known) if known.command.action == action => return read(&self.0, id).await,
            Ok(_) => {
                return Err(from_store(store::Error::AlreadyExists { kind: "command", name: id.to_string() }));
            }
            Err(store::Error::NotFound { .. }) => {}
            Err(error) => return Err(from_store(error)),
        }
        let (addressee, targets) = match to {
            Some(To::Agent(uid)) => {
                let uid = errors::uid(&uid)?;
                let records = self.0.store.read_agents(&[uid]).await.map_err(from_store)?;
                if records.is_empty() {
                    return Err(errors::agent_not_found(&uid));
                }
                (uid.to_string(), self.classified(&action, &records).await?)
            }
            Some(To::Selector(selector)) => {
                let query = Query { selector: errors::selector(&selector)?, connected: None, statuses: Vec::new() };
                (selector, self.matching(&action, &query).await?)
            }
            None => return Err(errors::invalid("to", "an instance_uid or a selector must be given")),
        };
        if targets.is_empty() {
            return Err(errors::status(Code::NotFound, "NO_AGENT_MATCHES", "no agent matches the selector", &[]));
        }
        let new = NewCommand { id, action, addressee, per_second, targets };
        self.0.store.create_command(&new, actor).await.map_err(from_store)?;
        // Perhaps nobody can get it.
        self.0.store.finish_commands(context::now()).await.map_err(from_store)?;
        self.0.publisher.commands_changed(id).await;
        read(&self.0, id).await
    }

    async fn matching(&self, action: &Action, query: &Query) -> Result<Vec<(InstanceUid, TargetState)>, Status> {
        let mut targets = Vec::new();
        let mut after = None;
        loop {
            let page = scan::page(&*self.0.store, query, after, PAGE).await.map_err(from_store)?;
            targets.extend(self.classified(action, &page.agents).await?);
            if targets.len() > MAX_TARGETS {
                let problem = format!("more than {MAX_TARGETS} agents match: use narrower selectors");
                return Err(errors::status(Code::ResourceExhausted, "TOO_MANY_AGENTS", problem, &[]));
            }
            after = page.next;
            if after.is_none() {
                return Ok(targets);
            }
        }
    }

    /// Who waits for the command, and who will not get it.
    async fn classified(
        &self,
        action: &Action,
        records: &[AgentRecord],
    ) -> Result<Vec<(InstanceUid, TargetState)>, Status> {
        let uids: Vec<InstanceUid> = records.iter().map(|record| record.uid).collect();
        let announced: HashMap<_, _> = match action {
            Action::Restart => HashMap::new(),
            Action::Message(_) => self.0.store.read_announced(&uids).await.map_err(from_store)?.into_iter().collect(),
        };
        let state = |record: &AgentRecord| {
            let capabilities = announced.get(&record.uid).map(store::Announced::capabilities).unwrap_or_default();
            match (action.is_for(&record.observed, &capabilities), record.presence.connected) {
                (false, _) => TargetState::NotCapable,
                (true, false) => TargetState::NotConnected,
                (true, true) => TargetState::Waiting,
            }
        };
        Ok(records.iter().map(|record| (record.uid, state(record))).collect())
    }

    async fn watch(&self, id: CommandId) -> Result<ReceiverStream<Result<admin::Command, Status>>, Status> {
        let context = self.0.clone();
        let permit = context.watches.clone().try_acquire_owned().map_err(|_| messages::too_many())?;
        let mut last = read(&context, id).await?;
        let (changes, receiver) = mpsc::channel(1);
        let work = async move {
            let _guard = (permit, metrics::watch_opened());
            let mut is_news = true;
            loop {
                if is_news && changes.send(Ok(last.clone())).await.is_err() || last.finish_time.is_some() {
                    return;
                }
                tokio::select! {
                    () = changes.closed() => return,
                    () = context.shutdown.cancelled() => {
                        let _ = changes.send(Err(messages::shutting_down())).await;
                        return;
                    }
                    () = tokio::time::sleep(WATCH_INTERVAL) => {}
                }
                match read(&context, id).await {
                    Ok(command) => {
                        is_news = command != last;
                        last = command;
                    }
                    // The store's being away for a while does not end a watch.
                    Err(status) if status.code() == Code::Unavailable => is_news = false,
                    Err(status) => {
                        let _ = changes.send(Err(status)).await;
                        return;
                    }
                }
            }
        };
        tokio::spawn(work);
        Ok(ReceiverStream::new(receiver))
    }

    async fn targets(&self, message: ListCommandTargetsRequest) -> Result<ListCommandTargetsResponse, Status> {
        let id = command_id(&message.command_id)?;
        let size = pages::size(message.page_size)?;
        let pages = Pages::of(&["command targets", &id.to_string()]);
        let after = pages.after(&message.page_token)?.map(|last| InstanceUid::from_slice(&last)).transpose();
        let after = after.map_err(|_| pages::invalid_token())?;
        self.0.store.get_command(id).await.map_err(from_store)?;
        let targets = self.0.store.command_targets(id, &[], after, size as u32).await.map_err(from_store)?;
        let last = targets.last().filter(|_| targets.len() == size);
        Ok(ListCommandTargetsResponse {
            next_page_token: last.map(|last| pages.token(last.uid.as_bytes())).unwrap_or_default(),
            targets: targets.iter().map(convert::command::target).collect(),
        })
    }
}

async fn read(context: &Context, id: CommandId) -> Result<admin::Command, Status> {
    use TargetState::{Expired, NotCapable, NotConnected, Unknown};
    let progress = context.store.get_command(id).await.map_err(from_store)?;
    let states = [NotConnected, NotCapable, Unknown, Expired];
    let not_sent = context.store.command_targets(id, &states, None, MAX_NAMED).await.map_err(from_store)?;
    Ok(convert::command::command(&progress, &not_sent))
}

fn command_id(text: &str) -> Result<CommandId, Status> {
    let id = uuid::Uuid::try_parse(text);
    id.map(CommandId).map_err(|_| errors::invalid("command_id", format!("{text:?} is not a UUID")))
}

fn check_message(message: &opamp::CustomMessage) -> Result<(), Status> {
    let mut violations = Violations::default();
    if message.capability.is_empty() {
        violations.add("capability", "must be given");
    }
    for (field, text) in [("capability", &message.capability), ("type", &message.r#type)] {
        if text.chars().count() > MAX_NAME_CHARS || text.chars().any(char::is_control) {
            violations.add(field, format!("has at most {MAX_NAME_CHARS} characters and no control characters"));
        }
    }
    if message.data.len() > MAX_DATA_BYTES {
        let problem = format!("has {} bytes; at most {MAX_DATA_BYTES} are possible", message.data.len());
        violations.add("data", problem);
    }
    violations.check()
}
