//! Commands: restart, send a message. And the messages that agents send.

use std::{io::Read, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::{
    cli::{
        args::{Data, Recipients},
        connection::Client,
        error::{Error, Result},
        output::{self, Format, Table, plain},
        view::command::{Command, Outcome},
    },
    proto::admin::{
        self, AgentCustomMessage, RestartRequest, SendMessageRequest, WatchCommandRequest, WatchMessagesRequest,
        restart_request, send_message_request, watch_messages_response::Event,
    },
};

pub async fn restart(client: &Client, to: Recipients, rate: u32, no_wait: bool, format: Format) -> Result<()> {
    let is_one = to.uid.is_some();
    let to = match to.uid {
        Some(uid) => restart_request::To::InstanceUid(uid),
        None => restart_request::To::Selector(to.selector.unwrap_or_default()),
    };
    let command_id = uuid::Uuid::now_v7().to_string();
    let request = RestartRequest { command_id, to: Some(to), per_second: rate };
    let command = client.commands().restart(client.request(request)).await?.into_inner();
    follow(client, command, is_one, no_wait, format).await
}

pub async fn send(client: &Client, to: Recipients, data: Data, no_wait: bool, format: Format) -> Result<()> {
    let is_one = to.uid.is_some();
    let to = match to.uid {
        Some(uid) => send_message_request::To::InstanceUid(uid),
        None => send_message_request::To::Selector(to.selector.unwrap_or_default()),
    };
    let Data { capability, r#type, data, data_file } = data;
    let data = match (data, data_file) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(path)) => read(&path)?,
        (None, None) => Vec::new(),
    };
    let command_id = uuid::Uuid::now_v7().to_string();
    let request = SendMessageRequest { command_id, to: Some(to), per_second: 0, capability, r#type, data: data.into() };
    let command = client.commands().send_message(client.request(request)).await?.into_inner();
    follow(client, command, is_one, no_wait, format).await
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            return std::io::stdin().read_to_end(&mut bytes).map(|_| bytes);
        }
        std::fs::read(path)
    };
    read().map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Waits until the command is finished, and shows what became of it. A command for one agent fails if that did not get it.
async fn follow(
    client: &Client,
    mut command: admin::Command,
    is_one: bool,
    no_wait: bool,
    format: Format,
) -> Result<()> {
    let id = command.id.clone();
    while command.finish_time.is_none() && !no_wait {
        let request = client.request(WatchCommandRequest { command_id: id.clone() });
        let mut changes = client.commands().watch_command(request).await?.into_inner();
        while let Some(change) = changes.message().await? {
            command = change;
        }
    }
    let command = Command::from(command);
    match format {
        Format::Json | Format::Yaml => output::structured(format, &command)?,
        Format::Name => output::write(&format!("command/{}\n", command.id))?,
        Format::Table | Format::Wide => output::write(&text(&command))?,
    }
    match command.not_sent.first() {
        Some(Outcome { instance_uid, outcome }) if is_one => {
            Err(Error::Message(format!("agent {instance_uid} did not get it: {}", outcome.replace('_', " "))))
        }
        _ => Ok(()),
    }
}

fn text(command: &Command) -> String {
    let counts = [
        (command.sent, "sent"),
        (command.waiting, "waiting"),
        (command.under_way, "under way"),
        (command.not_connected, "not connected"),
        (command.not_capable, "not capable"),
        (command.expired, "expired"),
        (command.unknown, "unknown"),
    ];
    let told = counts.iter().enumerate().filter(|(place, (count, _))| *place == 0 || *count > 0);
    let told: Vec<_> = told.map(|(_, (count, what))| format!("{count} {what}")).collect();
    let mut out = format!("{} {}: {}\n", command.action, command.id, told.join(", "));
    if !command.not_sent.is_empty() {
        let mut rows = vec![vec!["INSTANCE UID".to_owned(), "OUTCOME".to_owned()]];
        let cells = |it: &Outcome| vec![it.instance_uid.clone(), it.outcome.replace('_', " ")];
        rows.extend(command.not_sent.iter().map(cells));
        out.push_str(&Table::default().lines(rows));
    }
    out
}

/// A line of JSON, or a document of YAML.
#[derive(Serialize)]
struct Line {
    instance_uid: String,
    capability: String,
    r#type: String,
    /// Base64.
    data: String,
}

/// Ends with an error when the server ends the stream.
pub async fn messages(client: &Client, capability: String, selector: String, format: Format) -> Result<()> {
    let request = client.request(WatchMessagesRequest { capability, selector });
    let mut events = client.commands().watch_messages(request).await?.into_inner();
    let mut table = Table::default();
    if matches!(format, Format::Table | Format::Wide) {
        let header = ["INSTANCE UID", "CAPABILITY", "TYPE", "DATA"].map(str::to_owned).to_vec();
        // As wide as a uid, so that the rows that follow line up.
        table.lines(vec![vec![" ".repeat(36)]]);
        output::write(&table.lines(vec![header]))?;
    }
    while let Some(event) = events.message().await? {
        match event.event {
            Some(Event::Message(message)) => print(&mut table, message, format)?,
            Some(Event::Lost(lost)) if lost.count == 0 => eprintln!("messages were lost here"),
            Some(Event::Lost(lost)) => eprintln!("{} messages were lost here", lost.count),
            None => {}
        }
    }
    Err(Error::Message("the server ended the stream".to_owned()))
}

fn print(table: &mut Table, message: AgentCustomMessage, format: Format) -> Result<()> {
    let AgentCustomMessage { instance_uid, capability, r#type, data } = message;
    let line = |data| Line { instance_uid, capability, r#type, data };
    match format {
        Format::Json => {
            let text = serde_json::to_string(&line(STANDARD.encode(&data))).map_err(|error| error.to_string())?;
            output::write(&(text + "\n"))
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(&line(STANDARD.encode(&data))).map_err(|error| error.to_string())?;
            output::write(&format!("---\n{text}"))
        }
        Format::Name => output::write(&format!("agent/{}\n", line(String::new()).instance_uid)),
        Format::Table | Format::Wide => {
            let Line { instance_uid, capability, r#type, data } = line(shown(&data));
            output::write(&table.lines(vec![vec![instance_uid, capability, r#type, data]]))
        }
    }
}

/// Text as it is, anything else in base64.
fn shown(data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(text) if text.chars().all(|c| !c.is_control() || c.is_whitespace()) => plain(text),
        _ => format!("base64:{}", STANDARD.encode(data)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_is_no_text_is_shown_in_base64() {
        assert_eq!(shown(b"{\"a\": 1}"), "{\"a\": 1}");
        assert_eq!(shown(&[0xff, 0]), "base64:/wA=");
        assert_eq!(shown(b"\x1b[31m"), "base64:G1szMW0=");
    }
}
