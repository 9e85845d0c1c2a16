//! A fast host app: answers every POST with 200, and tells how many there were.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use anyhow::{Context, Result, ensure};

use crate::{
    http::{Client, content_length, find_head_end},
    process::Process,
};

/// How many POSTs were answered.
static RECEIVED: AtomicU64 = AtomicU64::new(0);

/// The largest request.
const MOST_BYTES: usize = 16 << 20;

/// Serves until the process is killed; prints the port first.
pub(crate) fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    writeln!(io::stdout(), "{}", listener.local_addr()?.port())?;
    for stream in listener.incoming() {
        let stream = stream?;
        // A connection that fails is closed; whoever opened it sees that.
        thread::Builder::new().stack_size(128 << 10).spawn(move || connection(stream))?;
    }
    Ok(())
}

fn connection(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 << 10];
    let mut filled = 0;
    loop {
        while let Some((length, is_post)) = whole_request(&buffer[..filled])? {
            if is_post {
                RECEIVED.fetch_add(1, Relaxed);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            } else {
                let body = RECEIVED.load(Relaxed).to_string();
                let length = body.len();
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")?;
            }
            buffer.copy_within(length..filled, 0);
            filled -= length;
        }
        if filled == buffer.len() {
            ensure!(filled < MOST_BYTES, "the request is too large");
            buffer.resize(filled * 2, 0);
        }
        match stream.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            read => filled += read,
        }
    }
}

/// The length of the request at the front, if all of it is there, and whether it is a POST.
fn whole_request(bytes: &[u8]) -> Result<Option<(usize, bool)>> {
    let Some(head_end) = find_head_end(bytes) else { return Ok(None) };
    let length = head_end + content_length(std::str::from_utf8(&bytes[..head_end])?)?;
    Ok((bytes.len() >= length).then_some((length, bytes.starts_with(b"POST "))))
}

/// The receiver in a process of its own.
#[derive(Debug)]
pub(crate) struct Receiver {
    _process: Process,
    client: Client,
    port: u16,
}

impl Receiver {
    pub(crate) fn start() -> Result<Self> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        let mut process = Process::spawn("the receiver", command.arg("receiver"))?;
        let port = process.line()?.parse()?;
        let client = Client::open((Ipv4Addr::LOCALHOST, port).into())?;
        Ok(Self { _process: process, client, port })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// How many messages it has answered.
    pub(crate) fn count(&mut self) -> Result<u64> {
        let answer = self.client.get("/count")?;
        std::str::from_utf8(answer.body)?.parse().context("the receiver's count is no number")
    }
}
