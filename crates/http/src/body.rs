//! Reading a request's body within bounds.

use std::{error::Error, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use hyper::body::Body;
use tokio::time::timeout;

/// Why a body was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Longer than allowed; what is left of it was not read.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// The most bytes allowed.
        limit: usize,
    },
    /// It did not come in time.
    #[error("the body did not arrive within {} ms", after.as_millis())]
    TimedOut {
        /// The time allowed.
        after: Duration,
    },
    /// It broke off.
    #[error("the body broke off: {cause}")]
    Broken {
        /// What was seen of it.
        cause: String,
    },
}

/// Reads a whole body of at most `limit` bytes within `time`, however slowly it drips.
///
/// A body that announces more is refused before anything is read. One that comes in a single piece is not copied.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use outboard_http::body::{read, BodyError};
/// let body = http_body_util::Full::from("hello");
/// assert_eq!(read(body.clone(), 5, Duration::from_secs(1)).await.unwrap(), "hello");
/// assert_eq!(read(body, 4, Duration::from_secs(1)).await, Err(BodyError::TooLarge { limit: 4 }));
/// # });
/// ```
pub async fn read<B>(body: B, limit: usize, time: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge { limit });
    }
    timeout(time, collect(body, limit)).await.unwrap_or(Err(BodyError::TimedOut { after: time }))
}

async fn collect<B>(mut body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (mut first, mut joined) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| BodyError::Broken { cause: error.into().to_string() })?;
        let Ok(data) = frame.into_data() else { continue };
        let total = first.len().max(joined.len()) + data.len();
        if total > limit {
            return Err(BodyError::TooLarge { limit });
        }
        if total == data.len() {
            first = data;
            continue;
        }
        if joined.is_empty() {
            let expected = usize::try_from(body.size_hint().lower()).unwrap_or(limit);
            joined.reserve((total + expected).min(limit));
            joined.extend_from_slice(&std::mem::take(&mut first));
        }
        joined.extend_from_slice(&data);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn chunks(texts: &'static [&'static str]) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(stream::iter(texts).map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
    }

    #[tokio::test]
    async fn chunks_are_joined_up_to_the_limit() {
        assert_eq!(read(chunks(&[]), 0, SECOND).await.unwrap(), "");
        assert_eq!(read(chunks(&["ab", "", "cd", "e"]), 5, SECOND).await.unwrap(), "abcde");
        assert_eq!(read(chunks(&["ab", "cd", "e"]), 4, SECOND).await, Err(BodyError::TooLarge { limit: 4 }));
        assert_eq!(read(chunks(&["abcde"]), 4, SECOND).await, Err(BodyError::TooLarge { limit: 4 }));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_is_for_the_whole_body_not_for_a_chunk() {
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))), ()))
        });
        let body = StreamBody::new(Box::pin(drip));
        assert_eq!(read(body, 1_000, SECOND).await, Err(BodyError::TimedOut { after: SECOND }));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_an_error() {
        let broken = stream::iter([Ok(Frame::data(Bytes::from_static(b"ab"))), Err("reset")]);
        let error = read(StreamBody::new(broken), 10, SECOND).await.unwrap_err();
        assert_eq!(error, BodyError::Broken { cause: "reset".into() });
    }
}
