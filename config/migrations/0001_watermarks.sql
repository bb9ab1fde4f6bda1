-- One row per capsule: the newest stream entry that took effect on it. An entry is applied in the
-- statement that advances this mark, and only if it is newer than the mark.
create table capsule_reconciler.watermarks (
    capsule_id uuid primary key,
    -- The entry id `ms-seq` of the producer's stream.
    ms bigint not null check (ms >= 0),
    seq bigint not null check (seq >= 0),
    updated_at timestamptz not null default now()
) with (fillfactor = 80); -- room on the page, so that an advance touches no index
