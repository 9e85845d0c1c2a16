//! The parts of a URL that all brokers write in the same way.

/// Host and port of `host`, `host:port`, `[::1]` or `[::1]:port`; nothing when the port is none.
#[cfg(any(feature = "rabbitmq", feature = "jetstream"))]
pub(crate) fn split_port(address: &str, usual: u16) -> Option<(&str, u16)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    let Some(port) = port else { return Some((host, usual)) };
    Some((host, port.parse().ok().filter(|&port| port > 0)?))
}

/// A text with its `%` and two hex digits as the bytes that they stand for; nothing when they are not, or when it is not
/// UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}
