//! The gateway's metrics. Handles are resolved once, so that counting costs an addition.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

macro_rules! gateway_metrics {
    (counters { $($counter:ident = $counter_name:literal, $counter_text:literal;)* }
     gauges { $($gauge:ident = $gauge_name:literal, $gauge_text:literal;)* }) => {
        pub(super) struct Metrics {
            $(pub $counter: Counter,)*
            $(pub $gauge: Gauge,)*
        }

        /// Tells the recorder what each metric means.
        pub fn describe() {
            $(describe_counter!($counter_name, $counter_text);)*
            $(describe_gauge!($gauge_name, $gauge_text);)*
            describe_counter!(REFUSALS, "Requests refused before an exchange, by reason.");
            describe_counter!(CLOSES, "WebSockets closed by the gateway, by reason.");
        }

        impl Metrics {
            /// Takes the handles from the recorder that is installed now.
            pub fn new() -> Self {
                Self { $($counter: counter!($counter_name),)* $($gauge: gauge!($gauge_name),)* }
            }
        }
    };
}

const REFUSALS: &str = "muster_gateway_refusals_total";
const CLOSES: &str = "muster_gateway_closes_total";

gateway_metrics! {
    counters {
        accepted = "muster_gateway_tcp_connections_accepted_total", "TCP connections accepted.";
        upgrades = "muster_gateway_websockets_opened_total", "WebSockets opened.";
        websocket_messages = "muster_gateway_websocket_messages_total", "Messages received over WebSocket.";
        http_messages = "muster_gateway_http_messages_total", "Messages received over plain HTTP.";
        heartbeats = "muster_gateway_heartbeats_total", "Messages answered from memory, with nothing to store.";
        bad_requests = "muster_gateway_bad_requests_total", "Messages that could not be read.";
        gaps = "muster_gateway_sequence_gaps_total", "Messages after which a sequence number was missing.";
        full_state_asks = "muster_gateway_full_state_asks_total", "Requests to an agent for its full state.";
        reports_published = "muster_gateway_reports_published_total", "Reports published to the bus, repeats included.";
        reports_repeated = "muster_gateway_reports_repeated_total", "Reports published again for want of a verdict.";
        reports_acknowledged = "muster_gateway_reports_acknowledged_total", "Reports acknowledged as durable.";
        reports_failed = "muster_gateway_reports_publish_failed_total", "Batches that the bus did not take.";
        offers_sent = "muster_gateway_offers_sent_total", "Offers sent to agents, of every kind.";
        commands_sent = "muster_gateway_commands_sent_total", "Commands sent to agents: restarts and custom messages.";
        custom_messages = "muster_gateway_custom_messages_total", "Custom messages taken from agents.";
        custom_messages_lost = "muster_gateway_custom_messages_lost_total", "Custom messages of agents that were dropped.";
        offers_dropped = "muster_gateway_offers_dropped_total", "Offers dropped as old, or as not for this agent.";
        oversize = "muster_gateway_messages_too_big_to_send_total", "Messages not sent because of their size.";
        sent_bytes = "muster_gateway_websocket_sent_bytes_total", "Bytes of messages sent over WebSocket.";
        duplicates = "muster_gateway_duplicate_uids_total", "Agents given a new uid, theirs being in use.";
        takeovers = "muster_gateway_takeovers_total", "Connections replaced by a newer one of the same agent.";
        pings = "muster_gateway_pings_total", "Pings sent.";
        pauses = "muster_gateway_reading_paused_total", "Times that a WebSocket that sent too much was not read from for a moment.";
        downloads = "muster_gateway_package_downloads_total", "Package files sent, in whole or in part.";
        downloaded_bytes = "muster_gateway_package_sent_bytes_total", "Bytes of package files sent.";
        bus_gaps = "muster_gateway_bus_gaps_total", "Times that messages of the bus may have been missed.";
    }
    gauges {
        connections = "muster_gateway_tcp_connections", "TCP connections open.";
        agents = "muster_gateway_agents", "Agents known, connected or being handed over.";
        reports_pending = "muster_gateway_reports_pending", "Reports not yet acknowledged as durable.";
        pending_bytes = "muster_gateway_reports_pending_bytes", "Memory of reports not yet acknowledged as durable.";
        max_pending_bytes = "muster_gateway_reports_pending_bytes_limit", "Most memory that such reports may take.";
    }
}

/// Counts a refusal.
pub(super) fn refused(reason: &'static str) {
    counter!(REFUSALS, "reason" => reason).increment(1);
}

/// Counts a WebSocket that the gateway closes.
pub(super) fn closed(reason: &'static str) {
    counter!(CLOSES, "reason" => reason).increment(1);
}
