//! Requests for client certificates, and the certificates that were issued.

use bytes::Bytes;
use uuid::Uuid;

use super::{InstanceUid, UnixMs, agent::Certificate};

/// Of one agent, requests within [`REQUESTS_WINDOW_MS`]: more are refused, so that an agent that makes a new key on each
/// connection does not go on for ever.
pub const MAX_REQUESTS: usize = 10;
/// An hour.
pub const REQUESTS_WINDOW_MS: i64 = 3_600_000;

/// What an agent is told when an operator has said no.
pub const DENIED: &str = "the request for a certificate was denied";

/// One request, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: Uuid,
    /// The agent that asked, and that alone the certificate is for.
    pub uid: InstanceUid,
    /// SubjectPublicKeyInfo in DER.
    pub public_key: Bytes,
    /// Counts the certificates for this key of this agent, from 1.
    pub generation: u32,
    pub state: State,
    pub requested_at: UnixMs,
    /// Of the last decision; `None` while it waits.
    pub decided_at: Option<UnixMs>,
    /// The operator token's name, or `system`; empty while it waits.
    pub decided_by: String,
    pub issued: Option<Issued>,
    /// When an agent first connected with it.
    pub used_at: Option<UnixMs>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    pub serial: [u8; 16],
    /// PEM.
    pub certificate: Bytes,
    /// The authority's own, PEM.
    pub issuer: Bytes,
    pub not_before: UnixMs,
    pub not_after: UnixMs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i16)]
pub enum State {
    /// An operator is to decide.
    Pending = 0,
    Denied = 1,
    /// It may be used until it expires.
    Issued = 2,
    /// A later certificate of the agent has been used.
    Superseded = 3,
    Revoked = 4,
}

impl State {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Denied, Self::Issued, Self::Superseded, Self::Revoked];

    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i16 == number)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Denied => "denied",
            Self::Issued => "issued",
            Self::Superseded => "superseded",
            Self::Revoked => "revoked",
        }
    }
}

impl Issued {
    /// As the agent's record keeps it.
    pub fn for_agent(&self) -> Certificate {
        Certificate {
            certificate: self.certificate.clone(),
            issuer: self.issuer.clone(),
            serial: Bytes::copy_from_slice(&self.serial),
            not_after: self.not_after,
            is_used: false,
        }
    }

    /// Whether it is late enough for the agent to get another for the same key: a third of its time is left.
    pub fn is_to_be_renewed(&self, now: UnixMs) -> bool {
        let lifetime = self.not_after.saturating_sub(self.not_before).max(0);
        now >= self.not_after.saturating_sub(lifetime / 3)
    }
}

/// What to say to an agent that asks for a certificate for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It has one: that one again.
    Has(&'a Issued),
    /// It asked before, and nobody has decided.
    Waits,
    /// An operator said no, or took the certificate back.
    Refused(State),
    /// It asks too often.
    TooOften,
    /// A new request, the key's certificate of this generation.
    New(u32),
}

/// Decides by all requests of the agent that are `known`. The same key gets the same certificate until that is to be renewed.
pub fn answer<'a>(known: &'a [Request], public_key: &[u8], now: UnixMs) -> Answer<'a> {
    let of_key = known.iter().filter(|request| request.public_key == public_key);
    let last = of_key.max_by_key(|request| request.generation);
    if let Some(last) = last {
        match (last.state, &last.issued) {
            (State::Pending, _) => return Answer::Waits,
            (state @ (State::Denied | State::Revoked), _) => return Answer::Refused(state),
            (State::Issued, Some(issued)) if !issued.is_to_be_renewed(now) => return Answer::Has(issued),
            (State::Issued | State::Superseded, _) => {}
        }
    }
    let since = now.saturating_sub(REQUESTS_WINDOW_MS);
    if known.iter().filter(|request| request.requested_at > since).count() >= MAX_REQUESTS {
        return Answer::TooOften;
    }
    Answer::New(last.map_or(1, |last| last.generation.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn request(key: u8, generation: u32, state: State, requested_at: UnixMs) -> Request {
        let issued = Issued {
            serial: [key; 16],
            certificate: Bytes::new(),
            issuer: Bytes::new(),
            not_before: requested_at,
            not_after: requested_at + 90 * DAY_MS,
        };
        Request {
            id: Uuid::from_u128(u128::from(generation) << 8 | u128::from(key)),
            uid: InstanceUid::from_slice(&[1; 16]).expect("not zero"),
            public_key: vec![key].into(),
            generation,
            state,
            requested_at,
            decided_at: None,
            decided_by: String::new(),
            issued: matches!(state, State::Issued | State::Superseded | State::Revoked).then_some(issued),
            used_at: None,
        }
    }

    #[test]
    fn the_same_key_gets_the_same_until_it_is_to_be_renewed() {
        let known =
            [request(1, 1, State::Issued, 0), request(2, 1, State::Pending, 0), request(3, 1, State::Denied, 0)];
        assert!(matches!(answer(&known, &[1], 59 * DAY_MS), Answer::Has(issued) if issued.serial == [1; 16]));
        assert_eq!(answer(&known, &[1], 60 * DAY_MS), Answer::New(2));
        assert_eq!(answer(&known, &[1], 100 * DAY_MS), Answer::New(2), "expired");
        assert_eq!(answer(&known, &[2], 60 * DAY_MS), Answer::Waits);
        assert_eq!(answer(&known, &[3], 60 * DAY_MS), Answer::Refused(State::Denied));
        assert_eq!(answer(&known, &[4], 60 * DAY_MS), Answer::New(1));
        let known = [request(1, 1, State::Superseded, 0), request(1, 2, State::Superseded, 0)];
        assert_eq!(answer(&known, &[1], DAY_MS), Answer::New(3), "an agent that was set back to an earlier state");
        assert_eq!(answer(&[request(1, 1, State::Revoked, 0)], &[1], 0), Answer::Refused(State::Revoked));
    }

    #[test]
    fn an_agent_with_a_new_key_each_time_is_stopped_for_a_while() {
        let now = 10 * DAY_MS;
        let known: Vec<_> = (0..MAX_REQUESTS as u8).map(|key| request(key, 1, State::Issued, now)).collect();
        assert_eq!(answer(&known, &[99], now), Answer::TooOften);
        assert!(matches!(answer(&known, &[3], now), Answer::Has(_)), "what it has it gets all the same");
        assert_eq!(answer(&known, &[99], now + REQUESTS_WINDOW_MS), Answer::New(1));
    }

    fn any_request() -> impl Strategy<Value = Request> {
        (0..4_u8, 1..4_u32, prop::sample::select(&State::ALL[..]), 0..200_i64)
            .prop_map(|(key, generation, state, day)| request(key, generation, state, day * DAY_MS))
    }

    proptest! {
        /// However it came to be asked: taking the answer's word and asking again gives the same certificate, so that no
        /// agent that repeats its request makes new ones.
        #[test]
        fn asking_again_makes_no_other(known in prop::collection::vec(any_request(), 0..8), key in 0..4_u8, day in 0..200_i64) {
            let now = day * DAY_MS;
            if let Answer::New(generation) = answer(&known, &[key], now) {
                let mut after = known.clone();
                prop_assert!(after.iter().all(|it| it.public_key != [key][..] || it.generation != generation));
                after.push(request(key, generation, State::Issued, now));
                let made = after.last().and_then(|it| it.issued.clone());
                prop_assert_eq!(answer(&after, &[key], now), Answer::Has(made.as_ref().expect("it is issued")));
                after.last_mut().expect("it was added").state = State::Pending;
                prop_assert_eq!(answer(&after, &[key], now), Answer::Waits);
            }
        }

        #[test]
        fn nobody_is_given_what_is_not_good(known in prop::collection::vec(any_request(), 0..8), key in 0..4_u8, day in 0..200_i64) {
            let now = day * DAY_MS;
            if let Answer::Has(issued) = answer(&known, &[key], now) {
                prop_assert!(issued.not_after > now);
                let of = known.iter().find(|it| it.issued.as_ref() == Some(issued)).expect("it is one of those known");
                prop_assert_eq!(of.state, State::Issued);
                prop_assert_eq!(&of.public_key[..], &[key][..]);
            }
        }
    }
}
