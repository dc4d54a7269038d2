import type { MigrationInterface, QueryRunner } from 'typeorm';

const up = [
  `CREATE TABLE snapshots (
    id text PRIMARY KEY,
    seq int8 GENERATED ALWAYS AS IDENTITY,
    project_id text NOT NULL REFERENCES projects (id),
    volume_id text NOT NULL,
    group_id text,
    name text,
    description text NOT NULL,
    tags jsonb NOT NULL,
    size_bytes int8 NOT NULL CHECK (size_bytes > 0),
    state text NOT NULL CHECK (state IN ('pending', 'completed', 'deleting', 'deleted', 'error')),
    reason_code text,
    reason_message text,
    node_id text NOT NULL,
    pool_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    deleted_at timestamptz,
    CHECK ((state = 'deleted') = (deleted_at IS NOT NULL)),
    CHECK (state <> 'completed' OR completed_at IS NOT NULL)
  )`,
  `CREATE UNIQUE INDEX snapshots_project_seq_idx ON snapshots (project_id, seq)`,
  `CREATE INDEX snapshots_volume_id_idx ON snapshots (volume_id, seq)`,
  `CREATE INDEX snapshots_group_id_idx ON snapshots (group_id) WHERE group_id IS NOT NULL`,
  `CREATE INDEX snapshots_node_id_idx ON snapshots (node_id) WHERE state <> 'deleted'`,
  `CREATE INDEX snapshots_deleted_at_idx ON snapshots (deleted_at) WHERE state = 'deleted'`,
  `ALTER TABLE operations DROP CONSTRAINT operations_kind_check`,
  `ALTER TABLE operations ADD CONSTRAINT operations_kind_check CHECK (kind IN (
    'create-volume', 'delete-volume', 'attach-volume', 'detach-volume', 'create-snapshot', 'delete-snapshot'))`,
  `ALTER TABLE operations ALTER COLUMN volume_id DROP NOT NULL`,
  `ALTER TABLE operations ADD COLUMN snapshot_id text, ADD COLUMN group_id text`,
  `CREATE INDEX operations_snapshot_id_idx ON operations (snapshot_id, created_at) WHERE snapshot_id IS NOT NULL`,
];

const down = [
  `DELETE FROM operations WHERE kind IN ('create-snapshot', 'delete-snapshot')`,
  `ALTER TABLE operations DROP COLUMN snapshot_id, DROP COLUMN group_id, ALTER COLUMN volume_id SET NOT NULL`,
  `ALTER TABLE operations DROP CONSTRAINT operations_kind_check`,
  `ALTER TABLE operations ADD CONSTRAINT operations_kind_check CHECK (kind IN (
    'create-volume', 'delete-volume', 'attach-volume', 'detach-volume'))`,
  `DROP TABLE snapshots`,
];

/** Snapshots, and operations on them. */
export class Snapshots1791000000000 implements MigrationInterface {
  readonly name = 'Snapshots1791000000000';

  async up(runner: QueryRunner): Promise<void> {
    for (const statement of up) await runner.query(statement);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const statement of down) await runner.query(statement);
  }
}
