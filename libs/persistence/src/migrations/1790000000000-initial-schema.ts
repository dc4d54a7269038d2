import type { MigrationInterface, QueryRunner } from 'typeorm';

const up = [
  `CREATE TABLE projects (
    id text PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT projects_name_key UNIQUE (name)
  )`,
  `CREATE TABLE api_keys (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    secret_sha256 bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
  )`,
  `CREATE INDEX api_keys_project_id_idx ON api_keys (project_id)`,
  `CREATE TABLE nodes (
    id text PRIMARY KEY,
    name text NOT NULL,
    agent_url text NOT NULL,
    version text NOT NULL,
    state text NOT NULL CHECK (state IN ('ready', 'down')),
    exports int4 NOT NULL,
    connected_exports int4 NOT NULL,
    last_heartbeat_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE INDEX nodes_ready_heartbeat_idx ON nodes (last_heartbeat_at) WHERE state = 'ready'`,
  `CREATE TABLE pools (
    id text PRIMARY KEY,
    node_id text NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    directory text NOT NULL,
    total_bytes int8 NOT NULL,
    free_bytes int8 NOT NULL,
    provisioned_bytes int8 NOT NULL,
    volumes int4 NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE INDEX pools_node_id_idx ON pools (node_id)`,
  `CREATE TABLE volumes (
    id text PRIMARY KEY,
    seq int8 GENERATED ALWAYS AS IDENTITY,
    project_id text NOT NULL REFERENCES projects (id),
    name text,
    size_bytes int8 NOT NULL CHECK (size_bytes > 0 AND size_bytes % 4096 = 0),
    state text NOT NULL CHECK (state IN ('creating', 'available', 'in-use', 'deleting', 'deleted', 'error')),
    reason_code text,
    reason_message text,
    generation int4 NOT NULL DEFAULT 0,
    node_id text,
    pool_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CHECK ((state = 'deleted') = (deleted_at IS NOT NULL))
  )`,
  `CREATE UNIQUE INDEX volumes_project_seq_idx ON volumes (project_id, seq)`,
  `CREATE INDEX volumes_project_state_seq_idx ON volumes (project_id, state, seq)`,
  `CREATE INDEX volumes_node_id_idx ON volumes (node_id) WHERE state <> 'deleted'`,
  `CREATE INDEX volumes_deleted_at_idx ON volumes (deleted_at) WHERE state = 'deleted'`,
  `CREATE TABLE attachments (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    volume_id text NOT NULL REFERENCES volumes (id) ON DELETE CASCADE,
    instance_id text,
    node_id text,
    state text NOT NULL CHECK (state IN ('attaching', 'attached', 'detaching', 'busy', 'detached', 'error')),
    generation int4 NOT NULL,
    read_only bool NOT NULL,
    num_queues int4 NOT NULL,
    socket_path text,
    serial text,
    reason_code text,
    reason_message text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CONSTRAINT attachments_generation_key UNIQUE (volume_id, generation)
  )`,
  `CREATE UNIQUE INDEX attachments_one_live_idx ON attachments (volume_id)
    WHERE state IN ('attaching', 'attached', 'detaching', 'busy')`,
  `CREATE INDEX attachments_node_id_idx ON attachments (node_id)
    WHERE state IN ('attaching', 'attached', 'detaching', 'busy')`,
  `CREATE TABLE operations (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects (id),
    kind text NOT NULL CHECK (kind IN ('create-volume', 'delete-volume', 'attach-volume', 'detach-volume')),
    params jsonb NOT NULL,
    volume_id text NOT NULL,
    attachment_id text,
    client_token text,
    request_digest text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'running', 'succeeded', 'failed')),
    progress int2 NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    attempts int4 NOT NULL DEFAULT 0,
    error_code text,
    error_message text,
    deadline timestamptz NOT NULL,
    not_before timestamptz NOT NULL DEFAULT now(),
    sweep_at timestamptz NOT NULL,
    worker_id text,
    lease_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CHECK ((state IN ('succeeded', 'failed')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'running') = (lease_until IS NOT NULL))
  )`,
  `CREATE UNIQUE INDEX operations_client_token_idx ON operations (project_id, client_token)
    WHERE client_token IS NOT NULL`,
  `CREATE INDEX operations_sweep_idx ON operations (sweep_at) WHERE state IN ('pending', 'running')`,
  `CREATE INDEX operations_volume_id_idx ON operations (volume_id, created_at)`,
  `CREATE INDEX operations_finished_at_idx ON operations (finished_at) WHERE finished_at IS NOT NULL`,
];

/** Projects, keys, nodes, pools, volumes, attachments and operations. */
export class InitialSchema1790000000000 implements MigrationInterface {
  readonly name = 'InitialSchema1790000000000';

  async up(runner: QueryRunner): Promise<void> {
    for (const statement of up) await runner.query(statement);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('DROP TABLE operations, attachments, volumes, pools, nodes, api_keys, projects');
  }
}
