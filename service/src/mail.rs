//! Mail over SMTP, HTML and text, with a Message-ID that a retry repeats.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use data_encoding::BASE64URL_NOPAD;
use grantsmith_core::GrantId;
use grantsmith_core::license::Slots;
use grantsmith_core::port::Kept;
use grantsmith_core::purchase::{Email, PurchaseId};
use jiff::Timestamp;
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message};
use minijinja::context;
use percent_encoding::percent_decode_str;
use rand::RngExt;
use url::Url;

use crate::fulfillment::portal::{TOKEN_FOR, Token};
use crate::render::{Renderer, page_license};
use crate::store::DeliveryKind;

/// How long it may take to be let in by the mail server.
const GREETED_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take until a letter is taken. Some servers look for viruses before that, and one that is cut off then comes
/// twice.
const SENT_WITHIN: Duration = Duration::from_secs(120);
/// How long an answer to the farewell is waited for.
const PARTED_WITHIN: Duration = Duration::from_secs(5);

/// Refusals of the login, which say nothing of the letter: all wait until it is mended.
const LOGIN_REFUSED: [u16; 4] = [530, 534, 535, 538];

const SILENT: &str = "the mail server does not answer in time";

/// Why mail cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL.
    #[error("--smtp-url must be smtp://, smtps:// or smtp+starttls:// with a host")]
    Url,
    /// An address.
    #[error("{flag} is not an address such as 'Shop <keys@shop.example>'")]
    Address {
        /// Which flag.
        flag: &'static str,
    },
    /// TLS.
    #[error("TLS for mail cannot be set up")]
    Tls(#[source] smtp::Error),
}

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server took it.
    Sent,
    /// Not now.
    Later(String),
    /// Never.
    Refused(String),
}

/// What a mail says.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Whose keys.
    pub grant: GrantId,
    /// Of which order.
    pub purchase: PurchaseId,
    /// Which sending.
    pub number: u32,
    /// What it is for.
    pub kind: DeliveryKind,
    /// When the licenses end, in a warning.
    pub until: Option<Timestamp>,
    /// The live licenses, each with the slots it was sold with.
    pub licenses: Vec<(Kept, Slots)>,
}

/// The way to a mail server.
#[derive(Debug)]
pub struct Transport {
    host: String,
    port: u16,
    tls: Tls,
    credentials: Option<Credentials>,
}

/// A mail server.
pub struct Server {
    /// `--smtp-url`
    pub url: Url,
    /// Further TLS roots, PEM.
    pub roots: Option<Vec<u8>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server(..)")
    }
}

/// Where mail goes out.
#[derive(Debug)]
pub struct Settings {
    /// The way out, which may change.
    pub transport: Arc<ArcSwap<Transport>>,
    /// `--mail-from`
    pub from: String,
    /// `--mail-reply-to`
    pub reply_to: Option<String>,
    /// The seller's name.
    pub seller: Option<String>,
    /// What links begin with.
    pub public_url: Url,
}

/// Sends letters.
#[derive(Debug)]
pub struct Mailer {
    transport: Arc<ArcSwap<Transport>>,
    from: Mailbox,
    reply_to: Option<Mailbox>,
    seller: Option<String>,
    public_url: Url,
    renderer: Renderer,
    greeted_within: Duration,
    sent_within: Duration,
}

impl Mailer {
    /// Sets mail up; says nothing to the server yet.
    pub fn new(settings: Settings, renderer: Renderer) -> Result<Self, Error> {
        let address = |flag, text: &str| text.parse::<Mailbox>().map_err(|_| Error::Address { flag });
        Ok(Self {
            transport: settings.transport,
            from: address("--mail-from", &settings.from)?,
            reply_to: settings
                .reply_to
                .as_deref()
                .map(|text| address("--mail-reply-to", text))
                .transpose()?,
            seller: settings.seller,
            public_url: settings.public_url,
            renderer,
            greeted_within: GREETED_WITHIN,
            sent_within: SENT_WITHIN,
        })
    }

    /// Sends a letter. What it says of the server's answer names no address.
    pub async fn send(&self, letter: &Letter, to: &Email) -> Outcome {
        let (order, page) = match &letter.purchase {
            PurchaseId::Session(id) => (id.as_str(), Some(format!("success?session_id={id}"))),
            PurchaseId::Subscription(id) => (id.as_str(), None),
            PurchaseId::Manual(id) => (id.reference(), None),
        };
        let licenses: Vec<_> =
            letter.licenses.iter().map(|(kept, slots)| page_license(kept, *slots)).collect();
        let context = context! {
            licenses => minijinja::Value::from(minijinja::value::Serde(licenses)),
            order,
            page_url => page.and_then(|page| self.page(&page)),
            portal_url => self.page("portal"),
            resend => letter.kind == DeliveryKind::KeysAgain,
            until => letter.until.map(|until| until.strftime("%-d %B %Y").to_string()),
            replaced => letter.kind == DeliveryKind::Keys && letter.licenses.iter().any(|(kept, _)| kept.generation > 1),
        };
        let template = match letter.kind {
            DeliveryKind::Keys | DeliveryKind::KeysAgain => "license",
            DeliveryKind::PaymentFailed => "payment_failed",
        };
        self.post(template, &format!("{}.{}", letter.grant, letter.number), context, to).await
    }

    /// Sends a link to the portal. Every try is a letter of its own, since each has its own token.
    pub async fn send_link(&self, token: &Token, to: &Email) -> Outcome {
        let context = context! {
            link_url => self.page(&format!("portal/open?token={}", token.expose())),
            minutes => TOKEN_FOR.as_mins(),
        };
        let number: [u8; 15] = rand::rng().random();
        self.post("link", &format!("link.{}", BASE64URL_NOPAD.encode(&number)), context, to).await
    }

    fn page(&self, path: &str) -> Option<String> {
        self.public_url.join(path).ok().map(String::from)
    }

    async fn post(&self, template: &str, id: &str, context: minijinja::Value, to: &Email) -> Outcome {
        let Ok(address) = to.expose().parse::<Address>() else {
            return Outcome::Refused("the buyer's address is not one that mail can be sent to".to_owned());
        };
        let message = match self.compose(template, id, context, Mailbox::new(None, address)) {
            Ok(message) => message,
            Err(outcome) => return outcome,
        };
        let transport = self.transport.load_full();
        match tokio::time::timeout(self.sent_within, transport.send(&message)).await {
            Err(_) => Outcome::Later(SILENT.to_owned()),
            Ok(Ok(connection)) => {
                // The letter is the server's by now, whatever becomes of the farewell.
                tokio::spawn(part(connection));
                Outcome::Sent
            }
            Ok(Err(error)) => match error.status() {
                Some(code) if LOGIN_REFUSED.contains(&u16::from(code)) => Outcome::Later(format!(
                    "the mail server does not let us in ({code}); check the user in --smtp-url and the password"
                )),
                // The text of an answer often repeats the address; its code says enough.
                Some(code) if error.is_permanent() => {
                    Outcome::Refused(format!("the mail server refused with {code}"))
                }
                Some(code) => Outcome::Later(format!("the mail server said {code}, not now")),
                None if error.is_permanent() => Outcome::Refused("the mail server refused".to_owned()),
                // Told by the server's greeting, so that another try would end the same.
                None if error.is_client() && !to.expose().is_ascii() => Outcome::Refused(
                    "the mail server takes no address with letters beyond ASCII; hand the key over yourself"
                        .to_owned(),
                ),
                None => Outcome::Later("the mail server cannot be reached".to_owned()),
            },
        }
    }

    /// Connects and logs in, and sends nothing. Fails with what to do.
    pub async fn greet(&self) -> Result<(), String> {
        let transport = self.transport.load_full();
        match tokio::time::timeout(self.greeted_within, transport.greet()).await {
            Err(_) => Err(SILENT.to_owned()),
            Ok(Ok(Some(connection))) => {
                part(connection).await;
                Ok(())
            }
            Ok(Ok(None)) => Err("the mail server hangs up at once".to_owned()),
            Ok(Err(error)) => Err(match error.status() {
                Some(code) => format!("the mail server refuses with {code}; check user and password"),
                None => {
                    "the mail server cannot be reached; check --smtp-url, its port and its TLS".to_owned()
                }
            }),
        }
    }

    fn compose(
        &self,
        template: &str,
        id: &str,
        context: minijinja::Value,
        to: Mailbox,
    ) -> Result<Message, Outcome> {
        let context = context! {
            seller => self.seller.clone(),
            support => self.reply_to.as_ref().map(|mailbox| mailbox.email.to_string()),
            ..context
        };
        let render = |part: &str| {
            let name = format!("email/{template}.{part}");
            let rendered = self.renderer.render(&name, &context);
            rendered.map_err(|error| Outcome::Later(format!("the template {name} cannot be used: {error}")))
        };
        let subject: String =
            render("subject.txt")?.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let (text, html) = (render("txt")?, render("html")?);
        let id = format!("<{id}@{}>", self.from.email.domain());
        let mut builder =
            Message::builder().from(self.from.clone()).to(to).subject(subject.trim()).message_id(Some(id));
        if let Some(reply_to) = &self.reply_to {
            builder = builder.reply_to(reply_to.clone());
        }
        builder
            .multipart(MultiPart::alternative_plain_html(text, html))
            // Everything else in it was there at the start, so it is the address, such as one with a quoted part.
            .map_err(|_| Outcome::Refused("no mail can be composed to the buyer's address".to_owned()))
    }
}

impl Transport {
    /// Connects and logs in. How long it takes to connect is limited, and nothing after that.
    async fn connect(&self) -> Result<AsyncSmtpConnection, smtp::Error> {
        let us = ClientId::default();
        let wrapper = if let Tls::Wrapper(tls) = &self.tls { Some(tls.clone()) } else { None };
        let server = (self.host.as_str(), self.port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(server, Some(GREETED_WITHIN), &us, wrapper, None).await?;
        if let Tls::Required(tls) = &self.tls {
            connection.starttls(tls.clone(), &us).await?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    /// Gives the connection on which the server took the letter.
    async fn send(&self, message: &Message) -> Result<AsyncSmtpConnection, smtp::Error> {
        let mut connection = self.connect().await?;
        connection.send(message.envelope(), &message.formatted()).await?;
        Ok(connection)
    }

    /// Gives the connection; none if the server says nothing more after the greeting.
    async fn greet(&self) -> Result<Option<AsyncSmtpConnection>, smtp::Error> {
        let mut connection = self.connect().await?;
        Ok(connection.test_connected().await.then_some(connection))
    }
}

/// Ends a conversation.
async fn part(mut connection: AsyncSmtpConnection) {
    // Whoever does not answer is hung up on.
    let _ = tokio::time::timeout(PARTED_WITHIN, connection.abort()).await;
}

impl Server {
    /// The way to it; `password` is that of the user in the URL, and outranks one there.
    pub fn transport(&self, password: Option<&str>) -> Result<Transport, Error> {
        let host = self.url.host_str().filter(|host| !host.is_empty()).ok_or(Error::Url)?;
        let tls = || {
            let mut builder = TlsParameters::builder(host.to_owned());
            if let Some(pem) = &self.roots {
                builder = builder.add_root_certificate(Certificate::from_pem(pem)?);
            }
            builder.build_rustls()
        };
        let (tls, port) = match self.url.scheme() {
            "smtp" => (Tls::None, 25),
            "smtps" => (Tls::Wrapper(tls().map_err(Error::Tls)?), 465),
            "smtp+starttls" => (Tls::Required(tls().map_err(Error::Tls)?), 587),
            _ => return Err(Error::Url),
        };
        Ok(Transport {
            host: host.to_owned(),
            port: self.url.port().unwrap_or(port),
            tls,
            credentials: credentials(&self.url, password),
        })
    }
}

/// A user name such as `keys@shop.example` stands percent-encoded in a URL, and so does a password there.
fn credentials(url: &Url, password: Option<&str>) -> Option<Credentials> {
    let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let password = password.map(str::to_owned).or_else(|| url.password().map(decoded))?;
    (!url.username().is_empty()).then(|| Credentials::new(decoded(url.username()), password))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;

    fn mailer(url: &str) -> Mailer {
        let server = Server { url: url.parse().expect("an address"), roots: None };
        let settings = Settings {
            transport: Arc::new(ArcSwap::from_pointee(server.transport(None).expect("a way"))),
            from: "keys@shop.example".to_owned(),
            reply_to: None,
            seller: None,
            public_url: "https://shop.example/".parse().expect("an address"),
        };
        Mailer::new(settings, Renderer::new(None).expect("templates")).expect("a mailer")
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up() {
        // Nobody accepts: the kernel connects, and that is all.
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("smtp://{}", server.local_addr().expect("an address"));
        let mut mailer = mailer(&url);
        (mailer.greeted_within, mailer.sent_within) = (Duration::from_millis(1), Duration::from_millis(1));
        let to = Email::new("jane@example.com").expect("an address");
        let given_up = async {
            assert_eq!(mailer.send_link(&Token::random(), &to).await, Outcome::Later(SILENT.to_owned()));
            assert_eq!(mailer.greet().await, Err(SILENT.to_owned()));
        };
        tokio::time::timeout(Duration::from_secs(10), given_up).await.expect("in time");
    }

    /// A server that takes a letter, and says nothing to the farewell.
    async fn take_one(server: tokio::net::TcpListener) {
        let (connection, _) = server.accept().await.expect("a caller");
        let (lines, mut answers) = connection.into_split();
        let mut lines = BufReader::new(lines).lines();
        let mut answer = "220 ready";
        loop {
            answers.write_all(format!("{answer}\r\n").as_bytes()).await.expect("an answer");
            let line = lines.next_line().await.expect("a line").expect("a line");
            answer = match line.split_once([' ', ':']).map_or(line.as_str(), |(verb, _)| verb) {
                "DATA" => {
                    answers.write_all(b"354 go on\r\n").await.expect("an answer");
                    while lines.next_line().await.expect("a line").as_deref() != Some(".") {}
                    "250 queued"
                }
                "QUIT" => return std::future::pending().await,
                _ => "250 mail.example",
            };
        }
    }

    #[tokio::test]
    async fn a_letter_that_the_server_took_is_sent_whatever_comes_after() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut mailer = mailer(&format!("smtp://{}", server.local_addr().expect("an address")));
        mailer.sent_within = Duration::from_secs(5);
        let taking = tokio::spawn(take_one(server));
        let to = Email::new("jane@example.com").expect("an address");
        assert_eq!(mailer.send_link(&Token::random(), &to).await, Outcome::Sent);
        taking.abort();
    }

    #[test]
    fn a_password_is_what_stands_in_its_file_and_in_a_url_what_it_is_encoded_from() {
        let of = |url: &str, password| credentials(&url.parse().expect("an address"), password);
        let expected =
            |user: &str, password: &str| Some(Credentials::new(user.to_owned(), password.to_owned()));
        for password in ["abc=", "a&b", "p%41ss", "a+b", "%", "é"] {
            let url = "smtps://keys%40shop.example@mail.example";
            assert!(of(url, Some(password)) == expected("keys@shop.example", password), "{password}");
        }
        for (encoded, password) in [("a%3Db%26", "a=b&"), ("a+b=&c", "a+b=&c"), ("%C3%A9", "é")] {
            let url = format!("smtps://keys:{encoded}@mail.example");
            assert!(of(&url, None) == expected("keys", password), "{encoded}");
            assert!(of(&url, Some("other")) == expected("keys", "other"), "the file outranks it");
        }
        assert!(of("smtps://mail.example", Some("nobody's")).is_none());
    }
}
