-- The record, as of the first version.
--
-- Times are INTEGER milliseconds since 1970 in UTC. States, kinds and reasons are words, so that a person with the sqlite3
-- shell can read them. Compressed bodies are LZ4 blocks behind their size in four bytes, little-endian; those of encoding
-- `lz4-1` have the program's packed-1.dict for their dictionary.
--
-- What `record_event` writes is paid for by every event, while Stripe waits: `sequence`, `objects`, `events` and `bodies`.
-- These have no foreign keys and no more indexes than are asked for, and all of their trees but `objects_by_id` grow at the
-- end or near it: Stripe's ids of events begin with their second.

-- The counter that puts marks and tickets in one order. Drawn inside the writing transaction, so it survives a crash.
CREATE TABLE sequence (
    -- Always 1: there is one row.
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- The number drawn last.
    value INTEGER NOT NULL
) STRICT;

INSERT INTO sequence (one, value) VALUES (1, 0);

-- Stripe's objects that anything is known of: the links that join them to purchases, and the marks of those to look at.
CREATE TABLE objects (
    -- Its number here: a short name for the trees that refer to it.
    object INTEGER PRIMARY KEY,
    -- Stripe's id, such as `cs_test_a1`. There once: the one writer looks before it inserts.
    id TEXT NOT NULL,
    -- `session`, `subscription`, `invoice`, `payment_intent`, `charge` or `other`.
    kind TEXT NOT NULL,
    -- The purchase that it belongs to; NULL for an orphan, and for a session that was not decided yet.
    purchase TEXT,
    -- The number of the newest mark; NULL when the object is clean. A look with a later ticket has taken it in.
    mark INTEGER,
    -- When to look; NULL when the object is clean.
    due INTEGER,
    -- Failed looks in a row.
    tries INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The id's last letters, which Stripe draws at random: a fifth of the whole id's size, so the tree of what is not in order
-- stays small. Who looks for an id asks for both.
CREATE INDEX objects_by_id ON objects (substr(id, -8));
CREATE INDEX objects_by_purchase ON objects (purchase) WHERE purchase IS NOT NULL;
-- Three, so that who waits at the till is found before ten thousand renewals, and no row stands in two.
CREATE INDEX objects_due_first ON objects (due) WHERE due IS NOT NULL AND purchase IS NULL AND kind IN ('session', 'subscription');
CREATE INDEX objects_due_again ON objects (due) WHERE due IS NOT NULL AND purchase IS NOT NULL AND kind = 'session';
CREATE INDEX objects_due_others ON objects (due) WHERE due IS NOT NULL AND NOT (kind = 'session' OR purchase IS NULL AND kind = 'subscription');

-- Events as Stripe sent them. Ids are kept for ever.
CREATE TABLE events (
    -- `received` times 1000000 plus a number: the table itself is in the order of listings, and grows at its end.
    place INTEGER PRIMARY KEY,
    -- `evt_…`
    id TEXT NOT NULL UNIQUE,
    -- Such as `checkout.session.completed`.
    kind TEXT NOT NULL,
    -- Stripe's `created`.
    created INTEGER NOT NULL,
    -- When it first reached us.
    received INTEGER NOT NULL,
    -- 1 in Stripe's live mode, 0 in test mode.
    livemode INTEGER NOT NULL,
    -- The API version that shaped it.
    api_version TEXT,
    -- The Stripe id of what it tells of.
    object_id TEXT,
    -- `objects.object` to look at because of it; NULL if it changes nothing.
    object INTEGER,
    -- Its number in the sequence: a look with a later ticket has taken it in.
    mark INTEGER NOT NULL,
    -- `pending`, `handled`, `parked` or `ignored`.
    state TEXT NOT NULL,
    -- Why.
    reason TEXT,
    -- What the seller can do about it.
    detail TEXT
) STRICT;

CREATE INDEX events_by_object ON events (object) WHERE object IS NOT NULL;
-- For lists of what waits: few rows among millions.
CREATE INDEX events_pending ON events (place) WHERE state = 'pending';
CREATE INDEX events_parked ON events (place) WHERE state = 'parked';

-- Raw bodies, apart from their events: forgetting old ones frees whole pages, and lists do not step over them.
CREATE TABLE bodies (
    -- `events.place`
    place INTEGER PRIMARY KEY,
    -- `plain`, `lz4` or `lz4-1`.
    encoding TEXT NOT NULL,
    -- The bytes.
    body BLOB NOT NULL
) STRICT;

-- Stripe's objects as last seen, replaced whole.
CREATE TABLE snapshots (
    -- `objects.object`
    object INTEGER PRIMARY KEY REFERENCES objects (object),
    -- The look that brought it; only a later one replaces it.
    ticket INTEGER NOT NULL,
    -- `fetched` from Stripe's API, or `told` by an event.
    source TEXT NOT NULL,
    -- The event that told it.
    told_event TEXT,
    -- That event's type.
    told_kind TEXT,
    -- That event's `created`.
    told_at INTEGER,
    -- `plain`, `lz4` or `lz4-1`.
    encoding TEXT NOT NULL,
    -- The object's JSON.
    body BLOB NOT NULL
) STRICT;

-- Paid invoices, refunds and disputes of purchases: sets that only grow or advance.
CREATE TABLE ledgers (
    -- `invoice`, `refund` or `dispute`.
    kind TEXT NOT NULL,
    -- Stripe's id.
    id TEXT NOT NULL,
    -- The purchase that it belongs to.
    purchase TEXT NOT NULL,
    -- The look that brought it; only a later one replaces it.
    ticket INTEGER NOT NULL,
    -- `plain`, `lz4` or `lz4-1`.
    encoding TEXT NOT NULL,
    -- What counts of the object, as JSON.
    body BLOB NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX ledgers_by_purchase ON ledgers (purchase);

-- Our promise for one purchase.
CREATE TABLE grants (
    -- `lg-…`, derived from the purchase.
    id TEXT PRIMARY KEY,
    -- The Stripe id that names the purchase.
    purchase TEXT NOT NULL UNIQUE,
    -- 1 in Stripe's live mode, 0 in test mode.
    livemode INTEGER NOT NULL,
    -- `pending`, `issuing`, `ready`, `ended`, `parked` or `not_ours`.
    state TEXT NOT NULL,
    -- Why.
    reason TEXT NOT NULL,
    -- What the seller can do about it.
    detail TEXT,
    -- When it was paid, fixed at the first decision that knew.
    paid_at INTEGER,
    -- The buyer's address.
    email TEXT,
    -- The address in lower case, to find it by.
    email_folded TEXT,
    -- Stripe's customer, `cus_…`.
    customer TEXT,
    -- 1 if a person set the address: what Stripe says of it does not count any more.
    email_by_hand INTEGER NOT NULL DEFAULT 0,
    -- 1 once the buyer was forgotten: what Stripe tells of them later is cut away again.
    forgotten INTEGER NOT NULL DEFAULT 0,
    -- A person's note.
    note TEXT,
    -- 1 once a person has set the expiry, also when that was taken back: licenses are brought to what was sold then.
    expiry_by_hand INTEGER NOT NULL DEFAULT 0,
    -- The number of the last thing that a person decided: a look with an earlier ticket did not know of it.
    handed INTEGER NOT NULL DEFAULT 0,
    -- The number of the last decision that changed something: a round of work begun before it does not overwrite it.
    decided INTEGER NOT NULL,
    -- Grows with every write to its attempts and licenses: what the opening of an attempt is fenced by.
    version INTEGER NOT NULL DEFAULT 0,
    -- When there is work on it; NULL when there is none.
    due INTEGER,
    -- Failed rounds of work in a row.
    tries INTEGER NOT NULL DEFAULT 0,
    -- The name of the LicenseGrant that people declare it by; NULL where this program does.
    object TEXT,
    -- The Secret that holds its keys.
    secret TEXT,
    -- What of its override the cluster and this record agree upon, and what is being written there, as JSON.
    agreed TEXT,
    -- When it was first decided.
    created INTEGER NOT NULL,
    -- When it last changed.
    updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Due grants are taken by the time of payment, newest first. Walked in that order, a backlog is not sorted for each few.
CREATE INDEX grants_waiting ON grants (paid_at DESC, id, due) WHERE due IS NOT NULL;
CREATE INDEX grants_due ON grants (due) WHERE due IS NOT NULL;
CREATE INDEX grants_by_time ON grants (created);
-- The reason is in it so that counting for metrics reads the index alone.
CREATE INDEX grants_by_state ON grants (state, created, id, reason);
CREATE INDEX grants_by_customer ON grants (customer) WHERE customer IS NOT NULL;
CREATE INDEX grants_by_email ON grants (email_folded) WHERE email_folded IS NOT NULL;

-- What was sold, fixed at the first decision that knew.
CREATE TABLE terms (
    -- The grant.
    grant_id TEXT PRIMARY KEY REFERENCES grants (id),
    -- What each price sells, as JSON: app, duration, slots and the rules for what comes later.
    terms TEXT NOT NULL,
    -- When the terms were fixed.
    fixed INTEGER NOT NULL,
    -- 1 if they are only what an imported license shows: what the purchase itself says replaces them.
    imported INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- What people decided. It outranks Stripe's facts until it is taken back.
CREATE TABLE hands (
    -- The grant.
    grant_id TEXT PRIMARY KEY REFERENCES grants (id),
    -- `active`, `suspended` or `revoked`; NULL leaves the state to the rules.
    state TEXT,
    -- 1 if the person set the expiry.
    sets_expiry INTEGER NOT NULL,
    -- The expiry that the person set; NULL is for ever.
    expires_at INTEGER,
    -- 1 while what the rules revoke may be revoked whatever the budget says.
    released INTEGER NOT NULL DEFAULT 0,
    -- Why, in the person's words.
    reason TEXT NOT NULL DEFAULT '',
    -- The name of the token that decided last.
    person TEXT NOT NULL,
    -- When.
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The licenses that should exist.
CREATE TABLE declared (
    -- The grant.
    grant_id TEXT NOT NULL REFERENCES grants (id),
    -- `main`, `2`, `3` and so on.
    name TEXT NOT NULL,
    -- The place of its unit within the grant.
    ordinal INTEGER NOT NULL,
    -- 1, or more for replacements.
    generation INTEGER NOT NULL,
    -- AuthForge's app.
    app_id TEXT NOT NULL,
    -- Device slots, 1 to 16; 0 is no limit.
    slots INTEGER NOT NULL,
    -- `active`, `suspended` or `revoked`.
    state TEXT NOT NULL,
    -- When it ends; NULL is never.
    expires_at INTEGER,
    -- `sold`: an adopted license keeps its own expiry; `followed`: it is brought to this one.
    expiry TEXT NOT NULL,
    -- Why the state is what it is.
    reason TEXT NOT NULL,
    -- Who decided: `rule` or `hand`.
    cause TEXT NOT NULL,
    -- Where the license stands, as the last round of work saw it.
    standing TEXT NOT NULL,
    -- 1 while its key is an imported one that no paid unit of its app was found for.
    imported INTEGER NOT NULL DEFAULT 0,
    -- 1 once its unit was taken out of the purchase.
    withdrawn INTEGER NOT NULL DEFAULT 0,
    -- The fingerprint of an imported key that an operator is to find; NULL is any license.
    adopt TEXT,
    PRIMARY KEY (grant_id, name)
) STRICT, WITHOUT ROWID;

-- Whose an imported key is.
CREATE INDEX declared_adopt ON declared (adopt) WHERE adopt IS NOT NULL;

-- Licenses whose key is kept. Keys stand here in the clear, and nowhere else; the file is its owner's alone. Where grants are
-- issued in a cluster their keys are not here at all: then a row is what was seen there, to find a license by and to mail it
-- once.
CREATE TABLE licenses (
    -- Its number here, in the order of keeping.
    license INTEGER PRIMARY KEY,
    -- The first 128 bits of the key's SHA-256, in hex: how the key is spoken of.
    fingerprint TEXT NOT NULL UNIQUE,
    -- The key; blank where a Secret holds it.
    key TEXT NOT NULL,
    -- The key masked, where a Secret holds it.
    masked TEXT,
    -- The grant.
    grant_id TEXT NOT NULL REFERENCES grants (id),
    -- Its name within the grant.
    name TEXT NOT NULL,
    -- Its generation.
    generation INTEGER NOT NULL,
    -- AuthForge's app.
    app_id TEXT NOT NULL,
    -- Device slots, 1 to 16; 0 is no limit; NULL where not known.
    slots INTEGER,
    -- When AuthForge made it, by AuthForge's clock.
    created_at INTEGER NOT NULL,
    -- When it ends, as last set or seen; NULL is never.
    expires_at INTEGER,
    -- When it was to end when it was kept; NULL is never.
    first_expires_at INTEGER,
    -- The attempt that brought it; NULL for one that somebody else made.
    attempt TEXT,
    -- What we have done to it: `live`, `revoking`, `revoked`, `reinstating` or `revoked_elsewhere`.
    state TEXT NOT NULL,
    -- 1 while the last complete listing had a live license beside it that we did not make.
    duplicated INTEGER NOT NULL DEFAULT 0,
    -- What AuthForge would not do with it: `reinstate`, or `shorten` to `refused_end`.
    refused TEXT,
    -- The earlier expiry that was refused.
    refused_end INTEGER,
    -- The sending that brings it to its buyer; NULL while none was begun, 0 for one before this record.
    sending INTEGER,
    -- When its revocation was decided.
    revoked_at INTEGER,
    -- Who decided that: `rule` or `hand`.
    revoked_cause TEXT
) STRICT;

CREATE INDEX licenses_by_grant ON licenses (grant_id);
-- The budget of revocations by rule is counted here.
CREATE INDEX licenses_revoked_by_rule ON licenses (revoked_at) WHERE revoked_cause = 'rule';

-- Attempts to create a license, each written down before its request is sent.
CREATE TABLE attempts (
    -- The grant.
    grant_id TEXT NOT NULL REFERENCES grants (id),
    -- The grant's version that it made: attempts in their order.
    number INTEGER NOT NULL,
    -- Its own name.
    id TEXT NOT NULL UNIQUE,
    -- The license that it is for.
    name TEXT NOT NULL,
    -- The generation of it.
    generation INTEGER NOT NULL,
    -- When it was opened, by our wall clock.
    opened_at INTEGER NOT NULL,
    -- AuthForge's clock minus ours, in milliseconds, as known then.
    clock_offset INTEGER NOT NULL,
    -- `open`, `answered`, `found`, `absent`, `not_sent` or `refused`.
    outcome TEXT NOT NULL,
    -- When the answer came.
    answered_at INTEGER,
    -- When a listing was last searched for what it made besides.
    watched_at INTEGER,
    PRIMARY KEY (grant_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX attempts_open ON attempts (grant_id) WHERE outcome = 'open';

-- Mails to buyers: their keys, and warnings.
CREATE TABLE deliveries (
    -- The grant.
    grant_id TEXT NOT NULL REFERENCES grants (id),
    -- 1 for the first; the Message-ID derives from it.
    number INTEGER NOT NULL,
    -- `keys`, `keys_again` or `payment_failed`.
    kind TEXT NOT NULL DEFAULT 'keys',
    -- What a warning is about: the invoice and which of its warnings, so that each is sent once.
    about TEXT,
    -- When a license ends that the warning is about.
    until INTEGER,
    -- `due`, `sent`, `parked` or `dropped`.
    state TEXT NOT NULL,
    -- Why not sent.
    reason TEXT,
    -- What the mail server said, without addresses.
    detail TEXT,
    -- Tries so far.
    tries INTEGER NOT NULL DEFAULT 0,
    -- When to try; NULL when it is over.
    due INTEGER,
    -- When it was asked for; of a warning, when it is due.
    created INTEGER NOT NULL,
    -- When its state last changed.
    updated INTEGER NOT NULL,
    PRIMARY KEY (grant_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_due ON deliveries (due) WHERE due IS NOT NULL;
CREATE INDEX deliveries_parked ON deliveries (grant_id) WHERE state = 'parked';

-- The history of grants, in words without secrets. Only ever added to.
CREATE TABLE journal (
    -- The order of lines.
    line INTEGER PRIMARY KEY,
    -- The grant.
    grant_id TEXT NOT NULL REFERENCES grants (id),
    -- When.
    at INTEGER NOT NULL,
    -- By what: an event, a rule, a hand.
    cause TEXT NOT NULL,
    -- What.
    text TEXT NOT NULL
) STRICT;

CREATE INDEX journal_by_grant ON journal (grant_id);

-- Labels of licenses at AuthForge, whose listings may not tell them. A cache: losing it costs calls.
CREATE TABLE labels (
    -- AuthForge's app.
    app_id TEXT NOT NULL,
    -- The key's fingerprint.
    fingerprint TEXT NOT NULL,
    -- The label; NULL for a license known to have none.
    label TEXT,
    PRIMARY KEY (app_id, fingerprint)
) STRICT, WITHOUT ROWID;

-- What people promised in the grants that they made.
CREATE TABLE promised (
    -- The grant.
    grant_id TEXT NOT NULL REFERENCES grants (id),
    -- The place of the license within the grant, from 1.
    ordinal INTEGER NOT NULL,
    -- AuthForge's app.
    app_id TEXT NOT NULL,
    -- Device slots, 1 to 16; 0 is no limit.
    slots INTEGER NOT NULL,
    -- When it ends; NULL is never.
    expires_at INTEGER,
    PRIMARY KEY (grant_id, ordinal)
) STRICT, WITHOUT ROWID;

-- Licenses whose key was replaced. One that is not here is of generation 1.
CREATE TABLE generations (
    -- The grant.
    grant_id TEXT NOT NULL REFERENCES grants (id),
    -- The license's name within the grant.
    name TEXT NOT NULL,
    -- The generation that is wanted.
    generation INTEGER NOT NULL,
    PRIMARY KEY (grant_id, name)
) STRICT, WITHOUT ROWID;

-- Wishes of people to unbind the devices of a license.
CREATE TABLE resets (
    -- The number at which it was asked for.
    reset INTEGER PRIMARY KEY,
    -- The grant.
    grant_id TEXT NOT NULL REFERENCES grants (id),
    -- The license's name within the grant.
    name TEXT NOT NULL,
    -- When it was asked for: what a LicenseGrant names it by.
    asked INTEGER NOT NULL,
    -- `asked`, `sent`, `done`, `unclear`, `refused` or `dropped`.
    state TEXT NOT NULL
) STRICT;

CREATE INDEX resets_by_grant ON resets (grant_id);

-- Requests of callers that count once, for 30 days.
CREATE TABLE requests (
    -- The caller's id for it.
    id TEXT PRIMARY KEY,
    -- A hash of all that it said.
    digest TEXT NOT NULL,
    -- When.
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_time ON requests (at);

-- What is true of the record as a whole.
CREATE TABLE installation (
    -- Always 1: there is one row.
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- When a program was first started on it: what was paid before is somebody else's, unless told otherwise.
    first_start INTEGER NOT NULL,
    -- The mode that it was started in: test purchases never become live licenses.
    livemode INTEGER NOT NULL
) STRICT;

-- Prices and products that have sold licenses. Money for one of them that sells nothing now is a mistake to be mended.
CREATE TABLE sold (
    -- `price_…` or `prod_…`.
    id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- Wishes for a link to the portal, whether or not the address has bought anything. Kept for as long as they count against
-- the address's limit.
CREATE TABLE portal_wishes (
    -- Its number here.
    wish INTEGER PRIMARY KEY,
    -- The address in lower case.
    email_folded TEXT NOT NULL,
    -- When it was made.
    asked INTEGER NOT NULL,
    -- Tries to mail a link so far.
    tries INTEGER NOT NULL DEFAULT 0,
    -- When to mail a link; NULL when that is over.
    due INTEGER
) STRICT;

CREATE INDEX portal_wishes_by_email ON portal_wishes (email_folded, asked);
CREATE INDEX portal_wishes_due ON portal_wishes (due) WHERE due IS NOT NULL;

-- What opens the portal for a while, and once. The tokens themselves are in a mail or on a page, and nowhere here.
CREATE TABLE portal_tokens (
    -- The token's SHA-256, in hex.
    hash TEXT PRIMARY KEY,
    -- `link`, which was mailed, or `action`, which stands on the opened page.
    opens TEXT NOT NULL,
    -- The address whose purchases it opens, in lower case.
    email_folded TEXT NOT NULL,
    -- From when on it opens nothing.
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
