import type { MigrationInterface, QueryRunner } from 'typeorm';

const up = [
  `ALTER TABLE snapshots
    ALTER COLUMN volume_id DROP NOT NULL,
    ALTER COLUMN node_id DROP NOT NULL,
    ALTER COLUMN pool_id DROP NOT NULL,
    ADD COLUMN parent_snapshot_id text,
    ADD COLUMN writing text CHECK (writing IN ('starting', 'open', 'completing')),
    ADD COLUMN progress int2 CHECK (progress BETWEEN 0 AND 100),
    ADD CHECK (writing IS NULL OR state = 'pending'),
    ADD CHECK (volume_id IS NULL OR (writing IS NULL AND parent_snapshot_id IS NULL AND node_id IS NOT NULL)),
    ADD CHECK (state <> 'completed' OR node_id IS NOT NULL),
    ADD CHECK ((node_id IS NULL) = (pool_id IS NULL))`,
  // What is asked before a snapshot is deleted: does another begin as it?
  `CREATE INDEX snapshots_starting_parent_idx ON snapshots (parent_snapshot_id) WHERE writing = 'starting'`,
  `ALTER TABLE operations DROP CONSTRAINT operations_kind_check`,
  `ALTER TABLE operations ADD CONSTRAINT operations_kind_check CHECK (kind IN (
    'create-volume', 'delete-volume', 'attach-volume', 'detach-volume', 'resize-volume', 'revert-volume',
    'create-snapshot', 'start-snapshot', 'complete-snapshot', 'delete-snapshot'))`,
];

const down = [
  `DELETE FROM operations WHERE kind IN ('start-snapshot', 'complete-snapshot')`,
  `ALTER TABLE operations DROP CONSTRAINT operations_kind_check`,
  `ALTER TABLE operations ADD CONSTRAINT operations_kind_check CHECK (kind IN (
    'create-volume', 'delete-volume', 'attach-volume', 'detach-volume', 'resize-volume', 'revert-volume',
    'create-snapshot', 'delete-snapshot'))`,
  // Their bytes stay on the nodes, which report them as being without a row.
  `DELETE FROM snapshots WHERE volume_id IS NULL`,
  `DROP INDEX snapshots_starting_parent_idx`,
  `ALTER TABLE snapshots
    DROP COLUMN parent_snapshot_id,
    DROP COLUMN writing,
    DROP COLUMN progress,
    ALTER COLUMN volume_id SET NOT NULL,
    ALTER COLUMN node_id SET NOT NULL,
    ALTER COLUMN pool_id SET NOT NULL`,
];

/** Snapshots that are written from blocks: of no volume, and without a place at first. */
export class WrittenSnapshots1796000000000 implements MigrationInterface {
  readonly name = 'WrittenSnapshots1796000000000';

  async up(runner: QueryRunner): Promise<void> {
    for (const statement of up) await runner.query(statement);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const statement of down) await runner.query(statement);
  }
}
