import type { MigrationInterface, QueryRunner } from 'typeorm';

const usage = ['unique_bytes int8', 'shared_bytes int8', 'measured_at timestamptz'];
const up = [
  ...['volumes', 'snapshots'].map(
    (table) => `ALTER TABLE ${table} ${usage.map((column) => `ADD COLUMN ${column}`).join(', ')}`,
  ),
  `ALTER TABLE nodes ADD COLUMN inventory_at timestamptz`,
];
const down = [
  `ALTER TABLE nodes DROP COLUMN inventory_at`,
  ...['volumes', 'snapshots'].map(
    (table) =>
      `ALTER TABLE ${table} DROP COLUMN unique_bytes, DROP COLUMN shared_bytes, DROP COLUMN measured_at`,
  ),
];

/** Whose bytes the pools hold, and when a node was last compared with the rows. */
export class Inventory1793000000000 implements MigrationInterface {
  readonly name = 'Inventory1793000000000';

  async up(runner: QueryRunner): Promise<void> {
    for (const statement of up) await runner.query(statement);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const statement of down) await runner.query(statement);
  }
}
