-- Entries that were lost, one row for each time that some were noticed.
create table capsule_reconciler.gaps (
    id bigint generated always as identity primary key,
    app_id text not null,
    -- The full key of the stream that they were in.
    stream text not null,
    kind text not null,
    -- All of them have ids between these two, which are not among them; after_id empty: not known,
    -- before_id empty: nothing had come since.
    after_id text not null default '',
    before_id text not null default '',
    -- How many; of a stream, a group or a past that is gone: at least; null: not known.
    entries bigint check (entries >= 0),
    -- A loss that is reported again is known by these: of an account, only what goes beyond the
    -- greatest total so far is new, and two who report it at the same time begin at one `prior`.
    account text not null,
    prior bigint not null default 0,
    total bigint not null default 1,
    worker text not null,
    noticed_at timestamptz not null default now(),
    -- When somebody had dealt with it, and what they wrote.
    closed_at timestamptz,
    note text,
    unique (app_id, stream, kind, account, prior)
);

create index gaps_open on capsule_reconciler.gaps (id) where closed_at is null;

-- The lost entries whose ids are known, each once.
create table capsule_reconciler.gap_entries (
    app_id text not null,
    stream text not null,
    kind text not null,
    entry_id text not null,
    -- Of its row in gaps.
    account text not null,
    primary key (app_id, stream, kind, entry_id)
);

create index gap_entries_account on capsule_reconciler.gap_entries (account);

-- How far the producer's stream was read, for the time when Redis has forgotten it.
create table capsule_reconciler.positions (
    app_id text not null,
    stream text not null,
    epoch text not null,
    entry_id text not null,
    accounted bigint not null,
    last_id text not null,
    entries_added bigint not null,
    updated_at timestamptz not null default now(),
    primary key (app_id, stream)
) with (fillfactor = 80); -- written every two seconds; room on the page
