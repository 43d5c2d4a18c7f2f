//! Whether there is a server to judge: what the runner asks before its first case.

use super::{
    Error,
    case::{Step, Stop},
    context::Context,
    target::Target,
};

/// What came of an attempt: a status, or the reason why there is none.
type Outcome = Result<u16, String>;

/// Fails unless the server takes agents of ours over one transport at least.
pub async fn reach(cx: &Context, target: &Target) -> Result<(), Error> {
    target.connect(cx.patience).await.map_err(Error::Unreachable)?;
    // An upgrade first: it makes no agent there.
    let upgrade = told(upgraded(cx, target).await);
    if upgrade == Ok(101) {
        return Ok(());
    }
    let post = told(posted(cx, target).await);
    let _ = tokio::time::timeout(cx.patience, cx.clean_up()).await;
    // Another success than 200 is wrong, which is for a case to say.
    if matches!(post, Ok(200..300)) {
        return Ok(());
    }
    let url = target.url.to_string();
    for outcome in [&upgrade, &post] {
        if let Ok(status @ (401 | 403)) = outcome {
            return Err(Error::Refused { url, status: *status, has_token: cx.world.token.is_some() });
        }
    }
    let text = |outcome: Outcome| outcome.map_or_else(|why| why, |status| format!("status {status}"));
    Err(Error::NoServer { url, upgrade: text(upgrade), post: text(post) })
}

async fn upgraded(cx: &Context, target: &Target) -> Step<u16> {
    let (request, _) = cx.upgrade_to(target);
    Ok(cx.http_to(target).await?.exchange(&request).await?.status)
}

async fn posted(cx: &Context, target: &Target) -> Step<u16> {
    let mut http = cx.http_to(target).await?;
    let request = http.post(&cx.agent().full());
    Ok(http.exchange(&request).await?.status)
}

fn told(step: Step<u16>) -> Outcome {
    step.map_err(|stop| match stop {
        Stop::Fail(why) | Stop::Skip(why) => why,
    })
}
