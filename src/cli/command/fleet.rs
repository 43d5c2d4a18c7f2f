//! The fleet's summary.

use crate::{
    cli::{
        connection::Client,
        error::Result,
        output::{self, Format},
        view::fleet::Fleet,
    },
    proto::admin::GetFleetSummaryRequest,
};

pub async fn summary(client: &Client, format: Format) -> Result<()> {
    let summary = client.fleet().get_fleet_summary(client.request(GetFleetSummaryRequest {})).await?.into_inner();
    let fleet = Fleet::from(summary);
    match format {
        Format::Json | Format::Yaml => output::structured(format, &fleet),
        Format::Name => output::write("fleet\n"),
        Format::Table | Format::Wide => output::write(&fleet.text(format == Format::Wide)),
    }
}
