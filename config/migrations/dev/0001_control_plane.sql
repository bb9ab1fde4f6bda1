-- The two tables of the control plane, for development and tests only. Where they are already,
-- they are the control plane's: nothing is added to them, not even an index.
do $$
begin
    if to_regclass('sandboxes') is null then
        create table if not exists sandboxes (
            id uuid primary key,
            team_id uuid,
            host_id uuid,
            template text,
            status text,
            vcpus int,
            memory_mb int,
            timeout_sec int,
            disk_size_mb int,
            guest_ip text,
            host_ip text,
            created_at timestamptz,
            started_at timestamptz,
            last_active_at timestamptz,
            last_updated timestamptz,
            template_id uuid,
            template_team_id uuid,
            metadata jsonb
        );
        create index sandboxes_status on sandboxes (status);
        create index sandboxes_host_id_status on sandboxes (host_id, status);
        create index sandboxes_team_id on sandboxes (team_id);
    end if;

    if to_regclass('audit_logs') is null then
        create table if not exists audit_logs (
            id uuid primary key,
            team_id uuid not null,
            actor_type text not null,
            actor_id text,
            actor_name text default '',
            resource_type text not null,
            resource_id text,
            action text not null,
            scope text default 'team',
            status text default 'success',
            metadata jsonb default '{}',
            created_at timestamptz
        );
        create index audit_logs_team_id_created_at_id
            on audit_logs (team_id, created_at desc, id desc);
        create index audit_logs_team_id_resource_type_created_at
            on audit_logs (team_id, resource_type, created_at desc);
    end if;
end
$$;
