// The fulfilment rival: a handler as AuthForge's Stripe guide describes it, for what it covers.
//
//   node guide.mjs --secret whsec_… --authforge-url http://… --authforge-api-key af_… [--app ID]
//                  [--db licenses.db] [--port 0] [--durable]
//
// As in the guide, the webhook is answered after AuthForge has made the license, and a failure is
// left to Stripe's redelivery. With --durable the event is committed to disk first and answered at
// once; the work follows in this process, is tried again when it fails, and is resumed at start.

import { setTimeout as sleep } from 'node:timers/promises';
import { application, openDatabase, serve, settings } from './serve.mjs';

const env = process.env;
const options = settings({
  durable: { type: 'boolean', default: false },
  app: { type: 'string', default: env.AUTHFORGE_APP_ID },
  'authforge-url': { type: 'string', default: env.AUTHFORGE_URL ?? 'https://api.authforge.cc' },
  'authforge-api-key': { type: 'string', default: env.AUTHFORGE_API_KEY },
});
const db = openDatabase(options.db);
db.exec(`
  CREATE TABLE IF NOT EXISTS licenses (
    stripe_id TEXT PRIMARY KEY, license_key TEXT NOT NULL, app_id TEXT NOT NULL, expires_at TEXT
  );
  CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, body BLOB NOT NULL, done INTEGER NOT NULL DEFAULT 0
  );
`);
const findLicense = db.prepare('SELECT license_key, app_id, expires_at FROM licenses WHERE stripe_id = ?');
const keepLicense = db.prepare('INSERT INTO licenses VALUES (?, ?, ?, ?)');
const moveExpiry = db.prepare('UPDATE licenses SET expires_at = ? WHERE stripe_id = ?');
const recordEvent = db.prepare('INSERT INTO events (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING');
const finishEvent = db.prepare('UPDATE events SET done = 1 WHERE id = ?');
const openEvents = db.prepare('SELECT body FROM events WHERE done = 0 ORDER BY rowid');

// AuthForge.

const licensesUrl = `${options['authforge-url'].replace(/\/$/, '')}/v1/licenses`;

async function authforge(method, url, body) {
  const response = await fetch(url, {
    method,
    headers: { authorization: `Bearer ${options['authforge-api-key']}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(10_000),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`AuthForge answered ${response.status}`);
  return JSON.parse(text);
}

/** Creates the license of a session or subscription unless one is on record. */
async function issue(stripeId, { label, appId, expiresAt, maxHwidSlots }) {
  if (findLicense.get(stripeId)) return;
  const { licenses } = await authforge('POST', licensesUrl, { appId, quantity: 1, expiresAt, maxHwidSlots, label });
  keepLicense.run(stripeId, licenses[0].licenseKey, appId, expiresAt);
}

/** Applies an action to the license on record, if there is one. */
async function change(stripeId, action) {
  const license = findLicense.get(stripeId);
  if (license) await authforge('PUT', `${licensesUrl}/${license.license_key}`, action);
  return license;
}

// Stripe's events.

const slotsOf = (metadata) => Number.parseInt(metadata?.max_hwid_slots ?? '1', 10);

/** The period's end stands on the items since 2025, on the subscription before. */
function periodEnd(subscription) {
  const seconds = subscription.current_period_end ?? subscription.items?.data[0]?.current_period_end;
  return seconds ? new Date(seconds * 1000).toISOString() : null;
}

const actions = {
  async 'checkout.session.completed'(session) {
    const { authforge_app_id: appId, license_duration: days } = session.metadata ?? {};
    if (!appId) return;
    const expiresAt = days ? new Date(Date.now() + Number.parseInt(days, 10) * 86_400_000).toISOString() : null;
    const label = `Stripe session ${session.id}`;
    await issue(session.id, { label, appId, expiresAt, maxHwidSlots: slotsOf(session.metadata) });
  },

  async 'customer.subscription.created'(subscription) {
    const appId = subscription.metadata?.authforge_app_id ?? options.app;
    if (!appId) return;
    await issue(subscription.id, {
      label: `Stripe sub ${subscription.id}`,
      appId,
      expiresAt: periodEnd(subscription),
      maxHwidSlots: slotsOf(subscription.metadata),
    });
  },

  async 'customer.subscription.updated'(subscription) {
    const expiresAt = periodEnd(subscription);
    if (subscription.status !== 'active' || !expiresAt) return;
    if (findLicense.get(subscription.id)?.expires_at === expiresAt) return;
    if (await change(subscription.id, { action: 'extend', expiresAt })) moveExpiry.run(expiresAt, subscription.id);
  },

  async 'customer.subscription.deleted'(subscription) {
    await change(subscription.id, { action: 'revoke' });
  },

  async 'invoice.payment_failed'(invoice) {
    console.error(`payment failed: ${invoice.id}`);
  },
};

// One piece of work at a time for each session or subscription, or two deliveries in flight would
// both find nothing on record.
const tails = new Map();

function fulfil(event) {
  const action = actions[event.type];
  if (!action) return Promise.resolve();
  const { id } = event.data.object;
  const work = (tails.get(id) ?? Promise.resolve()).catch(() => {}).then(() => action(event.data.object));
  tails.set(id, work);
  return work.finally(() => {
    if (tails.get(id) === work) tails.delete(id);
  });
}

async function receive(event, body, res) {
  try {
    await fulfil(event);
    res.json({ received: true });
  } catch (error) {
    console.error(`${event.id}: ${error.message}`);
    res.status(500).json({ error: 'not fulfilled' });
  }
}

async function fulfilDurably(event) {
  for (let delay = 500; ; delay = Math.min(delay * 2, 60_000)) {
    try {
      await fulfil(event);
      finishEvent.run(event.id);
      return;
    } catch (error) {
      console.error(`${event.id}: ${error.message}; again in ${delay} ms`);
      await sleep(delay);
    }
  }
}

function receiveDurably(event, body, res) {
  let isNew;
  try {
    isNew = recordEvent.run(event.id, body).changes === 1;
  } catch (error) {
    console.error(`${event.id}: not recorded: ${error.message}`);
    res.status(503).set('Retry-After', '5').json({ error: 'not recorded' });
    return;
  }
  res.json({ received: true });
  if (isNew) fulfilDurably(event);
}

const app = application(options.secret, options.durable ? receiveDurably : receive);

app.get('/success', (req, res) => {
  const license = findLicense.get(String(req.query.session_id ?? ''));
  res.set('Cache-Control', 'no-store');
  if (license) res.json({ status: 'ready', licenses: [license] });
  else res.status(404).json({ error: 'License not found' });
});

if (options.durable) {
  for (const { body } of openEvents.all()) fulfilDurably(JSON.parse(body));
}
await serve(app, options.port, db);
