//! Keeps web pages out: a browser would send requests to this machine for any page that is open in it.
//!
//! A browser says which page a request comes from: `Origin`, on every request that could change something. Programs do
//! not send it, and are not asked. A page reaches a listener on loopback under a name of its own when it points that
//! name at 127.0.0.1 (DNS rebinding); its `Host` gives it away.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{HOST, ORIGIN},
};
use outboard_http::{Problem, problem::FieldError};

/// Which web pages may send requests: those that this address serves itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OriginRule {
    /// Whether only this machine reaches the listener.
    pub is_loopback: bool,
}

impl OriginRule {
    /// Refuses a request that another address's page sends. Costs one look-up when there is no `Origin`.
    pub(crate) fn check(self, headers: &HeaderMap) -> Result<(), Problem> {
        if !headers.contains_key(ORIGIN) {
            return Ok(());
        }
        let host = headers.get(HOST).map_or("", text);
        let is_own = |origin: &HeaderValue| {
            let (_, authority) = text(origin).split_once("://").unwrap_or_default();
            !authority.is_empty() && authority.eq_ignore_ascii_case(host)
        };
        if !headers.get_all(ORIGIN).iter().all(is_own) {
            return Err(refused(
                "names another address than Host: web pages of other addresses may not send requests; \
                 send it from a program without Origin, or through your application",
            ));
        }
        if self.is_loopback && !is_loopback_name(host) {
            return Err(refused(
                "comes with a Host that is not this machine's own name; open the page by localhost, 127.0.0.1 or [::1]",
            ));
        }
        Ok(())
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

/// Whether the name in a `Host` can only mean this machine.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

fn refused(told: &str) -> Problem {
    let detail = format!("the request's Origin {told}");
    let mut problem = Problem::new(StatusCode::FORBIDDEN, "origin", "Not for web pages", detail);
    problem.errors.push(FieldError::new("Origin", told));
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_the_same_address_may_send_requests() {
        // Origins, Host, whether a listener on loopback takes it, whether another one does.
        let cases: &[(&[&str], &str, bool, bool)] = &[
            (&[], "example.org", true, true),
            (&["http://127.0.0.1:8085"], "127.0.0.1:8085", true, true),
            (&["http://LocalHost:8085"], "localhost:8085", true, true),
            (&["http://[::1]:8085"], "[::1]:8085", true, true),
            (&["http://127.9.9.9"], "127.9.9.9", true, true),
            (&["https://shop.example"], "shop.example", false, true),
            (&["http://127.0.0.1.example:80"], "127.0.0.1.example:80", false, true),
            (&["http://localhost.example"], "localhost.example", false, true),
            (&["http://shop.example"], "127.0.0.1:8085", false, false),
            (&["http://localhost:3000"], "localhost:8085", false, false),
            (&["null"], "127.0.0.1:8085", false, false),
            (&[""], "", false, false),
            (&["http://"], "", false, false),
            (&["http://localhost", "http://shop.example"], "localhost", false, false),
        ];
        for (origins, host, by_loopback, by_others) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            for origin in *origins {
                headers.append(ORIGIN, HeaderValue::from_static(origin));
            }
            for (is_loopback, taken) in [(true, by_loopback), (false, by_others)] {
                let checked = OriginRule { is_loopback }.check(&headers);
                assert_eq!(checked.is_ok(), *taken, "{origins:?} {host} {is_loopback}: {checked:?}");
            }
        }
    }
}
