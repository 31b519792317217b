// What both rivals share: settings, the verified webhook route, listening and stopping.

import { once } from 'node:events';
import { parseArgs } from 'node:util';
import Database from 'better-sqlite3';
import express from 'express';
import Stripe from 'stripe';

// Express caches and stays quiet in production only; it looks when the application is made.
process.env.NODE_ENV ??= 'production';

/** Reads `--name value`, then the environment, then the default; `own` adds further options. */
export function settings(own = {}) {
  const { values } = parseArgs({
    options: {
      port: { type: 'string', default: process.env.PORT ?? '0' },
      db: { type: 'string', default: process.env.DATABASE ?? ':memory:' },
      secret: { type: 'string', default: process.env.STRIPE_WEBHOOK_SECRET },
      ...own,
    },
  });
  if (!values.secret) {
    console.error('a webhook secret is needed: --secret whsec_… or STRIPE_WEBHOOK_SECRET');
    process.exit(2);
  }
  return values;
}

/** Opens the database so that a commit is on the disk when it returns. */
export function openDatabase(path) {
  const db = new Database(path);
  db.pragma('journal_mode = WAL');
  db.pragma('synchronous = FULL');
  return db;
}

/** An application with one webhook route, whose `receive` gets only events that Stripe signed. */
export function application(secret, receive) {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.post('/webhooks/stripe', express.raw({ type: 'application/json', limit: '1mb' }), (req, res) => {
    let event;
    try {
      event = Stripe.webhooks.constructEvent(req.body, req.headers['stripe-signature'], secret);
    } catch {
      res.status(400).json({ error: 'signature verification failed' });
      return undefined;
    }
    return receive(event, req.body, res);
  });
  return app;
}

/** Listens on loopback, says where, and closes the database after the last answer. */
export async function serve(app, port, db) {
  const server = app.listen(Number(port), '127.0.0.1');
  server.keepAliveTimeout = 65_000;
  await once(server, 'listening');
  console.error(`listening http=127.0.0.1:${server.address().port}`);
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, () => {
      server.close(() => {
        db.close();
        process.exit(0);
      });
      server.closeIdleConnections();
    });
  }
}
