-- create and resume that succeeded: starting|resuming -> running.
-- Only entries above their capsule's watermark count; the watermark moves in the same statement.
with batch as (
    select capsule_id, ms, seq, host_ip
    from unnest(
        %(capsule_ids)s::uuid[], %(ms)s::bigint[], %(seq)s::bigint[], %(host_ips)s::text[]
    ) as b (capsule_id, ms, seq, host_ip)
),

fresh as (
    insert into capsule_reconciler.watermarks as w (capsule_id, ms, seq)
    select capsule_id, ms, seq from batch
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
    set
        status = 'running',
        host_ip = coalesce(nullif(batch.host_ip, ''), s.host_ip),
        started_at = now(),
        last_active_at = now(),
        last_updated = now()
    from batch
    inner join due on batch.capsule_id = due.id
    where s.id = due.id
    returning s.id
)

select
    (select count(*) from fresh) as fresh,
    (select count(*) from changed) as changed
