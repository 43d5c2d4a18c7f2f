//! An agent's health.

use super::PAGE_SIZE;
use crate::{
    cli::{
        connection::Client,
        error::Result,
        output::{self, Format, Table},
        view::health::{Health, Transition},
    },
    proto::admin::{GetAgentHealthRequest, ListHealthTransitionsRequest},
};

pub async fn show(client: &Client, uid: String, with_history: bool, format: Format) -> Result<()> {
    let request = client.request(GetAgentHealthRequest { instance_uid: uid.clone() });
    let health = client.agents().get_agent_health(request).await?.into_inner();
    let history = if with_history { Some(history(client, uid).await?) } else { None };
    let health = Health { instance_uid: health.instance_uid, health: health.health.map(Into::into), history };
    match (format, &health.history, &health.health) {
        (Format::Json | Format::Yaml, ..) => output::structured(format, &health),
        (Format::Name, ..) => output::write(&format!("agent/{}\n", health.instance_uid)),
        (_, Some(history), _) if history.is_empty() => nothing("no transition of its health is known"),
        (_, Some(history), _) => output::write(&Table::default().lines(Transition::rows(history))),
        (_, None, Some(tree)) => output::write(&Table::default().lines(tree.rows())),
        (_, None, None) => nothing("the agent reports no health"),
    }
}

fn nothing(text: &str) -> Result<()> {
    eprintln!("{text}");
    Ok(())
}

async fn history(client: &Client, instance_uid: String) -> Result<Vec<Transition>> {
    let mut history = Vec::new();
    let mut request = ListHealthTransitionsRequest { instance_uid, page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = client.agents().list_health_transitions(client.request(request.clone())).await?.into_inner();
        history.extend(page.transitions.into_iter().map(Transition::from));
        if page.next_page_token.is_empty() {
            return Ok(history);
        }
        request.page_token = page.next_page_token;
    }
}
