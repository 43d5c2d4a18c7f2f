//! Settings' defaults are those of the components, where they are explained.

use clap::{Args, Command, FromArgMatches};

use super::{Admin, ConfigService, Gateway, Store};

fn defaults<T: Args + FromArgMatches>() -> T {
    let matches = T::augment_args(Command::new("test")).get_matches_from(["test"]);
    T::from_arg_matches(&matches).unwrap()
}

#[test]
fn defaults_are_the_components_own() {
    let text = |config: &dyn std::fmt::Debug| format!("{config:#?}");
    assert_eq!(text(&defaults::<Gateway>().config().unwrap()), text(&crate::gateway::Config::default()));
    assert_eq!(defaults::<ConfigService>().config().unwrap(), crate::config_service::Config::default());
    assert_eq!(defaults::<Admin>().config(), crate::admin::Config::default());
    assert_eq!(defaults::<Admin>().validators(), crate::admin::validator::Config::default());
    assert_eq!(defaults::<Store>().config(), crate::store::postgres::Config::default());
}
