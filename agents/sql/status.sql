-- pause and destroy that succeeded: a status change and nothing else.
-- Only entries above their capsule's watermark count; the watermark moves in the same statement.
with batch as (
    select capsule_id, ms, seq
    from unnest(%(capsule_ids)s::uuid[], %(ms)s::bigint[], %(seq)s::bigint[])
    as b (capsule_id, ms, seq)
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

changed as (
    update sandboxes as s
    set status = %(to_status)s, last_updated = now()
    from fresh
    where s.id = fresh.capsule_id and s.status = any (%(from_statuses)s::text[])
    returning s.id
)

select
    (select count(*) from fresh) as fresh,
    (select count(*) from changed) as changed
