//! Overrides: pin, hold, clear, list.

use std::time::Duration;

use super::PAGE_SIZE;
use crate::{
    cli::{
        args::{OverrideWhat, Recipients},
        connection::Client,
        error::Result,
        output::{self, Format},
        view::overrides::Override,
    },
    proto::admin::{
        ClearOverridesRequest, ListOverridesRequest, SetOverridesRequest, SetOverridesResponse,
        clear_overrides_request::Of,
        set_overrides_request::{To, What},
    },
};

pub struct How {
    pub message: String,
    pub expires: Option<Duration>,
    pub is_dry: bool,
}

pub async fn change(client: &Client, policy: String, to: Recipients, what: OverrideWhat, how: How) -> Result<()> {
    let what = match what {
        OverrideWhat { revision: Some(number), .. } => What::Revision(number),
        OverrideWhat { hold: true, .. } => What::Hold(true),
        OverrideWhat { .. } => return clear(client, policy, to).await,
    };
    let expires_in = how.expires.map(prost_types::Duration::try_from).transpose();
    let done = match what {
        What::Revision(number) => format!("pinned to revision {number}"),
        What::Hold(_) => "held on what they have".to_owned(),
    };
    let request = SetOverridesRequest {
        policy: policy.clone(),
        message: how.message,
        expires_in: expires_in.map_err(|_| "--for is too long".to_owned())?,
        validate_only: how.is_dry,
        to: Some(match to {
            Recipients { uid: Some(uid), .. } => To::InstanceUid(uid),
            Recipients { selector, .. } => To::Selector(selector.unwrap_or_default()),
        }),
        what: Some(what),
    };
    let answer = client.overrides().set_overrides(client.request(request)).await?.into_inner();
    let SetOverridesResponse { agents, changed } = answer;
    let dry = if how.is_dry { " (dry run)" } else { "" };
    let unchanged = match agents - changed.min(agents) {
        0 => String::new(),
        unchanged => format!(", {unchanged} were already"),
    };
    output::write(&format!("policy/{policy}: {changed} agents {done}{unchanged}{dry}\n"))
}

async fn clear(client: &Client, policy: String, of: Recipients) -> Result<()> {
    let of = Some(match of {
        Recipients { uid: Some(uid), .. } => Of::InstanceUid(uid),
        Recipients { selector, .. } => Of::Selector(selector.unwrap_or_default()),
    });
    let request = ClearOverridesRequest { policy: policy.clone(), of };
    let cleared = client.overrides().clear_overrides(client.request(request)).await?.into_inner().cleared;
    output::write(&format!("policy/{policy}: {cleared} overrides cleared\n"))
}

pub async fn list(client: &Client, policy: String, instance_uid: String, format: Format) -> Result<()> {
    let mut overrides: Vec<Override> = Vec::new();
    let mut request = ListOverridesRequest { policy, instance_uid, page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = client.overrides().list_overrides(client.request(request.clone())).await?.into_inner();
        overrides.extend(page.overrides.into_iter().map(Override::from));
        if page.next_page_token.is_empty() {
            return output::list(format, &overrides);
        }
        request.page_token = page.next_page_token;
    }
}
