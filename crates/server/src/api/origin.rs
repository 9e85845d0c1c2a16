//! Keeps web pages out: a browser would send requests to this machine for any page that is open in it.
//!
//! A browser says which page a request comes from: `Origin`, on every request that could change something. Programs do
//! not send it, and are not asked. A page reaches a listener on loopback under a name of its own when it points that
//! name at 127.0.0.1 (DNS rebinding), and then reads what it likes without an `Origin`; its `Host` gives it away.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{HOST, ORIGIN},
};
use outboard_http::{Problem, problem::FieldError};

/// Which requests may come in, by their `Origin` and `Host`: those of no web page but this address's own, and on
/// loopback those to no name that a page may have pointed here. One for each listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OriginRule {
    /// Whether only this machine reaches the listener.
    is_loopback: bool,
}

impl OriginRule {
    /// The rule of a listener at this address.
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self { is_loopback: address.ip().to_canonical().is_loopback() }
    }

    /// Refuses a request that another address's page sends (problem `origin`), and on loopback one whose `Host` is a
    /// name that may be anybody's (problem `host`). Costs two look-ups when there is no `Origin`.
    pub(crate) fn check(self, headers: &HeaderMap) -> Result<(), Problem> {
        if headers.contains_key(ORIGIN) {
            self.check_origin(headers)?;
        }
        if self.is_loopback && !headers.get_all(HOST).iter().all(is_no_pages_name) {
            return Err(refused(
                ("host", "Unknown host name"),
                "Host",
                "is a name that any web page may have pointed here; \
                 use localhost or an IP address, and have a proxy in front send one of these",
            ));
        }
        Ok(())
    }

    fn check_origin(self, headers: &HeaderMap) -> Result<(), Problem> {
        let host = headers.get(HOST).map_or("", text);
        let is_own = |origin: &HeaderValue| {
            let (_, authority) = text(origin).split_once("://").unwrap_or_default();
            !authority.is_empty() && authority.eq_ignore_ascii_case(host)
        };
        if !headers.get_all(ORIGIN).iter().all(is_own) {
            return Err(refused(
                FOREIGN_PAGE,
                "Origin",
                "names another address than Host: web pages of other addresses may not send requests; \
                 send it from a program without Origin, or through your application",
            ));
        }
        if self.is_loopback && !is_loopback_name(host) {
            return Err(refused(
                FOREIGN_PAGE,
                "Origin",
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
    let name = name_of(host);
    name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

/// Whether nobody can point a name of theirs here under this `Host`: it is an address, this machine's own name, or not
/// there, as with no browser.
fn is_no_pages_name(host: &HeaderValue) -> bool {
    let Ok(name) = host.to_str().map(name_of) else { return false };
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// A `Host` without its port and brackets.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|bracketed| bracketed.split_once(']')) {
        Some((name, port)) if port.is_empty() || port.starts_with(':') => name,
        Some(_) => host,
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// The type and title of the problem that a page of another address gets.
const FOREIGN_PAGE: (&str, &str) = ("origin", "Not for web pages");

fn refused((kind, title): (&str, &str), header: &str, told: &str) -> Problem {
    let detail = format!("the request's {header} {told}");
    let mut problem = Problem::new(StatusCode::FORBIDDEN, kind, title, detail);
    problem.errors.push(FieldError::new(header, told));
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_problem_tells_a_foreign_page_from_an_unknown_name() {
        let told = |headers: &[(http::HeaderName, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            let problem =
                OriginRule { is_loopback: true }.check(&headers.collect()).expect_err("it is refused");
            (problem.kind, problem.title, problem.errors[0].field.clone())
        };
        let said = |kind: &str, title: &str, field: &str| {
            (format!("urn:outboard:problem:{kind}"), title.to_owned(), field.to_owned())
        };
        let unknown = told(&[(HOST, "shop.example")]);
        assert_eq!(unknown, said("host", "Unknown host name", "Host"));
        let foreign = told(&[(HOST, "localhost"), (ORIGIN, "http://shop.example")]);
        assert_eq!(foreign, said("origin", "Not for web pages", "Origin"));
    }

    #[test]
    fn only_pages_of_the_same_address_may_send_requests() {
        // Origins, Host, whether a listener on loopback takes it, whether another one does.
        let cases: &[(&[&str], &str, bool, bool)] = &[
            (&[], "127.0.0.1:8085", true, true),
            (&[], "LOCALHOST", true, true),
            (&[], "[::1]:8085", true, true),
            (&[], "10.1.2.3:8085", true, true),
            (&[], "[fd00::7]", true, true),
            (&[], "", true, true),
            (&[], "shop.example", false, true),
            (&[], "shop.example:8085", false, true),
            (&[], "localhost.example", false, true),
            (&[], "127.0.0.1.example:8085", false, true),
            (&[], "[::1].example", false, true),
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
