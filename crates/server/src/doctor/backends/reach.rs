//! Whether a server's name is known and its port takes connections.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use crate::doctor::report::Check;

/// How long finding the address may take, and connecting again.
const WITHIN: Duration = Duration::from_secs(3);

/// Connects to the server of a URL and goes, or says where that ended.
pub(super) async fn reach(url: &str) -> Result<Check, Check> {
    let (host, port) = endpoint(url);
    let unknown = |why: String| {
        let text = format!("the name {host} leads to no address: {why}");
        Check::problem("reach", text, "mend the host in the URL, or the machine's DNS")
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {WITHIN:?}"));
    let looked_up = timeout(WITHIN, lookup_host((host.as_str(), port))).await.map_err(late);
    let addresses: Vec<_> = match looked_up.and_then(|found| found) {
        Ok(found) => found.collect(),
        Err(error) => return Err(unknown(error.to_string())),
    };
    let began = Instant::now();
    let connected = timeout(WITHIN, TcpStream::connect(&*addresses)).await.map_err(late);
    match connected.and_then(|connected| connected) {
        Ok(_) => Ok(Check::ok("reach", format!("{host}:{port} takes connections ({:.1?})", began.elapsed()))),
        Err(error) => Err(refused(&host, port, &error)),
    }
}

fn refused(host: &str, port: u16, error: &io::Error) -> Check {
    let (text, mend) = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            ("nothing listens there", "start the server, or mend host and port in the URL")
        }
        io::ErrorKind::TimedOut => {
            ("no answer comes", "look for a firewall on the way, or mend host and port in the URL")
        }
        _ => ("it cannot be reached", "mend host and port in the URL, or the network"),
    };
    Check::problem("reach", format!("{host}:{port}: {text} ({error})"), mend)
}

/// Host and port of a URL that was checked before.
fn endpoint(url: &str) -> (String, u16) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let usual = match scheme {
        "amqp" => 5_672,
        "amqps" => 5_671,
        "nats" | "tls" => 4_222,
        _ => 6_379,
    };
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    (host.to_owned(), port.and_then(|port| port.parse().ok()).unwrap_or(usual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_found_in_every_url() {
        for (url, host, port) in [
            ("amqp://u:p%40ss@mq/v?heartbeat=1", "mq", 5_672),
            ("amqps://[::1]", "::1", 5_671),
            ("nats://token@h:7", "h", 7),
            ("tls://[::1]:9", "::1", 9),
            ("sidekiq+redis://:p@h/0?queue=q", "h", 6_379),
        ] {
            assert_eq!(endpoint(url), (host.to_owned(), port), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_told_apart() {
        let check = reach("nats://nowhere.invalid").await.unwrap_err();
        assert!(check.text.starts_with("the name nowhere.invalid leads to no address"), "{check:?}");
    }
}
