-- create and resume that failed: anything alive -> error, and an audit row.
-- Only entries above their capsule's watermark count; the watermark moves in the same statement.
-- The team is the event's or else the capsule's. An entry that needs an audit row and has no
-- team from either is left alone, watermark and all, and returned as homeless.
with batch as (
    select
        b.capsule_id, b.ms, b.seq, b.audit_id, b.resource_id, b.action, b.metadata,
        b.audit_id is not null as audit,
        coalesce(b.team_id, s.team_id) as team_id
    from unnest(
        %(capsule_ids)s::uuid[], %(ms)s::bigint[], %(seq)s::bigint[], %(team_ids)s::uuid[],
        %(audit_ids)s::uuid[], %(resource_ids)s::text[], %(actions)s::text[],
        %(metadata)s::text[]
    ) as b (capsule_id, ms, seq, team_id, audit_id, resource_id, action, metadata)
    left join sandboxes as s on s.id = b.capsule_id
),

fresh as (
    insert into capsule_reconciler.watermarks as w (capsule_id, ms, seq)
    select capsule_id, ms, seq from batch
    where not audit or team_id is not null
    order by capsule_id
    on conflict (capsule_id) do update
    set ms = excluded.ms, seq = excluded.seq, updated_at = now()
    where (w.ms, w.seq) < (excluded.ms, excluded.seq)
    returning w.capsule_id
),

-- In a stable order, so that two such statements cannot wait for each other.
due as (
    select s.id
    from sandboxes as s
    inner join fresh on s.id = fresh.capsule_id
    where s.status = any (%(from_statuses)s::text[])
    order by s.id
    for update of s
),

changed as (
    update sandboxes as s
    set status = 'error', last_updated = now()
    from due
    where s.id = due.id
    returning s.id
),

audited as (
    insert into audit_logs (
        id, team_id, actor_type, actor_name, resource_type, resource_id,
        action, scope, status, metadata, created_at
    )
    select
        audit_id, team_id, 'system', '', 'sandbox', resource_id,
        action, 'team', 'error', metadata::jsonb, now()
    from batch
    inner join fresh using (capsule_id)
    where audit
    -- Without a target: naming the column would need the right to read the table.
    on conflict do nothing
    returning 1
)

select
    (select count(*) from fresh) as fresh,
    (select count(*) from changed) as changed,
    (select count(*) from audited) as audited,
    array(
        select capsule_id::text from batch where audit and team_id is null
    ) as homeless
