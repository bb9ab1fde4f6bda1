-- The effects of a batch: marks, status changes and audit rows, whatever the verbs.
-- Only entries above their capsule's watermark count; the watermark moves in the same statement.
-- A capsule is in it once at most.
with rule (stage, from_statuses, to_status) as (
    values
    ('create', array['starting'], 'running'),
    ('resume', array['resuming'], 'running'),
    ('pause', array['running', 'pausing'], 'paused'),
    ('destroy', array['stopping', 'running'], 'stopped'),
    ('failure', array['running', 'starting', 'pausing', 'resuming', 'snapshotting'], 'error')
),

batch as (
    select capsule_id, ms, seq, stage, host_ip
    from unnest(
        %(capsule_ids)s::uuid[], %(ms)s::bigint[], %(seq)s::bigint[], %(stages)s::text[],
        %(host_ips)s::text[]
    ) as b (capsule_id, ms, seq, stage, host_ip)
),

-- Of failures that need one. The team is the event's or else the capsule's.
audit as (
    select
        a.capsule_id, a.audit_id, a.resource_id, a.action, a.metadata,
        coalesce(a.team_id, s.team_id) as team_id
    from unnest(
        %(audited_ids)s::uuid[], %(audit_ids)s::uuid[], %(team_ids)s::uuid[],
        %(resource_ids)s::text[], %(actions)s::text[], %(metadata)s::text[]
    ) as a (capsule_id, audit_id, team_id, resource_id, action, metadata)
    left join sandboxes as s on s.id = a.capsule_id
),

-- Without a team from either the entry is left alone, watermark and all.
homeless as (
    select capsule_id from audit where team_id is null
),

fresh as (
    insert into capsule_reconciler.watermarks as w (capsule_id, ms, seq)
    select capsule_id, ms, seq from batch
    where capsule_id not in (select capsule_id from homeless)
    order by capsule_id
    on conflict (capsule_id) do update
    set ms = excluded.ms, seq = excluded.seq, updated_at = now()
    where (w.ms, w.seq) < (excluded.ms, excluded.seq)
    returning w.capsule_id
),

counted as (
    select batch.capsule_id, batch.stage, batch.host_ip
    from batch
    inner join fresh using (capsule_id)
),

-- In a stable order, so that two such statements cannot wait for each other.
due as (
    select s.id, counted.stage, counted.host_ip, rule.to_status
    from counted
    inner join rule using (stage)
    inner join sandboxes as s on s.id = counted.capsule_id
    where s.status = any (rule.from_statuses)
    order by s.id
    for update of s
),

changed as (
    update sandboxes as s
    set
        status = due.to_status,
        host_ip = case due.to_status
            when 'running' then coalesce(nullif(due.host_ip, ''), s.host_ip) else s.host_ip
        end,
        started_at = case due.to_status when 'running' then now() else s.started_at end,
        last_active_at = case due.to_status when 'running' then now() else s.last_active_at end,
        last_updated = now()
    from due
    where s.id = due.id
    returning due.stage
),

audited as (
    insert into audit_logs (
        id, team_id, actor_type, actor_name, resource_type, resource_id,
        action, scope, status, metadata, created_at
    )
    select
        audit_id, team_id, 'system', '', 'sandbox', resource_id,
        action, 'team', 'error', metadata::jsonb, now()
    from audit
    inner join fresh using (capsule_id)
    -- Without a target: naming the column would need the right to read the table.
    on conflict do nothing
    returning 1
)

-- How many rows were written into each table, by stage, and who is homeless: a line of JSON. Where
-- this is run several times in one transaction the last one has the lines of all.
select
    set_config(
        'capsules.applied',
        concat_ws(
            e'\n',
            nullif(current_setting('capsules.applied', true), ''),
            jsonb_build_array(
                (
                    select coalesce(jsonb_object_agg(stage, rows), '{}')
                    from (select stage, count(*) as rows from counted group by stage) as n
                ),
                (
                    select coalesce(jsonb_object_agg(stage, rows), '{}')
                    from (select stage, count(*) as rows from changed group by stage) as n
                ),
                (select jsonb_build_object('failure', count(*)) from audited),
                array(select capsule_id from homeless)
            )
        ),
        true
    ) as applied
