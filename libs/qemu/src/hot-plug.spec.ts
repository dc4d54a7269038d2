import { createServer, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { plug, unplug } from './hot-plug.js';
import { QmpClient } from './qmp-client.js';
import { FakeMonitor, type Answer } from './testing/index.js';

const ok: Answer = () => ({ return: {} });
const refuse =
  (desc: string, qmpClass = 'GenericError'): Answer =>
  () => ({ error: { class: qmpClass, desc } });

const port = (id: string, devices: object[] = []) => ({
  qdev_id: id,
  id: { vendor: 0x1b36, device: 0xc },
  pci_bridge: { devices },
});
const disk = { qdev_id: 'disk', id: { vendor: 0x1af4, device: 0x1042 } };

/** A guest with shared memory and two ports, of which the first is taken. */
const healthy: Record<string, Answer> = {
  'query-memdev': () => ({ return: [{ share: true }] }),
  'query-pci': () => ({ return: [{ devices: [port('rp0', [disk]), port('rp1')] }] }),
  'chardev-add': ({ backend }) =>
    JSON.stringify(backend).includes('reconnect-ms')
      ? { error: { class: 'GenericError', desc: "Parameter 'backend.data.reconnect-ms' is unexpected" } }
      : { return: {} },
  device_add: ok,
  device_del: (args, monitor) => {
    setTimeout(() => monitor.emit('DEVICE_DELETED', { device: args['id'], path: '/x' }), 5);
    return { return: {} };
  },
  'chardev-remove': ok,
};

describe('hot plug', () => {
  let monitor: FakeMonitor;
  let client: QmpClient;
  let backEnd: Server;

  async function guest(answers: Record<string, Answer> = {}) {
    monitor = await FakeMonitor.start({ ...healthy, ...answers });
    client = await QmpClient.connect(monitor.path);
    backEnd = createServer();
    const socketPath = join(dirname(monitor.path), 'blk');
    await new Promise<void>((resolve) => {
      backEnd.listen(socketPath, resolve);
    });
    return { id: 'vol-1', socketPath, numQueues: 2 };
  }
  const commands = () => monitor.received.slice(1).map(({ execute }) => execute);

  afterEach(() => {
    client.close();
    monitor.close();
    backEnd.close();
  });

  it('plugs into the first free root port, with reconnect in the words this QEMU knows', async () => {
    const request = await guest();
    expect(await plug(client, request)).toEqual({ bus: 'rp1' });
    expect(commands()).toEqual(['query-memdev', 'query-pci', 'chardev-add', 'chardev-add', 'device_add']);
    expect(monitor.received.at(-1)?.arguments).toEqual({
      driver: 'vhost-user-blk-pci',
      id: 'vol-1',
      chardev: 'vol-1-socket',
      'num-queues': 2,
      bus: 'rp1',
    });
  });

  it('offers the guest packed rings where that is asked for', async () => {
    const request = await guest();
    await plug(client, { ...request, packed: true });
    expect(monitor.received.at(-1)?.arguments).toMatchObject({ id: 'vol-1', packed: true });
  });

  it('plugs into the root bus of a machine without PCI Express', async () => {
    const host = { qdev_id: '', id: { vendor: 0x8086, device: 0x1237 } };
    const request = await guest({ 'query-pci': () => ({ return: [{ devices: [host] }] }) });
    expect(await plug(client, request)).toEqual({ bus: undefined });
  });

  it('removes the character device when the device is refused', async () => {
    const request = await guest({ device_add: refuse('no vhost protocol') });
    await expect(plug(client, request)).rejects.toMatchObject({ code: 'plug-failed' });
    expect(commands().at(-1)).toBe('chardev-remove');
  });

  it('leaves the character device of a device that is there already', async () => {
    const request = await guest({ 'chardev-add': refuse("duplicate property 'vol-1-socket'") });
    await expect(plug(client, request)).rejects.toMatchObject({ code: 'device-exists' });
    expect(commands()).not.toContain('chardev-remove');
  });

  it('refuses a guest whose memory is private before it changes anything', async () => {
    const request = await guest({ 'query-memdev': () => ({ return: [{ share: false }] }) });
    await expect(plug(client, request)).rejects.toMatchObject({ code: 'memory-not-shared' });
    expect(commands()).toEqual(['query-memdev']);
  });

  it('refuses a guest without a free port', async () => {
    const request = await guest({ 'query-pci': () => ({ return: [{ devices: [port('rp0', [disk])] }] }) });
    await expect(plug(client, request)).rejects.toMatchObject({ code: 'no-free-port' });
  });

  it('refuses a socket that nobody listens on, which would stop QEMU', async () => {
    const request = await guest();
    await expect(plug(client, { ...request, socketPath: '/nowhere' })).rejects.toMatchObject({
      code: 'back-end-unreachable',
    });
    expect(commands()).toEqual([]);
  });

  it('unplugs in the order device, event, character device', async () => {
    await guest();
    await unplug(client, 'vol-1');
    expect(commands()).toEqual(['device_del', 'chardev-remove']);
  });

  it('finishes an unplug of which the device is already gone', async () => {
    await guest({
      device_del: refuse("Device 'vol-1' not found", 'DeviceNotFound'),
      'chardev-remove': refuse("Chardev 'vol-1-socket' not found"),
    });
    await unplug(client, 'vol-1');
    expect(commands()).toEqual(['device_del', 'chardev-remove']);
  });

  it('says so when the guest does not let go, and keeps the character device', async () => {
    await guest({ device_del: ok });
    await expect(unplug(client, 'vol-1', { timeoutMs: 30 })).rejects.toMatchObject({
      code: 'unplug-timeout',
    });
    expect(commands()).toEqual(['device_del']);
  });
});
