//! Whether an agent that speaks under a uid which is not stored is one that is stored under another.
//!
//! The record is where the agent is: it follows whatever uid the agent uses. So one that was given a uid and ignores it keeps its
//! own, with all that is known of it, and so does one that never heard of it.

use super::{Connection, Found, Resolution};
use crate::{config_service::report::Report, model::agent::Presence};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Succession {
    /// It is the same agent: its record goes along.
    Take,
    /// An older connection, under the other uid, may be alive: whoever holds it is to be asked first.
    Probe(Connection),
    /// It is an agent of its own, that happens to know the uid.
    Separate,
    /// The report is older than what is stored, and of no use.
    Stale,
}

/// What to make of `report`, given where the agent is that had its uid, or that it says it was.
pub fn succession(
    known: &Presence,
    report: &Report,
    resolution: Option<&Resolution>,
    is_gateway_dead: &dyn Fn(&str) -> bool,
) -> Succession {
    let connection = Connection { gateway: known.gateway.clone(), generation: known.connection_generation };
    if *report.gateway == *known.gateway && report.generation == known.connection_generation {
        // The gateway has seen the agent go from one uid to the other; what it published before that may come late.
        return if report.number > known.report_number { Succession::Take } else { Succession::Stale };
    }
    if report.is_ending {
        return Succession::Stale;
    }
    if !known.connected || is_gateway_dead(&known.gateway) {
        return Succession::Take;
    }
    match resolution.filter(|resolution| resolution.of == connection).map(|resolution| resolution.found) {
        Some(Found::Gone { .. } | Found::Silent) => Succession::Take,
        Some(Found::Alive) => Succession::Separate,
        None => Succession::Probe(connection),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_service::decide::testing::report;

    fn at(gateway: &str, connection_generation: u64, report_number: u64) -> Presence {
        Presence {
            connected: true,
            gateway: gateway.into(),
            connection_generation,
            report_number,
            ..Presence::default()
        }
    }

    fn of(known: &Presence, report: &Report) -> Succession {
        succession(known, report, None, &|_| false)
    }

    #[test]
    fn on_its_own_connection_the_agent_takes_its_record_along() {
        assert_eq!(of(&at("g", 10, 3), &report("g", 2, 10, 4)), Succession::Take);
        assert_eq!(of(&at("g", 10, 4), &report("g", 2, 10, 4)), Succession::Stale, "published before it had the other");
        let ending = Report { is_ending: true, ..report("g", 2, 10, 4) };
        assert_eq!(of(&at("g", 10, 3), &ending), Succession::Take);
    }

    #[test]
    fn elsewhere_it_is_found_out_first_whether_the_other_lives() {
        let (known, newcomer) = (at("old", 10, 3), report("new", 2, 20, 1));
        let asked = Connection { gateway: "old".into(), generation: 10 };
        assert_eq!(of(&known, &newcomer), Succession::Probe(asked.clone()));
        let resolved = |of: &Connection, found| {
            let resolution = Resolution { of: of.clone(), found };
            succession(&known, &newcomer, Some(&resolution), &|_| false)
        };
        assert_eq!(resolved(&asked, Found::Gone { last_sequence_num: None }), Succession::Take);
        assert_eq!(resolved(&asked, Found::Alive), Succession::Separate);
        let another = Connection { generation: 9, ..asked.clone() };
        assert_eq!(
            resolved(&another, Found::Alive),
            Succession::Probe(asked),
            "of another connection that says nothing"
        );
        assert_eq!(succession(&known, &newcomer, None, &|_| true), Succession::Take, "the gateway is dead");
        let gone = Presence { connected: false, ..known.clone() };
        assert_eq!(of(&gone, &newcomer), Succession::Take);
        // The same gateway knows connections by their uid: it may hold both.
        assert_eq!(
            of(&known, &report("old", 2, 20, 1)),
            Succession::Probe(Connection { gateway: "old".into(), generation: 10 })
        );
    }

    #[test]
    fn who_left_takes_nothing_along() {
        let ending = Report { is_ending: true, ..report("old", 2, 5, 9) };
        assert_eq!(of(&at("new", 10, 3), &ending), Succession::Stale);
        let gone = Presence { connected: false, ..at("new", 10, 3) };
        assert_eq!(of(&gone, &ending), Succession::Stale);
    }
}
