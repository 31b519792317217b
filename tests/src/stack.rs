//! One installation with everything around it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::{Fake, Settings as FakeSettings, Switches};
use grantsmith_core::port::Clock;
use grantsmith_proto::v1 as pb;
use grantsmith_service::cli;
use grantsmith_service::grpc::tokens::{Role, TokenFile};
use grantsmith_service::stripe::Mode;
use grantsmith_service::stripe::fake::{
    Bought, Delivery, Event, Kind, Purchase, Rendering, Server, Status, World,
};
use grantsmith_service::stripe::secret::Secret;
use grantsmith_service::stripe::signature;
use jiff::Timestamp;
use pb::event_service_client::EventServiceClient;
use pb::license_grant_service_client::LicenseGrantServiceClient;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tonic::transport::Channel;

use crate::cluster::Cluster;
use crate::mailpit::Mailpit;
use crate::outside::Outside;
use crate::port::free_port;
use crate::program::{self, Program};
use crate::realm::{self, Operator, Realm};
use crate::tls::{Authority, Certificate};
use crate::{APP, AUTHFORGE_KEY, STRIPE_KEY, WEBHOOK_SECRET, until};

/// The file of an installation's catalog.
const CATALOG: &str = "catalog.yaml";

/// What is the operator's to know, where there is one.
const FLAGS_OF_THE_OPERATOR: [&str; 4] =
    ["--installation", "--revocation-budget", "--lost-create-quarantine", "--look-before-create-after"];

/// Which programs an installation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Everything in one process.
    Standalone,
    /// Server and webhook, over gRPC.
    Split,
    /// The same, and an operator that issues: the server declares grants in a real cluster.
    Cluster,
}

impl Shape {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Standalone, Self::Split, Self::Cluster];
}

/// Makes tests of walkthroughs that take a shape: each of them in each shape that is named, side by side.
#[macro_export]
macro_rules! walkthroughs {
    ($($module:ident of $shape:ident: $($name:ident),+;)+) => {
        $(mod $module {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::Shape::$shape).await;
            })+
        })+
    };
}

/// An installation to be started.
#[derive(Debug, Clone)]
pub struct Plan {
    shape: Shape,
    events_only: bool,
    mail: bool,
    flags: Vec<String>,
    web_flags: Vec<String>,
    catalog: Option<String>,
    stripe_url: Option<String>,
    switches: Switches,
    log: &'static str,
    cluster: Option<&'static Cluster>,
    tls: bool,
    files: Option<(u32, u32)>,
}

impl Plan {
    /// In a cluster that no other test uses: it can be stopped and emptied. It ends with the test program.
    pub async fn alone(mut self) -> Self {
        let cluster = Box::leak(Box::new(Cluster::start().await));
        cluster.define_grants().await;
        self.cluster = Some(cluster);
        self
    }

    /// With TLS between the programs.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// With so many files that the process which holds the record may open, and so many to which it may raise that itself.
    #[must_use]
    pub fn files(mut self, soft: u32, hard: u32) -> Self {
        self.files = Some((soft, hard));
        self
    }

    /// Without a Stripe API key.
    #[must_use]
    pub fn events_only(mut self) -> Self {
        self.events_only = true;
        self
    }

    /// Without a mail server.
    #[must_use]
    pub fn without_mail(mut self) -> Self {
        self.mail = false;
        self
    }

    /// With more flags for the process that holds the record.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// With more flags for the process that faces strangers.
    #[must_use]
    pub fn web_flags(mut self, flags: &[&str]) -> Self {
        self.web_flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// With a catalog.
    #[must_use]
    pub fn catalog(mut self, yaml: &str) -> Self {
        self.catalog = Some(yaml.to_owned());
        self
    }

    /// With another Stripe than the fake.
    #[must_use]
    pub fn stripe(mut self, url: String) -> Self {
        self.stripe_url = Some(url);
        self
    }

    /// With AuthForge behaving otherwise.
    #[must_use]
    pub fn authforge(mut self, switches: Switches) -> Self {
        self.switches = switches;
        self
    }

    /// With other logs than `info`.
    #[must_use]
    pub fn log(mut self, filter: &'static str) -> Self {
        self.log = filter;
        self
    }

    /// Starts everything.
    pub async fn start(self) -> Stack {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let world = Arc::new(World::new(Mode::Test, rand::random()));
        let stripe = Server::start(world.clone(), STRIPE_KEY).await.expect("a fake Stripe");
        let mut settings = FakeSettings::new(clock).with(self.switches.clone());
        settings.seed = rand::random();
        let authforge = Fake::start(settings).await.expect("a fake AuthForge");
        let mail = if self.mail { Some(Mailpit::start().await) } else { None };
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [
            ("stripe-key", STRIPE_KEY),
            ("authforge-key", AUTHFORGE_KEY),
            ("webhook-secrets", WEBHOOK_SECRET),
        ] {
            std::fs::write(folder.path().join(name), format!("{text}\n")).expect("a file");
        }
        let realm = match self.shape {
            Shape::Standalone | Shape::Split => None,
            Shape::Cluster => Some(match self.cluster {
                Some(cluster) => Realm::new(cluster).await,
                None => Realm::new(Cluster::shared().await).await,
            }),
        };
        if let Some(catalog) = &self.catalog {
            std::fs::write(folder.path().join(CATALOG), catalog).expect("a file");
        }
        let mut stack = Stack {
            plan: self,
            realm,
            operator: None,
            world,
            stripe,
            authforge,
            mail,
            folder,
            back: None,
            front: None,
            logs: String::new(),
            // The same over every start; and whoever writes mails must know where the pages will be before they are there.
            http: free_address(),
            grpc: free_address(),
            admin: free_address(),
            front_admin: free_address(),
            client: grantsmith_authforge::http_client(&[]).expect("a client"),
            secret: Secret::new(Mode::Test, WEBHOOK_SECRET).expect("a secret"),
        };
        if stack.plan.tls {
            stack.certify();
        }
        stack.up().await;
        stack
    }
}

/// One installation with everything around it.
#[derive(Debug)]
pub struct Stack {
    plan: Plan,
    /// The namespace of the grants, if they are issued in a cluster.
    pub realm: Option<Realm<'static>>,
    /// The operator there.
    pub operator: Option<Operator>,
    /// Stripe's objects and their true history.
    pub world: Arc<World>,
    /// Stripe's API.
    pub stripe: Server,
    /// AuthForge.
    pub authforge: Fake,
    /// The mail server, if there is one.
    pub mail: Option<Mailpit>,
    /// The folder that the programs run in: secrets, record, tokens.
    pub folder: TempDir,
    back: Option<Program>,
    front: Option<Program>,
    logs: String,
    http: SocketAddr,
    grpc: SocketAddr,
    admin: SocketAddr,
    front_admin: SocketAddr,
    /// A client without redirects or retries.
    pub client: reqwest::Client,
    /// What Stripe signs with.
    pub secret: Secret,
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

impl Stack {
    /// An installation of this shape, with a Stripe API key and a mail server.
    pub fn plan(shape: Shape) -> Plan {
        Plan {
            shape,
            events_only: false,
            mail: true,
            flags: Vec::new(),
            web_flags: Vec::new(),
            catalog: None,
            stripe_url: None,
            switches: Switches::default(),
            log: "info",
            cluster: None,
            tls: false,
            files: None,
        }
    }

    /// Writes a certificate for gRPC, by an authority that only this installation trusts. Programs that run read it again.
    pub fn certify(&self) {
        let authority = Authority::new();
        let Certificate { chain, key } = authority.certify(&["127.0.0.1"]);
        for (name, text) in [("ca.crt", authority.pem()), ("tls.crt", chain), ("tls.key", key)] {
            // As Kubernetes changes mounted files: nobody sees half of one.
            let (path, fresh) = (self.folder.path().join(name), self.folder.path().join("fresh"));
            std::fs::write(&fresh, text).expect("a file");
            std::fs::rename(fresh, path).expect("the file changes");
        }
    }

    fn arguments(&self, command: &str) -> Vec<String> {
        let mut flags: Vec<String> = vec![command.to_owned()];
        let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
        flag("--log-format", "text".to_owned());
        if command != "webhook" {
            flag("--database-url", "sqlite://grantsmith.db".to_owned());
            match &self.realm {
                None => {
                    flag("--authforge-url", self.authforge.url());
                    flag("--authforge-api-key-file", "authforge-key".to_owned());
                }
                Some(realm) => {
                    flag("--issuer", "kubernetes".to_owned());
                    flag("--grants-namespace", realm.namespace.clone());
                }
            }
            flag("--stripe-url", self.plan.stripe_url.clone().unwrap_or_else(|| self.stripe.url()));
            flag("--grpc-listen", self.grpc.to_string());
            if self.plan.tls {
                flag("--grpc-tls-cert-file", "tls.crt".to_owned());
                flag("--grpc-tls-key-file", "tls.key".to_owned());
            }
            if let Some(mail) = &self.mail {
                flag("--smtp-url", mail.url());
                flag("--mail-from", "Test Shop <keys@shop.example>".to_owned());
            }
        }
        flag("--stripe-mode", "test".to_owned());
        if command != "server" {
            flag("--stripe-webhook-secrets-file", "webhook-secrets".to_owned());
            flag("--http-listen", self.http.to_string());
        }
        match command {
            "webhook" => {
                flag("--admin-listen", self.front_admin.to_string());
                flag("--server", self.grpc_url());
                if self.plan.tls {
                    flag("--ca-file", "ca.crt".to_owned());
                }
                flag("--token-file", "grantsmith.db.tokens".to_owned());
            }
            _ => flag("--admin-listen", self.admin.to_string()),
        }
        if command == "server" {
            flag("--public-url", self.url(""));
        }
        if command != "webhook" {
            if self.plan.events_only {
                flags.push("--events-only".to_owned());
            } else {
                flags.extend(["--stripe-api-key-file".to_owned(), "stripe-key".to_owned()]);
            }
            if self.plan.catalog.is_some() {
                flags.extend(["--catalog".to_owned(), CATALOG.to_owned()]);
            }
            flags.extend(self.plan.flags.iter().cloned());
        }
        if command != "server" {
            flags.extend(self.plan.web_flags.iter().cloned());
        }
        flags
    }

    /// Other flags for the process that holds the record, from its next start on.
    pub fn reflag(&mut self, flags: &[&str]) {
        self.plan.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Starts the programs, on the same ports as before if they ran before.
    pub async fn up(&mut self) {
        if self.plan.shape == Shape::Cluster {
            self.up_operator().await;
        }
        self.up_back().await;
        if self.plan.shape != Shape::Standalone {
            self.up_front().await;
        }
        until("readiness", async || (self.ready().await == 200).then_some(())).await;
    }

    /// Starts the program that holds the record.
    pub async fn up_back(&mut self) {
        let command = self.back_command();
        let kubeconfig = self.kubeconfig().await;
        let mut environment = vec![("RUST_LOG", self.plan.log)];
        environment.extend(kubeconfig.as_deref().map(|path| ("KUBECONFIG", path)));
        let arguments = self.arguments(command);
        let program = match self.plan.files {
            None => Program::start(&arguments, &environment, self.folder.path()),
            Some((soft, hard)) => {
                let mut shell = Command::new("sh");
                let limited = format!("ulimit -S -n {soft} && ulimit -H -n {hard} && exec \"$0\" \"$@\"");
                shell.args(["-c", &limited]).arg(program::binary()).args(&arguments);
                Program::of(shell, &environment, self.folder.path())
            }
        };
        assert_eq!(program.address("grpc").await, self.grpc);
        assert_eq!(program.address("admin").await, self.admin);
        if self.plan.shape == Shape::Standalone {
            assert_eq!(program.address("http").await, self.http);
        }
        self.back = Some(program);
    }

    /// Starts the operator, where there is one: over this installation's AuthForge.
    pub async fn up_operator(&mut self) {
        let realm = self.realm.as_ref().expect("a cluster");
        let mut start = realm.plan(&["--leader-election", "false"]);
        let its_own = |pair: &&[String]| FLAGS_OF_THE_OPERATOR.contains(&pair[0].as_str());
        start.flags.extend(self.plan.flags.chunks(2).filter(its_own).flatten().cloned());
        start.authforge = self.authforge.url();
        let operator = realm.start(&start).await;
        operator.until_ready().await;
        self.operator = Some(operator);
    }

    /// How the server finds the cluster, and as whom.
    async fn kubeconfig(&self) -> Option<String> {
        let realm = self.realm.as_ref()?;
        let token = realm.account(realm::SERVER_ROLE, realm::SERVER).await;
        let (name, api) = (format!("{}.server", realm.namespace), realm.cluster.api());
        let path = realm.cluster.kubeconfig_for(&name, &api, &token, &realm.namespace);
        Some(path.display().to_string())
    }

    /// Starts the program that faces strangers, where it is another one.
    pub async fn up_front(&mut self) {
        let program =
            Program::start(&self.arguments("webhook"), &[("RUST_LOG", self.plan.log)], self.folder.path());
        assert_eq!(program.address("http").await, self.http);
        assert_eq!(program.address("admin").await, self.front_admin);
        self.front = Some(program);
    }

    /// Starts the program that holds the record again, with another catalog.
    pub async fn sell(&mut self, yaml: &str) {
        assert_eq!(self.stop_back().await, Some(0));
        std::fs::write(self.folder.path().join(CATALOG), yaml).expect("a file");
        self.up_back().await;
        until("readiness", async || (self.ready().await == 200).then_some(())).await;
    }

    /// `kill -9` of the program that holds the record.
    pub async fn kill_back(&mut self) {
        let program = self.back.take().expect("it runs");
        self.logs.push_str(&program.kill().await);
    }

    /// `kill -9` of the operator.
    pub async fn kill_operator(&mut self) {
        self.logs.push_str(&self.operator.take().expect("it runs").kill().await);
    }

    /// Starts the program that holds the record and kills it after this long, wherever its start has got to.
    pub async fn stillborn_back(&mut self, life: Duration) {
        let command = self.back_command();
        let program =
            Program::start(&self.arguments(command), &[("RUST_LOG", self.plan.log)], self.folder.path());
        tokio::time::sleep(life).await;
        self.logs.push_str(&program.kill().await);
    }

    fn back_command(&self) -> &'static str {
        if self.plan.shape == Shape::Standalone { "standalone" } else { "server" }
    }

    /// `kill -9` of the program that faces strangers.
    pub async fn kill_front(&mut self) {
        let program = self.front.take().expect("it runs");
        self.logs.push_str(&program.kill().await);
    }

    /// Nobody reads what the program that holds the record says from here on.
    pub async fn stop_reading_back(&mut self) {
        self.back.as_mut().expect("it runs").stop_reading().await;
    }

    /// SIGTERM to the program that holds the record, and its end. Gives its exit code.
    pub async fn stop_back(&mut self) -> Option<i32> {
        let program = self.back.take().expect("it runs");
        program.terminate();
        let (status, log) = program.end().await;
        self.logs.push_str(&log);
        status.code()
    }

    /// SIGTERM to the program that faces strangers, and its end. Gives its exit code.
    pub async fn stop_front(&mut self) -> Option<i32> {
        let program = self.front.take().expect("it runs");
        program.terminate();
        let (status, log) = program.end().await;
        self.logs.push_str(&log);
        status.code()
    }

    /// The program that holds the record.
    pub fn back(&self) -> &Program {
        self.back.as_ref().expect("it runs")
    }

    /// The files that the program which faces strangers has open.
    pub fn front_files(&self) -> Vec<String> {
        let folder = format!("/proc/{}/fd", self.front.as_ref().expect("it runs").pid());
        let entries = std::fs::read_dir(folder).expect("open files");
        let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        targets.map(|path| path.display().to_string()).collect()
    }

    /// The memory of the program which faces strangers, as far as it can be written to.
    pub fn front_memory(&self) -> Vec<u8> {
        use std::io::{Read, Seek, SeekFrom};
        let pid = self.front.as_ref().expect("it runs").pid();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("a map");
        let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("the memory");
        let mut all = Vec::new();
        for line in maps
            .lines()
            .filter(|line| line.split_whitespace().nth(1).is_some_and(|mode| mode.starts_with("rw")))
        {
            let range = line.split(['-', ' ']).take(2).map(|hex| u64::from_str_radix(hex, 16).expect("hex"));
            let [from, to] = range.collect::<Vec<_>>().try_into().expect("a range");
            let mut part = Vec::new();
            if memory.seek(SeekFrom::Start(from)).is_ok()
                && memory.by_ref().take(to - from).read_to_end(&mut part).is_ok()
            {
                all.extend(part);
            }
        }
        all
    }

    /// All that the programs have said.
    pub fn logs(&self) -> String {
        let running = [&self.back, &self.front].into_iter().flatten().map(Program::log);
        running.fold(self.logs.clone(), |logs, log| logs + &log)
    }

    /// An address on the pages' side.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// An address on the operator's side of the process with the record.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// The gRPC server.
    pub fn grpc_url(&self) -> String {
        format!("{}://{}", self.scheme(), self.grpc)
    }

    fn scheme(&self) -> &'static str {
        if self.plan.tls { "https" } else { "http" }
    }

    /// Where the webhook and the pages are.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The status of `/readyz` of the process that strangers talk to.
    pub async fn ready(&self) -> u16 {
        let admin = if self.plan.shape == Shape::Standalone { self.admin } else { self.front_admin };
        let answer = self.client.get(format!("http://{admin}/readyz")).send().await;
        answer.map_or(0, |answer| answer.status().as_u16())
    }

    /// The metrics of the process with the record.
    pub async fn metrics(&self) -> String {
        let answer = self.client.get(self.admin_url("/metrics")).send().await.expect("metrics");
        answer.text().await.expect("a text")
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        SystemClock.now().wall
    }

    /// Stripe and the buyers, who go on while programs come and go.
    pub fn outside(&self) -> Outside {
        Outside::new(self.client.clone(), self.url(""), self.secret.clone())
    }

    /// Posts a body as Stripe would, once.
    pub async fn post(&self, body: Vec<u8>) -> Result<Delivery, reqwest::Error> {
        self.outside().post(body).await
    }

    /// The signature that Stripe would send with a body at this time.
    pub fn signature(&self, at: Timestamp, body: &[u8]) -> String {
        signature::sign(&self.secret, at, body)
    }

    /// Posts a body with these signature headers, whatever they are worth.
    pub async fn post_signed<S: AsRef<[u8]>>(
        &self,
        body: Vec<u8>,
        signatures: &[S],
    ) -> Result<Delivery, reqwest::Error> {
        let mut request = self.client.post(self.url("/webhooks/stripe")).body(body);
        for signature in signatures {
            request = request.header("stripe-signature", signature.as_ref());
        }
        let answer = request.send().await?;
        Ok(Delivery { status: answer.status().as_u16(), body: answer.text().await? })
    }

    /// Posts a body until it is answered 2xx, as Stripe does for three days.
    pub async fn deliver(&self, body: Vec<u8>) -> Delivery {
        self.outside().deliver(body).await
    }

    /// Somebody buys, and Stripe's events are delivered in order.
    pub async fn buy(&self, purchase: Purchase) -> Bought {
        let bought = self.world.buy(purchase, self.now());
        self.deliver_all(&bought.events).await;
        bought
    }

    /// Delivers events in the newest rendering.
    pub async fn deliver_all(&self, events: &[Event]) {
        for event in events {
            self.deliver(event.body(Rendering::Endive)).await;
        }
    }

    /// What the success page tells a program.
    pub async fn page(&self, session: &str) -> (u16, Value) {
        self.outside().page(session).await
    }

    /// Waits for the keys of a purchase on its success page.
    pub async fn keys(&self, session: &str) -> Vec<String> {
        until(&format!("the keys of {session}"), async || {
            // Not every time: a page is shown so often a minute and no more.
            self.grant(session).await.filter(|grant| grant["state"] == "READY")?;
            let (status, page) = self.page(session).await;
            let licenses = page["licenses"].as_array().filter(|_| status == 200)?;
            Some(
                licenses
                    .iter()
                    .filter_map(|license| license["license_key"].as_str().map(str::to_owned))
                    .collect(),
            )
        })
        .await
    }

    /// Runs a hand tool against the server.
    pub async fn tool(&self, arguments: &[&str]) -> (i32, String, String) {
        let server = self.grpc_url();
        let mut environment =
            vec![("GRANTSMITH_SERVER", server.as_str()), ("GRANTSMITH_TOKEN_FILE", "grantsmith.db.tokens")];
        if self.plan.tls {
            environment.push(("GRANTSMITH_CA_FILE", "ca.crt"));
        }
        program::run(arguments, &environment, self.folder.path()).await
    }

    /// A connection of its own to the gRPC server.
    fn channel(&self) -> Channel {
        let ca_file = self.plan.tls.then(|| self.folder.path().join("ca.crt"));
        cli::channel(&self.grpc_url(), ca_file.as_deref()).expect("a channel")
    }

    /// The grants over gRPC.
    pub fn grant_service(&self) -> LicenseGrantServiceClient<Channel> {
        LicenseGrantServiceClient::new(self.channel())
    }

    /// The first grants, as `grants list -o json` prints them. Whoever waits for a grant asks many times, and the program's
    /// start takes more than its question.
    async fn listed(&self, message: pb::ListLicenseGrantsRequest) -> Option<Vec<Value>> {
        let request = self.authorized(Role::Read, message);
        let page = self.grant_service().list_license_grants(request).await.ok()?.into_inner();
        Some(page.license_grants.iter().map(cli::grants::value).collect())
    }

    /// A message with the token of a role.
    pub fn authorized<T>(&self, role: Role, message: T) -> tonic::Request<T> {
        let tokens =
            std::fs::read_to_string(self.folder.path().join("grantsmith.db.tokens")).expect("tokens");
        TokenFile::parse(&tokens).expect("tokens").authorize(role, message).expect("a token for every role")
    }

    /// Runs a hand tool that must succeed, and reads its JSON.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, error) = self.tool(&[arguments, &["-o", "json"]].concat()).await;
        assert_eq!(code, 0, "{arguments:?}: {error}");
        serde_json::from_str(&out).expect("the tool prints JSON")
    }

    /// Every grant, newest first.
    pub async fn grants(&self) -> Vec<Value> {
        self.json(&["grants", "list", "--limit", "100000"]).await.as_array().cloned().unwrap_or_default()
    }

    /// The grant of a purchase.
    pub async fn grant(&self, purchase: &str) -> Option<Value> {
        let message = pb::ListLicenseGrantsRequest { find: purchase.to_owned(), ..Default::default() };
        self.listed(message).await?.into_iter().next()
    }

    /// Waits until a purchase's grant is in a state.
    pub async fn until_grant(&self, purchase: &str, state: &str, reason: &str) -> Value {
        until(&format!("{purchase} to be {state}, {reason}"), async || {
            let grant = self.grant(purchase).await?;
            (grant["state"] == state && grant["reason"] == reason).then_some(grant)
        })
        .await
    }

    /// The live licenses of each purchase, as AuthForge truly has them.
    pub fn live(&self) -> BTreeMap<String, Vec<String>> {
        let mut live: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for license in self.authforge.licenses().into_iter().filter(|license| !license.revoked) {
            let label = license.label.unwrap_or_default();
            let purchase =
                ["Stripe session ", "Stripe sub "].iter().find_map(|head| label.strip_prefix(head));
            let purchase = purchase.unwrap_or(&label).split(' ').next().unwrap_or_default().to_owned();
            live.entry(purchase).or_default().push(license.key);
        }
        live
    }

    /// Waits until every event was taken in, and every grant is as declared or waits for a person.
    pub async fn settled(&self) {
        until("everything to settle", async || {
            let waiting = "state = PENDING".to_owned();
            let message = pb::ListEventsRequest { page_size: 1, filter: waiting, ..Default::default() };
            let request = self.authorized(Role::Read, message);
            let events =
                EventServiceClient::new(self.channel()).list_events(request).await.ok()?.into_inner();
            events.events.is_empty().then_some(())?;
            let waiting = "state = ISSUING".to_owned();
            let message =
                pb::ListLicenseGrantsRequest { page_size: 1, filter: waiting, ..Default::default() };
            self.listed(message).await?.is_empty().then_some(())
        })
        .await;
    }

    /// Compares AuthForge's truth with Stripe's: every paid unit has one live license, and nothing else has any.
    pub fn assert_promise(&self) {
        let live = self.live();
        let mut entitled = 0;
        // Subscriptions are licensed under their own name, for as long as they last.
        for truth in self.world.true_history().into_iter().filter(|truth| truth.kind != Kind::Subscription) {
            let count = live.get(&truth.session).map_or(0, Vec::len);
            let wanted = if truth.entitled { usize::try_from(truth.units).expect("a count") } else { 0 };
            entitled += wanted;
            assert_eq!(count, wanted, "live licenses of {}", truth.session);
        }
        for truth in self.world.true_subscriptions() {
            let count = live.get(&truth.subscription).map_or(0, Vec::len);
            let lives = matches!(truth.status, Status::Active | Status::Trialing | Status::PastDue);
            let units = if self.plan.events_only { 1 } else { truth.units };
            let wanted = if lives { usize::try_from(units).expect("a count") } else { 0 };
            entitled += wanted;
            assert_eq!(count, wanted, "live licenses of {} ({:?})", truth.subscription, truth.status);
        }
        assert_eq!(live.values().map(Vec::len).sum::<usize>(), entitled, "no license without a purchase");
    }
}

/// A purchase as the guide's checkout makes it: a year on two devices.
pub fn order() -> Purchase {
    Purchase::of("price_pro")
        .metadata("authforge_app_id", APP)
        .metadata("license_duration", "365")
        .metadata("max_hwid_slots", "2")
}
