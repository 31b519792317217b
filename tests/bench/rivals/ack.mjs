// The acknowledgement rival: verify, record durably, answer. Nothing else.
//
//   node ack.mjs --db events.db --secret whsec_… [--port 0] [--grouped]
//
// By default each event is a commit of its own. With --grouped all events of one turn of the event
// loop share a commit, and each is answered after it.

import { application, openDatabase, serve, settings } from './serve.mjs';

const options = settings({ grouped: { type: 'boolean', default: false } });
const db = openDatabase(options.db);
db.exec(`CREATE TABLE IF NOT EXISTS events (
  id TEXT PRIMARY KEY, type TEXT NOT NULL, created INTEGER NOT NULL, body BLOB NOT NULL
)`);
const insert = db.prepare(
  'INSERT INTO events (id, type, created, body) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING',
);

/** Records one event and says what to answer. */
function record({ event, body }) {
  const { changes } = insert.run(event.id, event.type, event.created, body);
  return { outcome: changes === 1 ? 'recorded' : 'duplicate' };
}

/** Runs `write`; a failed write is Stripe's to send again. */
function answering(responses, write) {
  try {
    write().forEach((outcome, index) => responses[index].json(outcome));
  } catch (error) {
    console.error('not recorded:', error.message);
    for (const res of responses) res.status(503).set('Retry-After', '5').json({ error: 'not recorded' });
  }
}

function receiveSingly(event, body, res) {
  answering([res], () => [record({ event, body })]);
}

const recordAll = db.transaction((entries) => entries.map(record));
let waiting = [];

function receiveGrouped(event, body, res) {
  waiting.push({ event, body, res });
  if (waiting.length === 1) setImmediate(commitWaiting);
}

function commitWaiting() {
  const entries = waiting;
  waiting = [];
  answering(entries.map(({ res }) => res), () => recordAll.immediate(entries));
}

await serve(application(options.secret, options.grouped ? receiveGrouped : receiveSingly), options.port, db);
