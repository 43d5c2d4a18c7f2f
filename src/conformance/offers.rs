//! Packages and connection settings, in what their offers have in common.

use super::{
    agent::Agent,
    case::{Step, Verdict, ensure, skip},
    context::{Context, no_error},
    protobuf::Fields,
    reply::{Reply, capability},
    websocket::Socket,
};

/// A kind of offer.
pub struct Kind {
    name: &'static str,
    /// What a server says that offers it.
    capability: (u64, &'static str),
    of: fn(&Reply) -> Option<&Fields>,
}

pub const PACKAGES: Kind = Kind {
    name: "packages",
    capability: (capability::OFFERS_PACKAGES, "OffersPackages"),
    of: |reply| reply.packages.as_ref(),
};
pub const CONNECTION_SETTINGS: Kind = Kind {
    name: "connection settings",
    capability: (capability::OFFERS_CONNECTION_SETTINGS, "OffersConnectionSettings"),
    of: |reply| reply.connection_settings.as_ref(),
};

impl Kind {
    /// What is offered to an agent that comes.
    pub async fn first(&self, cx: &Context, agent: &mut Agent) -> Step<(Socket, Fields)> {
        let (mut socket, first) = cx.online(agent).await?;
        let (bit, name) = self.capability;
        if first.capabilities & bit == 0 {
            skip!("the server does not say {name}");
        }
        let offer = match (self.of)(&first) {
            Some(offer) => offer.clone(),
            None => self.next(&mut socket).await?,
        };
        Ok((socket, offer))
    }

    pub async fn next(&self, socket: &mut Socket) -> Step<Fields> {
        let reply = socket.until(self.name, |reply| (self.of)(reply).is_some()).await?;
        Ok((self.of)(&reply).cloned().unwrap_or_default())
    }

    /// Nothing of this kind comes while the agent speaks.
    pub async fn stays_away(
        &self,
        cx: &Context,
        socket: &mut Socket,
        agent: &mut Agent,
        first: Option<Reply>,
    ) -> Verdict {
        let replies = replies(cx, socket, agent, first).await?;
        ensure!(replies.iter().all(|reply| (self.of)(reply).is_none()), "{} are offered", self.name);
        Ok(())
    }
}

/// Speaks for a while: everything that comes, after `first`.
pub async fn replies(cx: &Context, socket: &mut Socket, agent: &mut Agent, first: Option<Reply>) -> Step<Vec<Reply>> {
    let mut replies: Vec<Reply> = first.into_iter().collect();
    for _ in 0..3 {
        replies.push(socket.say(&agent.heartbeat()).await?);
        replies.extend(socket.during(cx.quiet / 3).await?);
    }
    for reply in &replies {
        no_error(reply)?;
    }
    Ok(replies)
}
