//! What is logged: text on a terminal, JSON lines otherwise, always on stderr.
//!
//! `error`: Outboard cannot go on. `warn`: a worker, a client or the disk needs somebody. `info`: start, stop,
//! pauses, outages. `debug`: single requests and messages by id. Payloads, header values and secrets are never logged.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt::time::SystemTime};

use crate::config::ConfigError;

/// Whether `filter` can be used.
pub(crate) fn check_filter(filter: &str) -> Result<(), ConfigError> {
    let mend =
        "write a level (error, warn, info, debug, trace), or a list such as info,outboard_embedded=debug";
    parse(filter).map(drop).map_err(|problem| ConfigError::new("log_level", problem, mend))
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    if filter.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    for part in filter.split(',') {
        // A bare word that is no level would be taken for a module at level trace.
        if !part.contains(['=', '[', ':'])
            && part.trim().parse::<tracing::level_filters::LevelFilter>().is_err()
        {
            return Err(format!("names no level in `{}`", part.trim()));
        }
    }
    EnvFilter::builder().parse(filter).map_err(|error| format!("is not a log filter: {error}"))
}

/// Starts logging for the whole process; `json` asks for JSON lines even on a terminal.
pub(crate) fn start(filter: &str, json: bool) -> Result<(), String> {
    let filter = parse(filter)?;
    let as_text = io::stderr().is_terminal() && !json;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_timer(SystemTime);
    let started = if as_text {
        tracing::subscriber::set_global_default(builder.with_ansi(!crate::config::env::no_color()).finish())
    } else {
        tracing::subscriber::set_global_default(
            builder.json().flatten_event(true).with_current_span(false).finish(),
        )
    };
    started.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_or_lists_by_module() {
        for filter in ["info", "WARN", "off", "info,outboard_embedded=debug", "outboard=trace"] {
            assert!(check_filter(filter).is_ok(), "{filter}");
        }
        for filter in ["", "loud", "info,loud", "outboard=loud"] {
            assert!(check_filter(filter).is_err(), "{filter}");
        }
    }
}
