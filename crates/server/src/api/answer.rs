//! From a request to its answer.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Incoming;
use outboard_http::Problem;

use super::{
    Api,
    body::{self, BodyLimit},
    health::Report,
    json,
    origin::OriginRule,
    query::Query,
    route::{Route, RouteLabel},
};
use crate::{
    metrics,
    serve::{Answer, Service},
    verify,
};

/// A body that only holds a reason.
const SMALL_BODY: BodyLimit = BodyLimit { bytes: 8 << 10, mend: "shorten the reason" };

impl Service for Api {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let begun = Instant::now();
        let (head, mut body) = request.into_parts();
        let found =
            self.origins.check(&head.headers).and_then(|()| Route::find(&head.method, head.uri.path()));
        let label = found.as_ref().map_or(RouteLabel::Other, Route::label);
        let result = match found {
            // Every connection keeps room for this future. The hot path lives in it; everything else gets room of its
            // own when it comes, so that ten thousand idle connections stay small.
            Ok(Route::PostCommand) => self.post_command(&head, &mut body).await,
            Ok(route) => Box::pin(self.dispatch(route, &head, &mut body)).await,
            Err(problem) => Err(problem),
        };
        let answer = match result {
            Ok(answer) => answer,
            Err(problem) => {
                tracing::debug!(
                    route = label.text(),
                    status = problem.status,
                    detail = problem.detail,
                    "refused"
                );
                Box::pin(body::discard(&mut body)).await;
                problem.into_response()
            }
        };
        self.http.observe(label, answer.status(), begun.elapsed());
        answer
    }
}

impl Api {
    async fn dispatch(
        &self,
        route: Route,
        head: &http::request::Parts,
        body: &mut Incoming,
    ) -> Result<Answer, Problem> {
        let query = head.uri.query();
        if head.method == Method::POST {
            Query::parse(query, &[])?;
        }
        match route {
            Route::PostCommand => self.post_command(head, body).await,
            Route::PostBatch => self.post_batch(&head.headers, body).await,
            Route::ListMessages => self.list_messages(query).await,
            Route::GetMessage(id) => self.get_message(id, query).await,
            Route::ListWorkers => self.list_workers(query).await,
            Route::PauseWorker(name) => {
                body::check_encoding(&head.headers)?;
                let bytes = body::read(body, SMALL_BODY, self.limits.read).await?;
                self.pause_worker(&name, &bytes).await
            }
            Route::ResumeWorker(name) => self.resume_worker(&name).await,
            Route::ListDead => self.list_dead(query).await,
            Route::RetryDead(id) => self.retry_dead(id).await,
            Route::VerifyLog => self.verify_log().await,
            Route::Live => {
                Query::parse(query, &[])?;
                Ok(json::text(StatusCode::OK, r#"{"status":"live"}"#.to_owned()))
            }
            Route::Ready => {
                let verbose = Query::parse(query, &["verbose"])?.flag("verbose")?;
                Ok(self.health(verbose))
            }
            Route::Health => {
                Query::parse(query, &[])?;
                Ok(self.health(true))
            }
            Route::Metrics => {
                Query::parse(query, &[])?;
                Ok(self.metrics().await)
            }
        }
    }

    fn health(&self, verbose: bool) -> Answer {
        let report = Report::of(&self.phase, &*self.log, &self.workers);
        if verbose {
            json::answer(report.http_status(), &report)
        } else {
            json::text(report.http_status(), format!(r#"{{"status":"{}"}}"#, report.status))
        }
    }

    async fn verify_log(&self) -> Result<Answer, Problem> {
        let report = verify::running(&self.storage).await.map_err(|error| Problem::from(&error))?;
        Ok(json::answer(StatusCode::OK, &report))
    }

    async fn metrics(&self) -> Answer {
        let mut response = Response::new(Full::new(Bytes::from(metrics::render(self).await)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::MEDIA_TYPE));
        response
    }
}

/// The same API seen from the metrics port: `/metrics` and nothing else.
#[derive(Debug)]
pub(crate) struct MetricsOnly {
    pub api: Arc<Api>,
    /// Which web pages may send requests to this port, which may have an address of its own.
    pub origins: OriginRule,
}

impl Service for MetricsOnly {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        if let Err(problem) = self.origins.check(request.headers()) {
            return problem.into_response();
        }
        let is_metrics = request.uri().path() == "/metrics";
        match *request.method() {
            Method::GET | Method::HEAD if is_metrics => self.api.metrics().await,
            _ if is_metrics => Problem::method_not_allowed("GET, HEAD").into_response(),
            _ => {
                Problem::not_found("this port serves /metrics only; the API has its own port").into_response()
            }
        }
    }
}
