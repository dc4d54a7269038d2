import type { MigrationInterface, QueryRunner } from 'typeorm';

const up = [
  `ALTER TABLE volumes
    ADD COLUMN source_snapshot_id text,
    ADD COLUMN source_volume_id text,
    ADD COLUMN modification_state text NOT NULL DEFAULT 'none'
      CHECK (modification_state IN ('none', 'modifying', 'completed', 'failed')),
    ADD COLUMN modification_kind text CHECK (modification_kind IN ('resize', 'revert')),
    ADD COLUMN modification_code text,
    ADD COLUMN modification_message text,
    ADD CHECK (source_snapshot_id IS NULL OR source_volume_id IS NULL),
    ADD CHECK ((modification_state = 'none') = (modification_kind IS NULL))`,
  // What is asked before a snapshot or a volume is deleted: is anything being made of it?
  `CREATE INDEX volumes_creating_source_idx ON volumes (coalesce(source_snapshot_id, source_volume_id))
    WHERE state = 'creating'`,
  `ALTER TABLE operations DROP CONSTRAINT operations_kind_check`,
  `ALTER TABLE operations ADD CONSTRAINT operations_kind_check CHECK (kind IN (
    'create-volume', 'delete-volume', 'attach-volume', 'detach-volume', 'resize-volume', 'revert-volume',
    'create-snapshot', 'delete-snapshot'))`,
];

const down = [
  `DELETE FROM operations WHERE kind IN ('resize-volume', 'revert-volume')`,
  `ALTER TABLE operations DROP CONSTRAINT operations_kind_check`,
  `ALTER TABLE operations ADD CONSTRAINT operations_kind_check CHECK (kind IN (
    'create-volume', 'delete-volume', 'attach-volume', 'detach-volume', 'create-snapshot', 'delete-snapshot'))`,
  `DROP INDEX volumes_creating_source_idx`,
  `ALTER TABLE volumes DROP COLUMN source_snapshot_id, DROP COLUMN source_volume_id, DROP COLUMN modification_state,
    DROP COLUMN modification_kind, DROP COLUMN modification_code, DROP COLUMN modification_message`,
];

/** What volumes began as, and what they are being changed into. */
export class VolumeSources1792000000000 implements MigrationInterface {
  readonly name = 'VolumeSources1792000000000';

  async up(runner: QueryRunner): Promise<void> {
    for (const statement of up) await runner.query(statement);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const statement of down) await runner.query(statement);
  }
}
