//! A lean HTTP/1.1 client on a blocking socket: what it costs must not be what is measured.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// No answer for so long ends the run.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest answer.
const MOST_BYTES: usize = 16 << 20;

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Client {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: vec![0; 16 << 10], filled: 0 })
    }

    /// Sends a whole request, and reads the whole answer.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request)?;
        self.filled = 0;
        let head_end = loop {
            self.fill()?;
            if let Some(end) = find_head_end(&self.buffer[..self.filled]) {
                break end;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..head_end])?;
        let status = head.get(9..12).context("no status")?.parse()?;
        let length = content_length(head)?;
        while self.filled < head_end + length {
            self.fill()?;
        }
        ensure!(self.filled == head_end + length, "more came than one answer");
        Ok(Answer { status, body: &self.buffer[head_end..self.filled] })
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Answer<'_>> {
        self.send(&request("GET", path, b""))
    }

    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> Result<Answer<'_>> {
        self.send(&request("POST", path, body))
    }

    fn fill(&mut self) -> Result<()> {
        if self.filled == self.buffer.len() {
            ensure!(self.filled < MOST_BYTES, "the answer is too large");
            self.buffer.resize(self.filled * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..])? {
            0 => bail!("the server closed the connection"),
            read => self.filled += read,
        }
        Ok(())
    }
}

/// The bytes of a request.
pub(crate) fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Where the body begins.
pub(crate) fn find_head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// What a head says about its body; nothing said is nothing there.
pub(crate) fn content_length(head: &str) -> Result<usize> {
    for line in head.split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return Ok(value.trim().parse()?);
        }
        ensure!(!name.eq_ignore_ascii_case("transfer-encoding"), "chunked bodies are not read here");
    }
    Ok(0)
}
