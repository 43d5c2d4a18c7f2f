//! How values are written.

use std::{net::IpAddr, time::Duration};

/// Empty, or a whole URL: clients take an offered endpoint as it is.
pub fn opamp_url(text: &str) -> Result<String, String> {
    let is_whole = |uri: http::Uri| {
        matches!(uri.scheme_str(), Some("ws" | "wss" | "http" | "https")) && uri.host().is_some_and(|h| !h.is_empty())
    };
    match text.is_empty() || text.parse().is_ok_and(is_whole) {
        true => Ok(text.to_owned()),
        false => Err("must be a whole URL with the scheme ws, wss, http or https".to_owned()),
    }
}

/// `http://host:port`, with or without a path.
pub fn http_url(text: &str) -> Result<String, String> {
    let is_whole = |uri: http::Uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    };
    match text.parse().is_ok_and(is_whole) && !text.contains(['?', '#']) {
        true => Ok(text.to_owned()),
        false => Err("must be a whole URL with the scheme http or https, without a query".to_owned()),
    }
}

/// `30s`, `1m 30s`, `250ms`; not zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_zero(text)? {
        Duration::ZERO => Err("must be longer than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// `30s`, `1m 30s`, `250ms`, `0s`.
pub fn duration_or_zero(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 30s, 250ms or 1m 30s"))
}

/// Several names in one value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

/// `a, b`: names without white space or control characters, each once. None if empty.
pub fn names(text: &str) -> Result<Names, String> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!("{name:?} is not a name: write names like com.example.pause/v2, separated by commas"));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(Names(names))
}

/// 0 to 100, with or without `%`.
pub fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.trim_end_matches('%').trim().parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=100.0).contains(&number) { Ok(number) } else { Err("must be between 0 and 100".to_owned()) }
}

/// `key=value`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it like key=value".to_owned()),
    }
}

/// An absolute path of a URL.
pub fn url_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && !text.contains(['?', '#', ' ']) {
        Ok(text.to_owned())
    } else {
        Err("must start with / and have no query".to_owned())
    }
}

/// Most addresses in one range: more than any machine's load needs, and a mistyped range is found out.
const MAX_RANGE: u128 = 1_024;

/// `127.0.0.5`, or `127.0.0.2-127.0.0.9` for all between.
pub fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let parse = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| format!("{text:?} is not an IP address"));
    let Some((first, last)) = text.split_once('-') else {
        return Ok(vec![parse(text)?]);
    };
    let range = match (parse(first)?, parse(last)?) {
        (IpAddr::V4(first), IpAddr::V4(last)) => u32::from(first).into()..=u128::from(u32::from(last)),
        (IpAddr::V6(first), IpAddr::V6(last)) => u128::from(first)..=u128::from(last),
        _ => return Err("a range has addresses of one kind".to_owned()),
    };
    let is_v4 = parse(first)?.is_ipv4();
    if range.is_empty() || range.end() - range.start() >= MAX_RANGE {
        return Err(format!("a range has 1 to {MAX_RANGE} addresses"));
    }
    let address = |bits: u128| if is_v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) };
    Ok(range.map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_or_refused() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("30").is_err() && duration("0s").is_err());
        assert_eq!(duration_or_zero("0s"), Ok(Duration::ZERO));
        assert_eq!(percent("2.5%"), Ok(2.5));
        assert!(percent("101").is_err() && percent("NaN").is_err());
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(key_value("=b").is_err());
        assert!(http_url("http://collector:4318").is_ok() && http_url("https://[::1]:1/below").is_ok());
        for bad in ["", "collector:4318", "ws://collector", "http://", "http://collector/?a=b"] {
            assert!(http_url(bad).is_err(), "{bad}");
        }
        assert!(url_path("/v1/opamp").is_ok() && url_path("v1").is_err());
        assert_eq!(addresses("127.0.0.2-127.0.0.4").unwrap().len(), 3);
        assert_eq!(addresses("::1").unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        for bad in ["x", "127.0.0.4-127.0.0.2", "127.0.0.1-127.1.0.0", "::1-127.0.0.1"] {
            assert!(addresses(bad).is_err(), "{bad}");
        }
    }
}
