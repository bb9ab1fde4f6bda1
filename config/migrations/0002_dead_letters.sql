-- Entries that ended without their effects, kept whole, until somebody has dealt with them.
create table capsule_reconciler.dead_letters (
    id bigint generated always as identity primary key,
    -- The entry of the producer's stream that died first; a replay of it has another id.
    origin_id text not null,
    -- The entry that died last: `origin_id`, or the replay.
    source_id text not null,
    stage text not null,
    -- Whose delivery it is; empty where it is no delivery.
    sink text not null default '',
    reason text not null,
    -- What was wrong, in a sentence, with the field and a shortened value where there is one.
    error text not null,
    -- Attempts at it, over all workers and all replays.
    attempts integer not null check (attempts > 0),
    first_at timestamptz not null,
    last_at timestamptz not null,
    -- Of the entry that is sent again by a replay: its key, its payload and all its other fields.
    entry_key bytea,
    payload bytea,
    field_names bytea[] not null default '{}',
    field_values bytea[] not null default '{}',
    state text not null default 'dead' check (state in ('dead', 'replaying', 'replayed', 'discarded')),
    replays integer not null default 0,
    -- The entry that the last replay was sent as.
    replayed_as text,
    -- When it was replayed or discarded.
    resolved_at timestamptz,
    -- Each death, oldest first: {entry_id, source_id, stage, reason, error,
    -- attempts, at}.
    history jsonb not null default '[]'
);

-- The same death told twice is one letter. An id may come again after Redis has lost its data, with
-- another payload, and is another letter then.
create unique index dead_letters_origin
on capsule_reconciler.dead_letters (origin_id, sink, md5(coalesce(payload, '')));

create index dead_letters_open on capsule_reconciler.dead_letters (id) where state = 'dead';
create index dead_letters_resolved on capsule_reconciler.dead_letters (resolved_at)
where state in ('replayed', 'discarded');
