//! What packages an agent should have and has.

use crate::{
    cli::{
        connection::Client,
        error::Result,
        output::{self, Format},
        view::agent_package::AgentPackages,
    },
    proto::admin::GetAgentPackagesRequest,
};

pub async fn show(client: &Client, instance_uid: String, format: Format) -> Result<()> {
    let request = client.request(GetAgentPackagesRequest { instance_uid });
    let answer = client.agents().get_agent_packages(request).await?.into_inner();
    let packages = AgentPackages::from(answer);
    match format {
        Format::Json | Format::Yaml => output::structured(format, &packages),
        _ => {
            if let Some(offer) = packages.offer.as_ref().filter(|offer| !offer.error.is_empty()) {
                eprintln!("{}: {}", offer.convergence, output::plain(&offer.error));
            }
            output::list(format, &packages.packages)
        }
    }
}
