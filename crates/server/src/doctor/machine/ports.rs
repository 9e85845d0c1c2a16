//! Who has the ports that we would listen on.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use super::holder::Holder;
use crate::{config::env, doctor::report::Check};

/// Whether a port can be had. `key` is what configures it, `holder` who has the data directory.
pub(super) fn port(key: &str, address: SocketAddr, holder: &Holder) -> Check {
    let name = key.trim_end_matches(".port");
    let name = format!("{name} port");
    if address.port() == 0 {
        return Check::ok(name, "any that is free");
    }
    // Bound for an instant, and never served.
    match TcpListener::bind(address) {
        Ok(_) => Check::ok(name, format!("{address} is free")),
        Err(error) => judge(name, (key, address), &error, holder),
    }
}

fn judge(name: String, (key, address): (&str, SocketAddr), error: &io::Error, holder: &Holder) -> Check {
    let variable = env::variable_name(key);
    let port = address.port();
    let set = format!("set `{key}` or {variable}; 0 takes any");
    match error.kind() {
        io::ErrorKind::AddrInUse => match holder.url() {
            Some(url) if url.ends_with(&format!(":{port}")) => {
                Check::ok(name, format!("{address} is taken by the server that runs here"))
            }
            // It could not have started without its ports, if it was given these.
            Some(_) if key != "api.port" => Check::ok(
                name,
                format!("{address} is taken, by the server that runs here if it has this key"),
            ),
            _ => Check::problem(
                name,
                format!("{address} is taken by another process"),
                format!("`ss -ltnp 'sport = :{port}'` names it; stop it, or {set}"),
            ),
        },
        io::ErrorKind::PermissionDenied => {
            Check::problem(name, format!("{address} may not be listened on: {error}"), set)
        }
        io::ErrorKind::AddrNotAvailable => {
            let key = key.replace(".port", ".host");
            let mend = format!("set `{key}` or `host`, 0.0.0.0 for every address");
            Check::problem(name, format!("{} is not an address of this machine", address.ip()), mend)
        }
        _ => Check::problem(name, format!("{address} cannot be listened on: {error}"), set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    #[test]
    fn a_port_is_free_ours_or_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ours = Holder::Server { url: format!("http://{address}") };
        let other = Holder::Server { url: "http://127.0.0.1:1".to_owned() };
        for (key, holder, status) in [
            ("api.port", &ours, Status::Ok),
            ("api.port", &other, Status::Problem),
            ("metrics.port", &other, Status::Ok),
            ("metrics.port", &Holder::Nobody, Status::Problem),
        ] {
            let check = port(key, address, holder);
            assert_eq!(check.status, status, "{check:?}");
        }
        let check = port("api.port", address, &Holder::Nobody);
        assert!(check.mend.unwrap().contains("OUTBOARD_API__PORT"));
        drop(listener);
        assert_eq!(port("api.port", address, &Holder::Nobody).status, Status::Ok);
        assert_eq!(port("api.port", "127.0.0.1:0".parse().unwrap(), &Holder::Nobody).status, Status::Ok);
    }

    #[test]
    fn an_address_of_somebody_else_is_told() {
        let check = port("api.port", "192.0.2.1:8085".parse().unwrap(), &Holder::Nobody);
        assert_eq!(check.status, Status::Problem);
        assert!(check.text.contains("not an address of this machine"), "{check:?}");
        assert!(check.mend.unwrap().contains("`api.host`"));
    }
}
