import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Since when a pool is low on space. */
export class LowSpace1795000000000 implements MigrationInterface {
  readonly name = 'LowSpace1795000000000';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE pools ADD COLUMN low_space_since timestamptz');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('ALTER TABLE pools DROP COLUMN low_space_since');
  }
}
