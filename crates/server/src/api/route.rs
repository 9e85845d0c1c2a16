//! Which request is for which handler.
//!
//! A closed enum instead of a router of boxed handlers: the hot path is one comparison, and a path that exists with
//! another method is told apart from one that does not exist.

use http::Method;
use outboard_core::Position;
use outboard_http::Problem;

/// One operation of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `POST /commands`
    PostCommand,
    /// `POST /commands/batch`
    PostBatch,
    /// `GET /messages`
    ListMessages,
    /// `GET /messages/{id}`
    GetMessage(Position),
    /// `GET /workers`
    ListWorkers,
    /// `POST /workers/{name}/pause`
    PauseWorker(String),
    /// `POST /workers/{name}/resume`
    ResumeWorker(String),
    /// `GET /dead`
    ListDead,
    /// `POST /dead/{id}/retry`
    RetryDead(u64),
    /// `POST /log/verify`
    VerifyLog,
    /// `GET /livez`
    Live,
    /// `GET /readyz`
    Ready,
    /// `GET /health`
    Health,
    /// `GET /metrics`
    Metrics,
}

impl Route {
    /// The route that a method and a path lead to, or why there is none. `HEAD` is answered as `GET` is.
    pub(crate) fn find(method: &Method, path: &str) -> Result<Self, Problem> {
        if path == "/commands" && method == Method::POST {
            return Ok(Self::PostCommand);
        }
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        let (allow, route): (&'static str, Self) = match segments.as_slice() {
            ["commands"] => ("POST", Self::PostCommand),
            ["commands", "batch"] => ("POST", Self::PostBatch),
            ["messages"] => ("GET, HEAD", Self::ListMessages),
            ["messages", id] => ("GET, HEAD", Self::GetMessage(Position(number("message", id)?))),
            ["workers"] => ("GET, HEAD", Self::ListWorkers),
            ["workers", name, "pause"] => ("POST", Self::PauseWorker(decode(name)?)),
            ["workers", name, "resume"] => ("POST", Self::ResumeWorker(decode(name)?)),
            ["dead"] => ("GET, HEAD", Self::ListDead),
            ["dead", id, "retry"] => ("POST", Self::RetryDead(number("dead letter", id)?)),
            ["log", "verify"] => ("POST", Self::VerifyLog),
            ["livez"] => ("GET, HEAD", Self::Live),
            ["readyz"] => ("GET, HEAD", Self::Ready),
            ["health"] => ("GET, HEAD", Self::Health),
            ["metrics"] => ("GET, HEAD", Self::Metrics),
            _ => return Err(nothing_here()),
        };
        let taken = method.as_str();
        if allow.split(", ").any(|allowed| allowed == taken) {
            Ok(route)
        } else {
            Err(Problem::method_not_allowed(allow))
        }
    }

    /// The metrics label, one of a fixed number.
    pub(crate) fn label(&self) -> RouteLabel {
        match self {
            Self::PostCommand => RouteLabel::Commands,
            Self::PostBatch => RouteLabel::Batch,
            Self::ListMessages => RouteLabel::Messages,
            Self::GetMessage(_) => RouteLabel::Message,
            Self::ListWorkers => RouteLabel::Workers,
            Self::PauseWorker(_) => RouteLabel::WorkerPause,
            Self::ResumeWorker(_) => RouteLabel::WorkerResume,
            Self::ListDead => RouteLabel::Dead,
            Self::RetryDead(_) => RouteLabel::DeadRetry,
            Self::VerifyLog => RouteLabel::LogVerify,
            Self::Live => RouteLabel::Livez,
            Self::Ready => RouteLabel::Readyz,
            Self::Health => RouteLabel::Health,
            Self::Metrics => RouteLabel::Metrics,
        }
    }
}

macro_rules! labels {
    ($($name:ident = $text:literal,)*) => {
        /// A route as the metrics name it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum RouteLabel { $($name,)* }

        impl RouteLabel {
            /// Every label.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its text.
            pub(crate) const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

labels! {
    Commands = "/commands",
    Batch = "/commands/batch",
    Messages = "/messages",
    Message = "/messages/{id}",
    Workers = "/workers",
    WorkerPause = "/workers/{name}/pause",
    WorkerResume = "/workers/{name}/resume",
    Dead = "/dead",
    DeadRetry = "/dead/{id}/retry",
    LogVerify = "/log/verify",
    Livez = "/livez",
    Readyz = "/readyz",
    Health = "/health",
    Metrics = "/metrics",
    Other = "other",
}

fn nothing_here() -> Problem {
    let paths: Vec<_> =
        RouteLabel::ALL.iter().map(|label| label.text()).filter(|text| text.starts_with('/')).collect();
    Problem::not_found(format!("there is nothing at this path; the paths are {}", paths.join(", ")))
}

fn number(what: &str, text: &str) -> Result<u64, Problem> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or_else(|| {
        let told = "is not an id; an id is a whole number, such as 42";
        let mut problem = Problem::invalid_field("id", told);
        problem.detail = format!("the id of a {what} in the path {told}");
        problem
    })
}

/// A segment with its percent signs resolved, since names may have been escaped by the client.
fn decode(segment: &str) -> Result<String, Problem> {
    super::query::decode(segment, false)
        .ok_or_else(|| Problem::malformed("the path is not UTF-8 with correct percent signs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_method_and_a_wrong_path_are_told_apart() {
        assert_eq!(Route::find(&Method::POST, "/commands").unwrap(), Route::PostCommand);
        assert_eq!(Route::find(&Method::HEAD, "/livez").unwrap(), Route::Live);
        let problem = Route::find(&Method::DELETE, "/commands").unwrap_err();
        assert_eq!((problem.status, problem.allow), (405, Some("POST")));
        for path in ["/command", "/commands/", "//commands", "", "/", "/messages/1/2", "/workers/a"] {
            assert_eq!(Route::find(&Method::GET, path).unwrap_err().status, 404, "{path}");
        }
    }

    #[test]
    fn ids_are_digits_and_names_may_be_escaped() {
        assert_eq!(Route::find(&Method::GET, "/messages/7").unwrap(), Route::GetMessage(Position(7)));
        for id in ["x", "-1", "+1", "", "1.0", "99999999999999999999"] {
            assert_eq!(
                Route::find(&Method::GET, &format!("/messages/{id}")).unwrap_err().status,
                422,
                "{id}"
            );
        }
        let escaped = Route::find(&Method::POST, "/workers/outboard%2Fecho/pause").unwrap();
        assert_eq!(escaped, Route::PauseWorker("outboard/echo".into()));
        assert_eq!(Route::find(&Method::POST, "/workers/%zz/pause").unwrap_err().status, 400);
    }
}
