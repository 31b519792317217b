//! A client without manners: it sends whatever bytes it is told to, when it is told to.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wait::PATIENCE;

/// A connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The lines before the body.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Raw {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("it listens"), read: Vec::new() }
    }

    /// Sends bytes; false if the other side takes no more.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await;
        sent.expect("the other side reads or hangs up").is_ok()
    }

    /// Says that nothing more will come.
    pub async fn finish(&mut self) {
        // The other side may have hung up already, which is as good.
        let _ = self.stream.shutdown().await;
    }

    /// Reads one answer; none if the connection ends before there is one.
    pub async fn answer(&mut self) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(answer) = self.take() {
                    return Some(answer);
                }
                let mut piece = [0; 8192];
                match self.stream.read(&mut piece).await {
                    Ok(0) | Err(_) => return None,
                    Ok(count) => self.read.extend_from_slice(piece.get(..count).unwrap_or_default()),
                }
            }
        })
        .await
        .expect("an answer, or the end of the connection")
    }

    /// Takes a whole answer out of what was read. Everything here answers with a length.
    fn take(&mut self) -> Option<Answer> {
        let end = self.read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(self.read.get(..end)?).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let whole = end + length.unwrap_or(0_usize);
        let body = String::from_utf8_lossy(self.read.get(end..whole)?).into_owned();
        self.read.drain(..whole);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok())?;
        Some(Answer { status, head, body })
    }
}

/// A request to the webhook as bytes.
pub fn hook(signature: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /webhooks/stripe HTTP/1.1\r\nhost: grantsmith\r\nstripe-signature: {signature}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
