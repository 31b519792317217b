//! An installation of the chart, with all the world around it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::{Deeds, Fake, Settings, Switches};
use grantsmith_core::port::Clock as _;
use grantsmith_crd::{LicenseGrant, READY};
use grantsmith_service::stripe::Mode;
use grantsmith_service::stripe::fake::{Bought, Rendering, Server, World};
use grantsmith_service::stripe::secret::Secret as SigningSecret;
use grantsmith_tests::mailpit::Mailpit;
use grantsmith_tests::node::{ADDRESS, IMAGES, Node, TAG, good};
use grantsmith_tests::realm::condition;
use grantsmith_tests::stack::order;
use grantsmith_tests::tls::{Authority, Front};
use grantsmith_tests::wait::until_within;
use grantsmith_tests::{AUTHFORGE_KEY, Outside, STRIPE_KEY, WEBHOOK_SECRET, until};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::api::{Api, ListParams};
use rustix::fs::{Gid, Uid};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OnceCell};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The release and its namespace.
pub(crate) const SHOP: &str = "shop";
/// The namespace of its grants.
pub(crate) const LICENSES: &str = "shop-licenses";
/// The three parts of a release.
pub(crate) const PARTS: [&str; 3] = ["webhook", "server", "operator"];

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/grantsmith");

/// As the image's user: what a volume of the node's own must be owned by.
const USER: u32 = 10001;

/// A shop: the release, and Stripe, AuthForge and the mailbox on the other side.
pub(crate) struct Shop {
    node: &'static Node,
    pub(crate) world: Arc<World>,
    pub(crate) authforge: Fake,
    pub(crate) mail: Mailpit,
    authority: Authority,
    fronts: [Front; 2],
    client: reqwest::Client,
    /// How many refused requests were to be expected.
    forgiven: AtomicUsize,
    _stripe: Server,
}

/// Makes a namespace for a release: with its Secrets, a volume for its server and a certificate.
pub(crate) async fn prepare(node: &Node, release: &str, authority: &Authority) {
    node.namespace(release).await;
    let folder = node.folder().join(format!("volume-{release}"));
    std::fs::create_dir(&folder).expect("a folder");
    rustix::fs::chown(&folder, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER)))
        .expect("a folder of the user");
    let host = format!("{release}-grantsmith-server.{release}.svc");
    let certificate = authority.certify(&[&host]);
    let secret = |name: &str, data: &Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    node.apply(
        release,
        &[
            secret("stripe", &json!({"api-key": STRIPE_KEY, "webhook-secrets": WEBHOOK_SECRET})),
            secret("authforge", &json!({"api-key": AUTHFORGE_KEY})),
            secret(
                "server-tls",
                &json!({"tls.crt": certificate.chain, "tls.key": certificate.key, "ca.crt": authority.pem()}),
            ),
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "roots"},
                "data": {"ca.crt": authority.pem()},
            }),
            // Nothing here makes volumes, so the claim is given one.
            json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": release},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "capacity": {"storage": "5Gi"},
                    "hostPath": {"path": folder, "type": "Directory"},
                    "claimRef": {"namespace": release, "name": format!("{release}-grantsmith-server")},
                },
            }),
        ],
    )
    .await;
}

/// The values of a release of ours; `others` go before.
pub(crate) fn values(others: &Value) -> Value {
    let mut values = json!({
        "image": {"repository": IMAGES[0], "tag": TAG, "pullPolicy": "Never"},
        "publicUrl": "http://shop.example",
        "sellerName": "Test Shop",
        // Those that the node's own requests come from.
        "trustedProxies": ["10.88.0.0/24", "10.244.0.0/24"],
        "stripe": {
            "mode": "test",
            "apiKeySecret": {"name": "stripe"},
            "webhookSecretsSecret": {"name": "stripe"},
        },
        "authforge": {"apiKeySecret": {"name": "authforge"}},
        "ca": {"configMap": "roots"},
        "server": {"tls": {"secretName": "server-tls"}},
        "operator": {
            "image": {"repository": IMAGES[1], "tag": TAG, "pullPolicy": "Never"},
            // A create whose answer was lost is over within the test; no answer of the fake takes that long.
            "extraArgs": ["--lost-create-quarantine=5s"],
        },
    });
    lay_over(&mut values, others);
    values
}

fn lay_over(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (field, value) in over {
                lay_over(under.entry(field).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

/// Runs Helm with values for a release in the namespace of its name.
pub(crate) async fn helm(node: &Node, verb: &str, release: &str, values: &Value, flags: &[&str]) -> Output {
    let file = node.folder().join(format!("{release}.values.json"));
    std::fs::write(&file, values.to_string()).expect("a file");
    let mut helm = node.helm();
    helm.args([verb, release, CHART, "--namespace", release, "--wait", "--values"]).arg(&file).args(flags);
    helm.output().await.expect("helm runs")
}

fn assert_good(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "helm says: {}{}", text(&output.stdout), text(&output.stderr));
}

/// The shop that all tests share, installed by whoever is first.
pub(crate) async fn shared(node: &'static Node) -> &'static Shop {
    static SHOP: OnceCell<Shop> = OnceCell::const_new();
    SHOP.get_or_init(async || {
        let shop = Shop::open(node).await;
        shop.install().await;
        shop
    })
    .await
}

/// Posts an event until it is answered 2xx, as Stripe does, if not as slowly. Gives how often.
async fn insist(outside: Outside, body: Vec<u8>) -> usize {
    let mut times = 0;
    let mut pace = interval(Duration::from_millis(500));
    let delivery = async {
        loop {
            pace.tick().await;
            times += 1;
            if outside.post(body.clone()).await.is_ok_and(|answer| answer.status / 100 == 2) {
                return times;
            }
        }
    };
    timeout(Duration::from_secs(120), delivery).await.expect("the webhook takes an event within two minutes")
}

impl Shop {
    /// Everything around an installation, and what it needs in the cluster.
    async fn open(node: &'static Node) -> Self {
        let authority = Authority::new();
        prepare(node, SHOP, &authority).await;
        let listener = async || TcpListener::bind((ADDRESS, 0)).await.expect("a free port");
        let world = Arc::new(World::new(Mode::Test, rand::random()));
        let listener_of_stripe = listener().await;
        let stripe_address = listener_of_stripe.local_addr().expect("an address");
        let stripe = Server::start_on(listener_of_stripe, world.clone(), STRIPE_KEY).expect("a fake Stripe");
        // Long enough that some calls are under way whenever something is killed.
        let switches = Switches { latency_ms: 50, ..Switches::default() };
        let mut settings = Settings::new(Arc::new(SystemClock)).with(switches);
        settings.seed = rand::random();
        settings.listener = Some(listener().await);
        let authforge = Fake::start(settings).await.expect("a fake AuthForge");
        let certificate = authority.certify(&[&ADDRESS.to_string()]);
        let fronts = [
            Front::start(stripe_address, &certificate).await,
            Front::start(authforge.address(), &certificate).await,
        ];
        Self {
            node,
            world,
            authforge,
            mail: Mailpit::start_at(ADDRESS, node.before_command()).await,
            authority,
            fronts,
            client: grantsmith_authforge::http_client(&[]).expect("a client"),
            forgiven: AtomicUsize::new(0),
            _stripe: stripe,
        }
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    fn values(&self, others: &Value) -> Value {
        let [stripe, authforge] = self.urls();
        let mut values = values(&json!({
            "stripe": {"url": stripe},
            "authforge": {"url": authforge},
            "smtp": {"url": self.mail.url()},
            "mail": {"from": "Test Shop <keys@shop.example>"},
        }));
        lay_over(&mut values, others);
        values
    }

    /// Installs the release and waits for it.
    pub(crate) async fn install(&self) {
        assert_good(&helm(self.node, "install", SHOP, &self.values(&json!({})), &["--timeout=120s"]).await);
    }

    /// Brings the release to other values and waits for it.
    pub(crate) async fn upgrade(&self, others: &Value) {
        assert_good(&helm(self.node, "upgrade", SHOP, &self.values(others), &["--timeout=180s"]).await);
    }

    /// Takes the release away, and waits until its pods are gone.
    pub(crate) async fn uninstall(&self) {
        let mut helm = self.node.helm();
        good(helm.args(["uninstall", SHOP, "--namespace", SHOP, "--wait"])).await;
        let pods: Api<Pod> = Api::namespaced(self.node.client().await, SHOP);
        until("the pods to be gone", async || {
            pods.list(&ListParams::default()).await.ok()?.items.is_empty().then_some(())
        })
        .await;
        // The rights may go before the operator, which then cannot give its lease back.
        let refused = self.node.refused(SHOP);
        assert!(refused.iter().all(|asked| asked.concerns("leases")), "{refused:#?}");
        self.forgiven.store(refused.len(), Ordering::Relaxed);
    }

    /// Waits until all parts are as many and as ready as they should be.
    pub(crate) async fn until_rolled_out(&self) {
        for part in PARTS {
            let deployment = format!("deployment/{SHOP}-grantsmith-{part}");
            self.kubectl(&["rollout", "status", &deployment, "--timeout=120s"]).await;
        }
    }

    /// kubectl in the release's namespace.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        self.node.run_kubectl(&[&["--namespace", SHOP], arguments].concat()).await
    }

    /// Where Stripe and AuthForge are.
    pub(crate) fn urls(&self) -> [String; 2] {
        [self.fronts[0].url(), self.fronts[1].url()]
    }

    /// Stripe and the buyers, at the webhook's Service as it is now.
    pub(crate) async fn outside(&self) -> Outside {
        let services: Api<Service> = Api::namespaced(self.node.client().await, SHOP);
        let service =
            services.get(&format!("{SHOP}-grantsmith-webhook")).await.expect("the webhook's Service");
        let address = service.spec.and_then(|spec| spec.cluster_ip).expect("an address");
        self.outside_at(format!("http://{address}"))
    }

    /// The same at another address.
    pub(crate) fn outside_at(&self, base: String) -> Outside {
        let secret = SigningSecret::new(Mode::Test, WEBHOOK_SECRET).expect("a secret");
        Outside::new(self.client.clone(), base, secret)
    }

    fn order(&self) -> Bought {
        let buyer = format!("buyer{}@example.com", self.world.true_history().len());
        self.world.buy(order().by(&buyer), SystemClock.now().wall)
    }

    /// Somebody buys, and Stripe's events are delivered.
    pub(crate) async fn sell(&self) -> Bought {
        let (bought, outside) = (self.order(), self.outside().await);
        for event in &bought.events {
            outside.deliver(event.body(Rendering::Endive)).await;
        }
        bought
    }

    /// Buyers come all the time while something goes on, and at least this many.
    pub(crate) async fn burst(&self, least: usize, goes_on: impl Future<Output = ()>) {
        let outside = self.outside().await;
        let mut deliveries = JoinSet::new();
        let mut pace = interval(Duration::from_millis(200));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(goes_on);
        let (mut over, mut sold) = (false, 0);
        while !over || sold < least {
            tokio::select! {
                () = &mut goes_on, if !over => over = true,
                _ = pace.tick() => {
                    sold += 1;
                    for event in self.order().events {
                        deliveries.spawn(insist(outside.clone(), event.body(Rendering::Endive)));
                    }
                }
            }
        }
        let (mut taken, mut repeated) = (0, 0);
        while let Some(times) = deliveries.join_next().await {
            taken += 1;
            repeated += times.expect("every event is taken in the end") - 1;
        }
        eprintln!("{sold} purchases, {taken} events taken, {repeated} times posted again");
    }

    /// The keys in the Secrets of the grants' namespace.
    pub(crate) async fn kept_keys(&self) -> Vec<String> {
        let secrets: Api<Secret> = Api::namespaced(self.node.client().await, LICENSES);
        let secrets = secrets.list(&ListParams::default()).await.expect("Secrets");
        let owned = secrets.items.into_iter().filter(|secret| {
            secret.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "LicenseGrant")
        });
        let data = owned.filter_map(|secret| secret.data).flatten();
        let mut keys: Vec<String> = data.map(|(_, key)| String::from_utf8(key.0).expect("a key")).collect();
        keys.sort();
        keys
    }

    fn live_keys(&self) -> Vec<String> {
        let live = self.authforge.licenses().into_iter().filter(|license| !license.revoked);
        let mut keys: Vec<String> = live.map(|license| license.key).collect();
        keys.sort();
        keys
    }

    /// The mails of each buyer: their Message-IDs.
    pub(crate) async fn mails(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut mails: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for mail in self.mail.mails().await {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            mails.entry(word(&mail["To"][0]["Address"])).or_default().insert(word(&mail["MessageID"]));
        }
        mails
    }

    /// Waits until every grant is as declared and every buyer has mail, then compares with what really happened: every
    /// paid unit has one license, ever, whose key is in a Secret; every buyer was written to once.
    pub(crate) async fn assert_promise(&self) {
        let sold = self.world.true_history().len();
        let grants: Api<LicenseGrant> = Api::namespaced(self.node.client().await, LICENSES);
        let patience = Duration::from_secs(120);
        until_within(patience, &format!("{sold} grants to be as declared"), async || {
            let grants = grants.list(&ListParams::default()).await.ok()?.items;
            let settled = grants.iter().filter(|grant| {
                let observed = grant.status.as_ref().and_then(|status| status.observed_generation);
                observed == grant.metadata.generation
                    && condition(grant, READY).is_some_and(|c| c.status == "True")
            });
            (settled.count() == sold && grants.len() == sold).then_some(())
        })
        .await;
        until_within(patience, &format!("mails to {sold} buyers"), async || {
            (self.mails().await.len() >= sold).then_some(())
        })
        .await;
        let made = self.authforge.history().iter().filter(|deed| deed.what == Deeds::Created).count();
        assert_eq!(made, sold, "no license was ever made but for a paid unit");
        let live = self.live_keys();
        assert_eq!(live.len(), sold, "every license lives");
        let labels: BTreeSet<_> =
            self.authforge.licenses().into_iter().map(|license| license.label).collect();
        for truth in self.world.true_history() {
            let label = Some(format!("Stripe session {}", truth.session));
            assert!(labels.contains(&label), "{} has its license", truth.session);
        }
        assert_eq!(self.kept_keys().await, live, "the Secrets have the keys that live");
        let mails = self.mails().await;
        assert!(mails.values().all(|ids| ids.len() == 1), "nobody has two different mails: {mails:?}");
        let refused = self.node.refused(SHOP).split_off(self.forgiven.load(Ordering::Relaxed));
        assert!(refused.is_empty(), "a part lacks a right: {refused:#?}");
    }

    /// Waits for the key on a purchase's success page.
    pub(crate) async fn shown_key(&self, session: &str) -> String {
        let label = format!("Stripe session {session}");
        until(&format!("a license of {session}"), async || {
            let licenses = self.authforge.licenses();
            licenses.iter().any(|license| license.label.as_ref() == Some(&label)).then_some(())
        })
        .await;
        let outside = self.outside().await;
        // A page is shown so often a minute and no more: as often as a browser would ask.
        let clock = Mutex::new(interval(Duration::from_secs(1)));
        until(&format!("the key of {session}"), async || {
            clock.lock().await.tick().await;
            let (status, page) = outside.page(session).await;
            let key = page["licenses"][0]["license_key"].as_str().filter(|_| status == 200);
            key.map(str::to_owned)
        })
        .await
    }

    /// The volume's folder, to look into.
    pub(crate) fn record(&self) -> std::path::PathBuf {
        Path::new(self.node.folder()).join(format!("volume-{SHOP}/grantsmith.db"))
    }
}
