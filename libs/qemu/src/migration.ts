import { setTimeout as sleep } from 'node:timers/promises';
import type { QmpClient } from './qmp-client.js';
import { QemuError } from './qemu-error.js';

const POLL_MS = 50;

/** Bytes a second: more than a socket of this host carries, so that nothing but the guest sets the pace. */
const UNLIMITED = 16 * 1024 ** 3;

/** How a migration went. */
export interface Migrated {
  /** From the guest's last step here to its first one there. */
  downtimeMs: number;
  totalMs: number;
  /** How often the pages that had changed meanwhile were looked for. */
  rounds: number;
}

/**
 * Moves a running guest to the QEMU that waits for it at `uri`, and returns when it runs there.
 *
 * The source is stopped for good then, with its devices still connected: end it. When the migration fails, the guest
 * goes on at the source. Throws QemuError `migration-failed` with what QEMU says, or `monitor-timeout`.
 */
export async function migrate(
  source: QmpClient,
  uri: string,
  { timeoutMs = 120_000, bytesPerSecond = UNLIMITED }: { timeoutMs?: number; bytesPerSecond?: number } = {},
): Promise<Migrated> {
  const deadline = Date.now() + timeoutMs;
  await source.execute('migrate-set-parameters', { 'max-bandwidth': bytesPerSecond });
  await source.execute('migrate', { uri });
  for (;;) {
    const state = (await source.execute('query-migrate')) as MigrationState;
    if (state.status === 'completed') {
      const { downtime: downtimeMs = 0, 'total-time': totalMs = 0, ram } = state;
      return { downtimeMs, totalMs, rounds: ram?.['dirty-sync-count'] ?? 0 };
    }
    if (state.status === 'failed' || state.status === 'cancelled') {
      const why = state['error-desc'] ?? 'no reason given';
      throw new QemuError('migration-failed', `the migration to ${uri} ${state.status}: ${why}`);
    }
    if (Date.now() > deadline) {
      await source.execute('migrate_cancel');
      throw new QemuError('monitor-timeout', `the migration to ${uri} was not done within ${timeoutMs} ms`);
    }
    await sleep(POLL_MS);
  }
}

/** What is read of the answer to `query-migrate`; times in milliseconds. */
interface MigrationState {
  status?: string;
  downtime?: number;
  'total-time'?: number;
  'error-desc'?: string;
  ram?: { 'dirty-sync-count'?: number };
}
