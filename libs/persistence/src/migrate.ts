import type { DataSource } from 'typeorm';

// Any constant will do, as long as it is only used for this: the ASCII of "cairn".
const MIGRATION_LOCK = 0x636169726e;
const LOCK_RETRY_MS = 200;

/**
 * Brings the schema up to date and returns the names of the migrations that ran.
 *
 * Several processes may call it at once: an advisory lock lets one work while the others wait,
 * up to `timeoutMs`, and then find nothing to do.
 */
export async function migrate(dataSource: DataSource, timeoutMs = 60_000): Promise<string[]> {
  const lock = dataSource.createQueryRunner();
  try {
    await lock.connect();
    // Polled and not awaited in the server, where statement_timeout would end a long wait with an error.
    for (const until = Date.now() + timeoutMs; ;) {
      const [row]: { locked: boolean }[] = await lock.query('SELECT pg_try_advisory_lock($1) AS locked', [
        MIGRATION_LOCK,
      ]);
      if (row?.locked) break;
      if (Date.now() > until) throw new Error('Another process has held the migration lock for too long.');
      await new Promise((resolve) => setTimeout(resolve, LOCK_RETRY_MS));
    }
    try {
      const ran = await dataSource.runMigrations({ transaction: 'all' });
      return ran.map((migration) => migration.name);
    } finally {
      await lock.query('SELECT pg_advisory_unlock($1)', [MIGRATION_LOCK]);
    }
  } finally {
    await lock.release();
  }
}
