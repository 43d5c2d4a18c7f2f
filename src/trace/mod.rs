//! Spans: what is done in a process for one report of an agent or one change of an operator, and in which order.
//!
//! A [`Span`] that is not recorded is nothing: it takes no memory, and nothing travels for it. Where no collector is set none is
//! recorded; `telemetry` sends those that are.
//!
//! Spans begin anew with a report of an agent, of which a settable part is recorded ([`report`]), with a call of the
//! admin API ([`call`]), and with what such a call set going long ago ([`consequence`]). They go on in what is done for them ([`child`]), and in other processes by what travels ([`follow`]).
//!
//! Architecture invariants: nothing here knows where spans go. No span belongs to a connection or to a heartbeat.

mod parent;

use std::{
    borrow::Cow,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use opentelemetry::{
    Context, ContextGuard, KeyValue, Value,
    global::BoxedTracer,
    trace::{FutureExt, Link, SpanBuilder, Status, TraceContextExt, Tracer},
};

pub use opentelemetry::trace::SpanKind as Kind;
pub use parent::{Caller, Parent};

static RECORDER: OnceLock<Recorder> = OnceLock::new();

struct Recorder {
    tracer: BoxedTracer,
    /// Which part of the reports is recorded, from 0 to 1.
    reports: f64,
}

/// From now on spans are recorded by `tracer`; of those of agents' reports the part `reports`, from 0 to 1. Can be done once in a
/// process.
pub fn install(tracer: BoxedTracer, reports: f64) {
    // A second one is a bug that costs nothing.
    let _ = RECORDER.set(Recorder { tracer, reports });
}

/// A span that is recorded until this is dropped, or none.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Context>>);

/// How many more spans may be below this one in this process.
struct Room(AtomicU32);

/// The beginning of a trace: an agent's report.
pub fn report(name: &'static str) -> Span {
    match RECORDER.get() {
        Some(recorder) if recorder.takes_report() => {
            recorder.start(SpanBuilder::from_name(name).with_kind(Kind::Server), &Context::new())
        }
        _ => Span(None),
    }
}

/// An operator's call: part of the caller's trace, or the beginning of one. Of calls that begin one and only read, no larger part is
/// recorded than of reports: who shows a fleet on a screen makes them all the time.
pub fn call(name: &str, caller: Caller, is_read: bool) -> Span {
    let Some(recorder) = RECORDER.get() else { return Span(None) };
    let above = match caller {
        Caller::Recorded(parent) => Context::new().with_remote_span_context(parent.context()),
        Caller::Unknown if !is_read || recorder.takes_report() => Context::new(),
        Caller::Unknown | Caller::NotRecorded => return Span(None),
    };
    recorder.start(SpanBuilder::from_name(name.to_owned()).with_kind(Kind::Server), &above)
}

/// The beginning of a trace of its own, which refers to what led to it, if that is known: for what goes on for hours after the call
/// that wanted it.
pub fn consequence(name: &'static str, cause: Option<Parent>) -> Span {
    let Some(recorder) = RECORDER.get() else { return Span(None) };
    let links = cause.map(|cause| Link::with_context(cause.context())).into_iter().collect();
    recorder.start(SpanBuilder::from_name(name).with_kind(Kind::Internal).with_links(links), &Context::new())
}

/// Goes on with what came from elsewhere, if that is recorded.
pub fn follow(parent: Option<Parent>, name: impl Into<Cow<'static, str>>, kind: Kind) -> Span {
    let (Some(recorder), Some(parent)) = (RECORDER.get(), parent) else { return Span(None) };
    let above = Context::new().with_remote_span_context(parent.context());
    recorder.start(SpanBuilder::from_name(name).with_kind(kind), &above)
}

/// As [`follow`], for what is done together with another span.
pub fn follow_beside(parent: Option<Parent>, name: &'static str, kind: Kind, other: &Span) -> Span {
    let (Some(recorder), Some(parent)) = (RECORDER.get(), parent) else { return Span(None) };
    let above = Context::new().with_remote_span_context(parent.context());
    let link = other.0.as_ref().map(|other| Link::with_context(other.span().span_context().clone()));
    let builder = SpanBuilder::from_name(name).with_kind(kind).with_links(link.into_iter().collect());
    recorder.start(builder, &above)
}

/// A part of what is being done here and now, if that is recorded.
pub fn child(name: impl Into<Cow<'static, str>>, kind: Kind) -> Span {
    let Some(recorder) = RECORDER.get() else { return Span(None) };
    let above = Context::map_current(|current| {
        let is_recorded = Parent::of(current.span().span_context()).is_some();
        (is_recorded && has_room(current)).then(|| current.clone())
    });
    match above {
        Some(above) => recorder.start(SpanBuilder::from_name(name).with_kind(kind), &above),
        None => Span(None),
    }
}

/// What travels of what is being done here and now.
pub fn current() -> Option<Parent> {
    RECORDER.get()?;
    Context::map_current(|current| {
        let parent = Parent::of(current.span().span_context())?;
        has_room(current).then_some(parent)
    })
}

/// Does `work` as a part of `parent`, if there is one.
pub async fn within<T>(parent: Option<Parent>, work: impl Future<Output = T>) -> T {
    match parent.filter(|_| RECORDER.get().is_some()) {
        Some(parent) => work.with_context(Context::new().with_remote_span_context(parent.context())).await,
        None => work.await,
    }
}

fn has_room(context: &Context) -> bool {
    let take = |left: u32| left.checked_sub(1);
    context.get::<Room>().is_none_or(|room| room.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok())
}

impl Recorder {
    fn takes_report(&self) -> bool {
        // From 0 to 1, without 1.
        rand::random::<f64>() < self.reports
    }

    fn start(&self, builder: SpanBuilder, above: &Context) -> Span {
        let span = self.tracer.build_with_context(builder, above);
        let context = above.with_span(span);
        let is_recorded = Parent::of(context.span().span_context()).is_some();
        Span(is_recorded.then(|| Box::new(context)))
    }
}

impl Span {
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// What travels of it.
    pub fn parent(&self) -> Option<Parent> {
        Parent::of(self.0.as_ref()?.span().span_context())
    }

    /// With this attribute; `value` is not asked if nobody wants to know.
    pub fn with<V: Into<Value>>(self, name: &'static str, value: impl FnOnce() -> V) -> Self {
        self.set(name, value);
        self
    }

    pub fn set<V: Into<Value>>(&self, name: &'static str, value: impl FnOnce() -> V) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(name, value()));
        }
    }

    /// It did not work.
    pub fn failed(&self, why: impl FnOnce() -> String) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(why()));
        }
    }

    /// At most `spans` more are recorded below it in this process, and by what travels from here: its trace stays readable
    /// however large the fleet is.
    pub fn limited(mut self, spans: u32) -> Self {
        Self(self.0.take().map(|context| Box::new(context.with_value(Room(AtomicU32::new(spans))))))
    }

    /// Does `work` as this span's.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.0 {
            Some(context) => work.with_context((**context).clone()).await,
            None => work.await,
        }
    }

    /// What is done until the guard is dropped, without waiting for anything, is this span's.
    #[must_use]
    pub fn enter(&self) -> Option<ContextGuard> {
        self.0.as_ref().map(|context| (**context).clone().attach())
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            // Whoever still has the context, such as a task, does not make it longer.
            context.span().end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_that_is_not_recorded_is_nothing() {
        assert_eq!(size_of::<Span>(), size_of::<usize>());
        let span = child("nothing", Kind::Internal).with("asked", || -> i64 { panic!("nobody wants to know") });
        assert!(!span.is_recorded() && span.parent().is_none() && current().is_none());
    }
}
