//! A mailbox: an SMTP server on the loopback that keeps what it is given. It speaks as much SMTP as a mail program does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The most that one mail may hold.
const LARGEST: u64 = 4 << 20;

/// A mail, as far as the demonstration shows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Mail {
    pub(super) to: String,
    pub(super) subject: String,
    pub(super) text: String,
}

pub(super) struct Mailbox {
    address: SocketAddr,
    mails: Mutex<Vec<Mail>>,
    count: watch::Sender<usize>,
}

impl Mailbox {
    pub(super) async fn start(stop: CancellationToken) -> std::io::Result<Arc<Self>> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mailbox = Arc::new(Self {
            address: listener.local_addr()?,
            mails: Mutex::default(),
            count: watch::Sender::new(0),
        });
        let shared = mailbox.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mailbox = shared.clone();
                tokio::spawn(async move { mailbox.converse(stream).await });
            }
        }));
        Ok(mailbox)
    }

    pub(super) fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    pub(super) fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the mail that `find` points at.
    pub(super) async fn until(&self, find: impl Fn(&[Mail]) -> Option<usize>) -> Mail {
        let mut count = self.count.subscribe();
        loop {
            let mails = self.mails();
            if let Some(mail) = find(&mails).and_then(|index| mails.get(index)) {
                return mail.clone();
            }
            if count.changed().await.is_err() {
                return Mail::default();
            }
        }
    }

    async fn converse(&self, stream: TcpStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read.take(LARGEST)).lines();
        write.write_all(b"220 mailbox.demo\r\n").await?;
        let mut to = String::new();
        while let Some(line) = lines.next_line().await? {
            let verb = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            let answer = match verb.as_str() {
                "EHLO" => "250-mailbox.demo\r\n250 8BITMIME\r\n",
                "RCPT" => {
                    to = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                    "250 OK\r\n"
                }
                "DATA" => {
                    write.write_all(b"354 go on\r\n").await?;
                    let mut text = String::new();
                    while let Some(line) = lines.next_line().await? {
                        if line == "." {
                            break;
                        }
                        text.push_str(line.strip_prefix('.').unwrap_or(&line));
                        text.push('\n');
                    }
                    self.keep(&to, &text);
                    "250 kept\r\n"
                }
                "QUIT" => {
                    write.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                _ => "250 OK\r\n",
            };
            write.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    fn keep(&self, to: &str, raw: &str) {
        let subject = raw.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap_or_default();
        let mail = Mail { to: to.to_owned(), subject: subject.to_owned(), text: raw.to_owned() };
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
        self.count.send_modify(|count| *count += 1);
    }
}
