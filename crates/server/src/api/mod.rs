//! The HTTP API on port 8085.
//!
//! `post` is the hot path: one allocation for the payload, one for the type, no tree, no layer between the
//! connection and the append.

mod body;
mod json;
mod query;
mod route;

mod command;
mod idempotency;

mod answer;
mod dead;
mod health;
mod messages;
mod origin;
mod post;
mod workers;

pub(crate) use answer::MetricsOnly;
pub(crate) use body::BodyLimit;
pub(crate) use command::{CommandRules, check_headers, check_type_name, parse_time};
pub(crate) use health::Phase;
pub(crate) use idempotency::{IDEMPOTENCY_KEY, MAX_KEY_BYTES};
pub(crate) use origin::OriginRule;
pub(crate) use route::RouteLabel;
pub(crate) use workers::MAX_REASON_BYTES;

use std::{sync::Arc, time::Duration};

use outboard::Workers;
use outboard_core::{Ledger, Log};
use outboard_embedded::Embedded;

use crate::metrics::HttpMetrics;

/// Everything that requests need.
#[derive(Debug)]
pub(crate) struct Api {
    /// Where commands go.
    pub log: Arc<dyn Log>,
    /// What became of them.
    pub ledger: Arc<dyn Ledger>,
    /// The storage under both, for what the ports do not tell.
    pub storage: Arc<Embedded>,
    /// Who handles them.
    pub workers: Arc<Workers>,
    /// What commands are checked against.
    pub rules: CommandRules,
    /// Bounds of requests.
    pub limits: RequestLimits,
    /// Which web pages may send requests.
    pub origins: OriginRule,
    /// How long idempotency keys are kept.
    pub keep: Duration,
    /// Whether the process drains.
    pub phase: Arc<Phase>,
    /// What requests were answered.
    pub http: HttpMetrics,
    /// How long the process took until it served.
    pub start: Duration,
}

/// Bounds of requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestLimits {
    /// The largest body.
    pub body: BodyLimit,
    /// The largest body of a batch.
    pub batch: BodyLimit,
    /// How long a client may take for a body.
    pub read: Duration,
}
