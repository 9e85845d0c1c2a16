//! As much of Redis's protocol as a pipelining client needs.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use anyhow::{Context, Result, bail};

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Nil,
    Number(i64),
    Text(Vec<u8>),
    List(Vec<Value>),
}

impl Value {
    pub(crate) fn text(self) -> Result<Vec<u8>> {
        match self {
            Self::Text(text) => Ok(text),
            other => bail!("expected a text, got {other:?}"),
        }
    }

    pub(crate) fn list(self) -> Result<Vec<Self>> {
        match self {
            Self::List(list) => Ok(list),
            Self::Nil => Ok(Vec::new()),
            other => bail!("expected a list, got {other:?}"),
        }
    }
}

/// A connection. Requests are buffered until [`Connection::flush`].
#[derive(Debug)]
pub(crate) struct Connection {
    out: Vec<u8>,
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        Ok(Self { out: Vec::new(), stream: BufReader::with_capacity(64 << 10, stream) })
    }

    /// Adds a request to the pipeline.
    pub(crate) fn add(&mut self, words: &[&[u8]]) {
        self.out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// Sends the pipeline.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.stream.get_mut().write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let (kind, rest) = line.split_first().context("the server hung up")?;
        let rest = std::str::from_utf8(rest)?.trim_end();
        Ok(match kind {
            b'+' => Value::Text(rest.into()),
            b'-' => bail!("the server says: {rest}"),
            b':' => Value::Number(rest.parse()?),
            b'$' => match rest.parse::<i64>()? {
                -1 => Value::Nil,
                length => {
                    let mut text = vec![0; usize::try_from(length)? + 2];
                    self.stream.read_exact(&mut text)?;
                    text.truncate(text.len() - 2);
                    Value::Text(text)
                }
            },
            b'*' => match rest.parse::<i64>()? {
                -1 => Value::Nil,
                length => Value::List((0..length).map(|_| self.answer()).collect::<Result<_>>()?),
            },
            other => bail!("an answer of the unknown kind {:?}", char::from(*other)),
        })
    }

    /// One request and its answer.
    pub(crate) fn ask(&mut self, words: &[&[u8]]) -> Result<Value> {
        self.add(words);
        self.flush()?;
        self.answer()
    }
}
