//! Running parts, which stop in the reverse of the order in which they were started.

use anyhow::{Context, anyhow};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Stage {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

#[derive(Default)]
pub struct Stages(Vec<Stage>);

impl Stages {
    /// Starts a part that runs until its token is cancelled, and then ends by itself. It may depend on all parts that
    /// were started before it.
    pub fn start<F>(&mut self, name: &'static str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(stop.clone()));
        self.0.push(Stage { name, stop, task });
    }

    /// Whether a part has ended, which none should.
    pub fn has_ended(&self) -> bool {
        self.0.iter().any(|stage| stage.task.is_finished())
    }

    /// Runs until `shutdown`, or until a part ends, which none should. Then stops the rest, the latest first.
    pub async fn run(mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = first_end(&mut self.0) => ended,
        };
        // Readiness goes off for all parts together.
        shutdown.cancel();
        while let Some(stage) = self.0.pop() {
            stage.stop.cancel();
            tracing::debug!(part = stage.name, "stopping");
            let ended = join(stage.name, stage.task.await);
            result = result.and(ended);
        }
        result
    }
}

/// Waits for the first part that ends, and takes it out.
async fn first_end(stages: &mut Vec<Stage>) -> anyhow::Result<()> {
    let (result, index, _) = futures_util::future::select_all(stages.iter_mut().map(|stage| &mut stage.task)).await;
    let name = stages.remove(index).name;
    join(name, result)?;
    Err(anyhow!("the {name} has ended"))
}

fn join(name: &'static str, result: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    result.with_context(|| format!("the {name} has panicked"))?.context(name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    type Log = Arc<Mutex<Vec<&'static str>>>;

    fn waiting(log: &Log, name: &'static str, stages: &mut Stages) {
        let log = log.clone();
        stages.start(name, |stop| async move {
            stop.cancelled().await;
            log.lock().push(name);
            Ok(())
        });
    }

    #[tokio::test]
    async fn parts_stop_in_reverse() {
        let (log, mut stages) = (Log::default(), Stages::default());
        for name in ["store", "service", "gateway"] {
            waiting(&log, name, &mut stages);
        }
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        stages.run(&shutdown).await.unwrap();
        assert_eq!(*log.lock(), ["gateway", "service", "store"]);
    }

    #[tokio::test]
    async fn one_that_ends_takes_the_others_along() {
        for (failure, expected) in [(true, "service: no disk"), (false, "the service has ended")] {
            let (log, mut stages) = (Log::default(), Stages::default());
            waiting(&log, "store", &mut stages);
            stages.start("service", move |_| async move { if failure { Err(anyhow!("no disk")) } else { Ok(()) } });
            waiting(&log, "gateway", &mut stages);
            let shutdown = CancellationToken::new();
            let error = stages.run(&shutdown).await.unwrap_err();
            assert_eq!(format!("{error:#}"), expected);
            assert_eq!(*log.lock(), ["gateway", "store"]);
            assert!(shutdown.is_cancelled());
        }
    }
}
