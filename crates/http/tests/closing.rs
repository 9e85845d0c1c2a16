//! A kept connection that ends at any moment: the request is sent again only if none of it was written.
#![allow(clippy::unwrap_used)] // Tests stop at the first surprise, also outside of test functions.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use outboard_http::{
    Client, ClientConfig, ClientError,
    client::{Connecting, Stream, Transport},
    target::Origin,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Answers one request, then is idle for so many reads, then ends.
struct Closing {
    idle_reads: u32,
    requests: u32,
    is_answered: bool,
    written: Arc<Mutex<Vec<u32>>>,
    number: usize,
}

impl AsyncRead for Closing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.requests == 1 && !self.is_answered {
            self.is_answered = true;
            buffer.put_slice(OK);
            return Poll::Ready(Ok(()));
        }
        if self.is_answered && self.idle_reads == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.is_answered {
            self.idle_reads -= 1;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for Closing {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert!(bytes.ends_with(b"\r\n\r\n"), "a GET is written at once");
        self.requests += 1;
        self.written.lock().unwrap()[self.number] += 1;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
struct Closings {
    idle_reads: u32,
    /// How many requests were written to each connection.
    written: Arc<Mutex<Vec<u32>>>,
}

impl Transport for Closings {
    fn connect(&self, _: Origin) -> Connecting {
        let mut written = self.written.lock().unwrap();
        let number = written.len();
        written.push(0);
        let (idle_reads, written) = (self.idle_reads, Arc::clone(&self.written));
        let stream = Closing { idle_reads, requests: 0, is_answered: false, written, number };
        Box::pin(async move { Ok(Stream::new(stream)) })
    }
}

#[tokio::test(start_paused = true)]
async fn only_an_unwritten_request_is_sent_again() {
    let (mut repeated, mut failed) = (0, 0);
    for idle_reads in 0..12 {
        let written = Arc::<Mutex<Vec<u32>>>::default();
        let transport = Closings { idle_reads, written: Arc::clone(&written) };
        let client = Client::over(Arc::new(transport), ClientConfig::default());
        let target = "http://shop.example/".parse().unwrap();
        client.get(&target, Duration::from_secs(1)).await.unwrap();
        let second = client.get(&target, Duration::from_secs(1)).await;
        let written = written.lock().unwrap().clone();
        match second {
            Ok(_) => {
                assert_eq!(written, [1, 1], "after {idle_reads} idle reads");
                repeated += 1;
            }
            Err(error) => {
                assert!(
                    matches!(error, ClientError::Closed { .. }),
                    "after {idle_reads}: {error:?} {written:?}"
                );
                assert_eq!(written, [2], "after {idle_reads} idle reads");
                failed += 1;
            }
        }
    }
    assert!(repeated > 0 && failed > 0, "both happen: {repeated}, {failed}");
}
