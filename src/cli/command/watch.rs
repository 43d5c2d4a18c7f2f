//! Following agents as they change.

use serde::Serialize;

use crate::{
    cli::{
        connection::Client,
        error::{Error, Result},
        output::{self, Format, Table, View},
        view::{self, agent::Agent},
    },
    model::status::Status,
    proto::admin::{WatchAgentsRequest, watch_agents_response::Event},
};

/// A line of JSON, or a document of YAML.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "UPPERCASE")]
enum Line {
    Changed {
        object: Box<Agent>,
    },
    Gone {
        instance_uid: String,
    },
    /// Every agent that matched at the start has been told.
    Synced,
}

/// Ends with an error when the server ends the watch.
pub async fn agents(client: &Client, selector: String, statuses: &[Status], format: Format) -> Result<()> {
    let statuses = view::status::numbers(statuses);
    let request = client.request(WatchAgentsRequest { selector, statuses, connected: None });
    let mut changes = client.agents().watch_agents(request).await?.into_inner();
    let mut printer = Printer { format, table: Table::default(), waiting: Some(Vec::new()) };
    while let Some(change) = changes.message().await? {
        match change.event {
            Some(Event::Agent(agent)) => printer.print(Line::Changed { object: Box::new(agent.into()) })?,
            Some(Event::Gone(instance_uid)) => printer.print(Line::Gone { instance_uid })?,
            Some(Event::Synced(_)) => printer.print(Line::Synced)?,
            None => {}
        }
    }
    Err(Error::Message("the server ended the watch".to_owned()))
}

struct Printer {
    format: Format,
    table: Table,
    /// Rows gathered until the first list is complete, so that its columns line up.
    waiting: Option<Vec<Vec<String>>>,
}

impl Printer {
    fn print(&mut self, line: Line) -> Result<()> {
        match self.format {
            Format::Json => {
                let text = serde_json::to_string(&line).map_err(|error| error.to_string())?;
                output::write(&(text + "\n"))
            }
            Format::Yaml => {
                let text = serde_saphyr::to_string(&line).map_err(|error| error.to_string())?;
                output::write(&format!("---\n{text}"))
            }
            Format::Name => match line {
                Line::Changed { object } => output::write(&(object.name() + "\n")),
                Line::Gone { .. } | Line::Synced => Ok(()),
            },
            Format::Table | Format::Wide => self.print_row(line),
        }
    }

    fn print_row(&mut self, line: Line) -> Result<()> {
        let row = match line {
            Line::Changed { object } => output::row(self.format, &*object),
            Line::Gone { instance_uid } => vec![instance_uid, "(gone)".to_owned()],
            Line::Synced => {
                let mut rows = vec![output::header::<Agent>(self.format)];
                rows.extend(self.waiting.take().unwrap_or_default());
                return output::write(&self.table.lines(rows));
            }
        };
        match &mut self.waiting {
            Some(rows) => {
                rows.push(row);
                Ok(())
            }
            None => output::write(&self.table.lines(vec![row])),
        }
    }
}
