import { afterEach, describe, expect, it } from 'vitest';
import { FakeMonitor } from './testing/fake-monitor.js';
import { QmpClient } from './qmp-client.js';
import { QmpCommandError } from './qemu-error.js';

describe('QmpClient', () => {
  let monitor: FakeMonitor;
  afterEach(() => monitor.close());

  it('leaves the negotiation mode and runs commands with ids', async () => {
    monitor = await FakeMonitor.start({ 'query-status': () => ({ return: { running: true } }) });
    const client = await QmpClient.connect(monitor.path);
    expect(await client.execute('query-status')).toEqual({ running: true });
    expect(monitor.received.map(({ execute }) => execute)).toEqual(['qmp_capabilities', 'query-status']);
    client.close();
  });

  it('gives every answer to the command it belongs to, in whatever order they come', async () => {
    monitor = await FakeMonitor.start({
      slow: async () => {
        await new Promise((resolve) => setTimeout(resolve, 30));
        return { return: 'slow' };
      },
      fast: () => ({ return: 'fast' }),
    });
    const client = await QmpClient.connect(monitor.path);
    expect(await Promise.all([client.execute('slow'), client.execute('fast')])).toEqual(['slow', 'fast']);
    client.close();
  });

  it('throws what QEMU answers to a refused command', async () => {
    monitor = await FakeMonitor.start({
      device_del: () => ({ error: { class: 'DeviceNotFound', desc: "Device 'x' not found" } }),
    });
    const client = await QmpClient.connect(monitor.path);
    const error = await client.execute('device_del', { id: 'x' }).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(QmpCommandError);
    expect(error).toMatchObject({ qmpClass: 'DeviceNotFound', command: 'device_del' });
    client.close();
  });

  it('rejects what is under way when the monitor goes away', async () => {
    monitor = await FakeMonitor.start({ hang: () => undefined });
    const client = await QmpClient.connect(monitor.path);
    const command = client.execute('hang');
    const event = client.waitForEvent(() => true, 10_000, 'an event');
    monitor.drop();
    await expect(command).rejects.toMatchObject({ code: 'monitor-closed' });
    await expect(event).rejects.toMatchObject({ code: 'monitor-closed' });
    await expect(client.execute('hang')).rejects.toMatchObject({ code: 'monitor-closed' });
  });

  it('gives up on a command that is not answered', async () => {
    monitor = await FakeMonitor.start({ hang: () => undefined });
    const client = await QmpClient.connect(monitor.path);
    await expect(client.execute('hang', undefined, { timeoutMs: 20 })).rejects.toMatchObject({
      code: 'monitor-timeout',
    });
    client.close();
  });

  it('tells a socket without greeting from one that is not there', async () => {
    monitor = await FakeMonitor.start({}, { greeting: '' });
    await expect(QmpClient.connect(monitor.path, { timeoutMs: 30 })).rejects.toMatchObject({
      code: 'monitor-timeout',
    });
    await expect(QmpClient.connect(`${monitor.path}-not`)).rejects.toMatchObject({
      code: 'monitor-unreachable',
    });
  });

  it('breaks off with a peer that does not speak QMP', async () => {
    monitor = await FakeMonitor.start({}, { greeting: 'SSH-2.0-OpenSSH\n' });
    await expect(QmpClient.connect(monitor.path)).rejects.toMatchObject({ code: 'monitor-protocol' });
  });
});
