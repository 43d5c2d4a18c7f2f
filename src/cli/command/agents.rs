//! Agents: list, show, describe, label, forget, retry.

use std::fmt::Write;

use super::PAGE_SIZE;
use crate::{
    cli::{
        connection::Client,
        error::Result,
        output::{self, Format, Table, plain},
        view::{
            self,
            agent::{Agent, Component, Offer, text},
            or_dash, short,
        },
    },
    model::status::Status,
    proto::admin::{ForgetAgentRequest, GetAgentRequest, ListAgentsRequest, RetryConfigRequest, SetLabelsRequest},
};

pub async fn list(client: &Client, selector: String, statuses: &[Status], format: Format) -> Result<()> {
    let mut agents: Vec<Agent> = Vec::new();
    let statuses = view::status::numbers(statuses);
    let mut request = ListAgentsRequest { selector, statuses, page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = client.agents().list_agents(client.request(request.clone())).await?.into_inner();
        agents.extend(page.agents.into_iter().map(Agent::from));
        if page.next_page_token.is_empty() {
            return output::list(format, &agents);
        }
        request.page_token = page.next_page_token;
    }
}

pub async fn get(client: &Client, uid: String, format: Format) -> Result<()> {
    output::one(format, &read(client, uid).await?)
}

async fn read(client: &Client, instance_uid: String) -> Result<Agent> {
    let request = client.request(GetAgentRequest { instance_uid });
    Ok(client.agents().get_agent(request).await?.into_inner().into())
}

pub async fn describe(client: &Client, uid: String) -> Result<()> {
    output::write(&description(&read(client, uid).await?))
}

fn description(agent: &Agent) -> String {
    let line = |name: &str, value: &str| vec![name.to_owned(), or_dash(value)];
    let time = |at: &Option<String>| at.clone().unwrap_or_default();
    let mut out = Table::default().lines(vec![
        line("Instance UID:", &agent.instance_uid),
        line("Connected:", if agent.connected { "yes" } else { "no" }),
        line("Transport:", agent.transport),
        line("Gateway:", &agent.gateway),
        line("First seen:", &time(&agent.first_seen)),
        line("Last seen:", &format!("{} ({} ago)", time(&agent.last_seen), agent.last_seen_age)),
        line("Healthy:", agent.health()),
        line("Health status:", &agent.health_status),
        line("Health error:", &agent.health_error),
        line("Status:", &agent.status),
        line("Config status:", agent.config_status),
        line("Config error:", &agent.config_error),
        line("Convergence:", &agent.convergence),
        line("Desired config:", &agent.desired_config_hash),
        line("Reported config:", &agent.reported_config_hash),
        line("Effective config:", &agent.effective_config),
        line("Capabilities:", &agent.capabilities.join(", ")),
    ]);
    describe_offers(&mut out, agent);
    if !agent.overrides.is_empty() {
        pairs(&mut out, "Overrides", agent.overrides.iter().map(|one| (&one.policy, one.what())));
    }
    pairs(&mut out, "Labels", agent.labels.iter().map(|(key, value)| (key, value.clone())));
    pairs(&mut out, "Attributes", agent.attributes.iter().map(|(key, value)| (key, text(value))));
    if !agent.components.is_empty() {
        out.push_str("Components:\n");
        for (name, component) in &agent.components {
            describe_component(&mut out, name, component, 1);
        }
    }
    out
}

fn describe_offers(out: &mut String, agent: &Agent) {
    let cells = ["KIND", "STATUS", "SAYS", "DESIRED", "OFFERED", "ERROR"].map(str::to_owned);
    let row = |(kind, offer): (&&str, &Offer)| {
        let offered = offer.offered_at.clone().unwrap_or_default();
        let hash = short(&offer.desired_hash);
        let (state, says) = (offer.state.clone(), offer.status.to_owned());
        vec![(*kind).to_owned(), state, says, hash, or_dash(&offered), or_dash(&offer.error)]
    };
    if !agent.offers.is_empty() {
        let indented = |mut row: Vec<String>| {
            row[0].insert_str(0, "  ");
            row
        };
        let rows = std::iter::once(cells.to_vec()).chain(agent.offers.iter().map(row)).map(indented);
        let _ = write!(out, "Offers:\n{}", Table::default().lines(rows.collect()));
    }
}

fn pairs<'a>(out: &mut String, title: &str, pairs: impl Iterator<Item = (&'a String, String)>) {
    let rows: Vec<_> = pairs.map(|(key, value)| vec![format!("  {key}"), value]).collect();
    let none = if rows.is_empty() { " -" } else { "" };
    let _ = write!(out, "{title}:{none}\n{}", Table::default().lines(rows));
}

fn describe_component(out: &mut String, name: &str, component: &Component, depth: usize) {
    let health = if component.healthy { "healthy" } else { "unhealthy" };
    let details = [&component.status, &component.last_error].map(|text| plain(text));
    let details: Vec<_> = details.iter().filter(|text| !text.is_empty()).map(String::as_str).collect();
    let _ = writeln!(out, "{}{}: {health} {}", "  ".repeat(depth), plain(name), details.join(", "));
    for (name, component) in &component.components {
        describe_component(out, name, component, depth + 1);
    }
}

pub async fn label(client: &Client, instance_uid: String, changes: &[String]) -> Result<()> {
    let mut request = SetLabelsRequest { instance_uid, ..Default::default() };
    for change in changes {
        match change.split_once('=') {
            Some((key, value)) => {
                if request.set.insert(key.to_owned(), value.to_owned()).is_some() {
                    return Err(format!("label {key:?} is given twice").into());
                }
            }
            None => match change.strip_suffix('-') {
                Some(key) => request.remove.push(key.to_owned()),
                None => return Err(format!("{change:?} is neither KEY=VALUE nor KEY-").into()),
            },
        }
    }
    let agent = client.agents().set_labels(client.request(request)).await?.into_inner();
    output::write(&format!("agent/{} labeled\n", agent.instance_uid))
}

pub async fn forget(client: &Client, uid: String, force: bool) -> Result<()> {
    let request = ForgetAgentRequest { instance_uid: uid.clone(), etag: None, force };
    client.agents().forget_agent(client.request(request)).await?;
    output::write(&format!("agent/{uid} forgotten\n"))
}

pub async fn retry(client: &Client, instance_uid: String) -> Result<()> {
    let agent = client.agents().retry_config(client.request(RetryConfigRequest { instance_uid })).await?.into_inner();
    output::write(&format!("agent/{} will be offered what it should have again\n", agent.instance_uid))
}
