//! What an agent is built from.

use crate::{
    cli::{
        connection::Client,
        error::Result,
        output::{self, Format, Table},
        view::components::{Components, rows},
    },
    proto::admin::GetAgentComponentsRequest,
};

pub async fn show(client: &Client, uid: String, format: Format) -> Result<()> {
    let request = client.request(GetAgentComponentsRequest { instance_uid: uid });
    let components: Components = client.agents().get_agent_components(request).await?.into_inner().into();
    match (format, &components.components) {
        (Format::Json | Format::Yaml, _) => output::structured(format, &components),
        (Format::Name, _) => output::write(&format!("agent/{}\n", components.instance_uid)),
        (_, Some(parts)) => output::write(&Table::default().lines(rows(parts))),
        (_, None) => {
            let text = match components.hash.as_str() {
                "" => "the agent does not say what it is built from",
                _ => "no agent with these components has told yet what they are",
            };
            eprintln!("{text}");
            Ok(())
        }
    }
}
