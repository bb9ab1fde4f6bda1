-- Letters into the table, each death once, however often it is told.
-- A replay that dies again goes back to the letter it is a replay of; anything else is found by the
-- entry it came from. The letters of one statement belong to different rows.
with batch as (
    select
        b.replay_of, b.source_id, b.entry_id, b.stage, b.sink, b.reason, b.error, b.attempts,
        b.first_at, b.at,
        decode(b.entry_key, 'base64') as entry_key,
        decode(b.payload, 'base64') as payload,
        array(select decode(n, 'base64') from unnest(b.field_names) as n) as field_names,
        array(select decode(v, 'base64') from unnest(b.field_values) as v) as field_values,
        jsonb_build_object(
            'entry_id', b.entry_id, 'source_id', b.source_id, 'stage', b.stage,
            'reason', b.reason, 'error', b.error, 'attempts', b.attempts, 'at', b.at
        ) as death
    from jsonb_to_recordset(%(letters)s::jsonb) as b (
        replay_of bigint, source_id text, entry_id text, stage text, sink text, reason text,
        error text, attempts integer, first_at timestamptz, at timestamptz, entry_key text,
        payload text, field_names text[], field_values text[]
    )
),

-- Who writes into the producer's stream can name any letter: it must wait for this very entry.
named as (
    select b.entry_id, b.sink, d.id
    from batch as b
    inner join capsule_reconciler.dead_letters as d on d.id = b.replay_of and d.sink = b.sink
    where
        d.state = 'replaying'
        or d.replayed_as = b.entry_id
        or d.history @> jsonb_build_array(jsonb_build_object('entry_id', b.entry_id))
),

again as (
    update capsule_reconciler.dead_letters as d
    set
        state = 'dead', source_id = b.source_id, stage = b.stage, reason = b.reason,
        error = b.error, attempts = d.attempts + b.attempts, last_at = b.at,
        replayed_as = b.entry_id, resolved_at = null, history = d.history || b.death
    from batch as b
    inner join named on b.entry_id = named.entry_id and b.sink = named.sink
    where
        d.id = named.id
        and not d.history @> jsonb_build_array(jsonb_build_object('entry_id', b.entry_id))
    returning 1
),

fresh as (
    insert into capsule_reconciler.dead_letters as d (
        origin_id, source_id, stage, sink, reason, error, attempts, first_at, last_at,
        entry_key, payload, field_names, field_values, history
    )
    select
        b.source_id, b.source_id, b.stage, b.sink, b.reason, b.error, b.attempts, b.first_at, b.at,
        b.entry_key, b.payload, b.field_names, b.field_values, jsonb_build_array(b.death)
    from batch as b
    where not exists (
        select 1 from named where named.entry_id = b.entry_id and named.sink = b.sink
    )
    on conflict (origin_id, sink, md5(coalesce(payload, ''))) do update
    set
        state = 'dead', source_id = excluded.source_id, stage = excluded.stage,
        reason = excluded.reason, error = excluded.error,
        attempts = d.attempts + excluded.attempts, last_at = excluded.last_at,
        resolved_at = null, history = d.history || (excluded.history -> 0)
    where not d.history @> jsonb_build_array(jsonb_build_object('entry_id', excluded.history -> 0 -> 'entry_id'))
    returning 1
)

select
    (select count(*) from again) as again,
    (select count(*) from fresh) as fresh
