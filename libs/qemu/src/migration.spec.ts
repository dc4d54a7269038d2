import { afterEach, describe, expect, it } from 'vitest';
import { migrate } from './migration.js';
import { QmpClient } from './qmp-client.js';
import { FakeMonitor } from './testing/index.js';

const URI = 'unix:/tmp/there';
const ok = () => ({ return: {} });

describe('migrate', () => {
  let monitor: FakeMonitor;
  let client: QmpClient;
  /** A monitor whose guest is in these states, one after the other; the last one stays. */
  const source = async (...states: object[]) => {
    monitor = await FakeMonitor.start({
      'migrate-set-parameters': ok,
      migrate: ok,
      migrate_cancel: ok,
      'query-migrate': () => ({ return: states.length > 1 ? states.shift()! : states[0]! }),
    });
    client = await QmpClient.connect(monitor.path);
  };
  afterEach(() => {
    client.close();
    monitor.close();
  });

  it('returns when the guest runs there, with how it went', async () => {
    const done = { status: 'completed', downtime: 12, 'total-time': 345, ram: { 'dirty-sync-count': 4 } };
    await source({}, { status: 'setup' }, { status: 'active' }, done);
    expect(await migrate(client, URI)).toEqual({ downtimeMs: 12, totalMs: 345, rounds: 4 });
    const asked = monitor.received.find(({ execute }) => execute === 'migrate');
    expect(asked?.arguments).toEqual({ uri: URI });
  });

  it.each(['failed', 'cancelled'])('throws what QEMU says of one that %s', async (status) => {
    await source({ status: 'active' }, { status, 'error-desc': 'the other end has gone' });
    await expect(migrate(client, URI)).rejects.toMatchObject({
      code: 'migration-failed',
      message: expect.stringContaining('the other end has gone'),
    });
  });

  it('cancels one that does not end', async () => {
    await source({ status: 'active' });
    await expect(migrate(client, URI, { timeoutMs: 120 })).rejects.toMatchObject({ code: 'monitor-timeout' });
    expect(monitor.received.at(-1)?.execute).toBe('migrate_cancel');
  });
});
