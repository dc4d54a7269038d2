import { createConnection } from 'node:net';
import { QmpCommandError, QemuError } from './qemu-error.js';
import type { QmpClient } from './qmp-client.js';

/** What a running guest is given: a listening vhost-user-blk back-end. */
export interface PlugRequest {
  /** Names the device in the guest's QEMU; the same id unplugs it. At most about 60 characters of [A-Za-z0-9-]. */
  id: string;
  socketPath: string;
  numQueues: number;
  /** Offer the guest packed rings; default: split ones. */
  packed?: boolean;
  /** How long the back-end may take to answer; a guest under software emulation is slow. */
  timeoutMs?: number;
}

/** Where a device was plugged; `bus` is undefined on a machine without PCI Express. */
export interface Plugged {
  bus: string | undefined;
}

interface PciDevice {
  qdev_id: string;
  id: { device: number; vendor: number };
  pci_bridge?: { devices?: PciDevice[] };
}

/** PCI ids (vendor, device) of QEMU's root ports: pcie-root-port and ioh3420. */
const rootPorts = new Set(['1b36:c', '8086:3420']);
/** PCI id of the i440FX host bridge, the `pc` machine: it hot-plugs into its root bus. */
const i440fx = '8086:1237';

/**
 * Plugs a vhost-user-blk device into a running guest: `chardev-add`, then `device_add`.
 *
 * When a step fails the earlier ones are undone, so the same request can be tried again. Throws QemuError
 * `back-end-unreachable`, `no-free-port`, `memory-not-shared`, `device-exists` or `plug-failed`.
 */
export async function plug(qmp: QmpClient, request: PlugRequest): Promise<Plugged> {
  await requireListening(request.socketPath);
  await requireSharedMemory(qmp);
  const bus = await freeBus(qmp);
  const { id, socketPath, numQueues, packed = false, timeoutMs = 60_000 } = request;
  try {
    await addChardev(qmp, chardevOf(id), socketPath);
  } catch (error) {
    throw plugError(error, id, `cannot open ${socketPath}`);
  }
  try {
    await qmp.execute(
      'device_add',
      {
        driver: 'vhost-user-blk-pci',
        id,
        chardev: chardevOf(id),
        'num-queues': numQueues,
        ...(packed && { packed }),
        ...(bus !== undefined && { bus }),
      },
      { timeoutMs },
    );
  } catch (error) {
    await qmp.execute('chardev-remove', { id: chardevOf(id) }).catch(() => undefined);
    throw plugError(error, id, 'the device was refused');
  }
  return { bus };
}

/**
 * Takes the device out of a running guest: `device_del`, `DEVICE_DELETED`, `chardev-remove`.
 *
 * A device or character device that is already gone is no error, so an unplug that broke off can be repeated.
 * Throws QemuError `unplug-timeout` when the guest does not let go of the device.
 */
export async function unplug(
  qmp: QmpClient,
  id: string,
  { timeoutMs = 30_000 }: { timeoutMs?: number } = {},
): Promise<void> {
  const deleted = qmp.waitForEvent(
    ({ event, data }) => event === 'DEVICE_DELETED' && data?.['device'] === id,
    timeoutMs,
    'DEVICE_DELETED',
  );
  // A refused device_del leaves this promise to time out unheard.
  deleted.catch(() => undefined);
  let present = true;
  try {
    await qmp.execute('device_del', { id }, { timeoutMs });
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    // An earlier request to unplug is still with the guest: its DEVICE_DELETED is the one to wait for.
    const alreadyAsked = /already in the process of unplug/i.test(error.description);
    if (error.qmpClass !== 'DeviceNotFound' && !alreadyAsked) {
      throw new QemuError('plug-failed', error.message, { cause: error });
    }
    present = alreadyAsked;
  }
  if (present) {
    await deleted.catch((error: unknown) => {
      throw new QemuError(
        'unplug-timeout',
        `the guest did not let go of ${id} within ${timeoutMs} ms: unmount it in the guest, check that the guest runs, ` +
          'and unplug again',
        { cause: error },
      );
    });
  }
  await removeChardev(qmp, chardevOf(id));
}

/** The character device that belongs to a device. */
function chardevOf(id: string): string {
  return `${id}-socket`;
}

/** `device_add` on a socket that nobody serves would stop QEMU, guest and monitor, until somebody does. */
function requireListening(path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const probe = createConnection(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve();
    });
    probe.once('error', (error) =>
      reject(
        new QemuError(
          'back-end-unreachable',
          `nobody listens on ${path} (${error.message}): QEMU and the data plane must run on one host, and QEMU must ` +
            'be able to see that path and be allowed to open it',
          { cause: error },
        ),
      ),
    );
  });
}

async function addChardev(qmp: QmpClient, id: string, path: string): Promise<void> {
  const add = (reconnect: Record<string, number>) =>
    qmp.execute('chardev-add', {
      id,
      backend: {
        type: 'socket',
        data: { addr: { type: 'unix', data: { path } }, server: false, ...reconnect },
      },
    });
  try {
    await add({ 'reconnect-ms': 1000 });
  } catch (error) {
    // QEMU before 9.2 knows only the option in seconds, which newer ones have deprecated.
    if (!(error instanceof QmpCommandError) || !error.description.includes('reconnect-ms')) throw error;
    await add({ reconnect: 1 });
  }
}

async function removeChardev(qmp: QmpClient, id: string): Promise<void> {
  try {
    await qmp.execute('chardev-remove', { id });
  } catch (error) {
    if (!(error instanceof QmpCommandError) || !/not found/i.test(error.description)) throw error;
  }
}

/** A back-end in another process can only serve guest memory that QEMU shares with it. */
async function requireSharedMemory(qmp: QmpClient): Promise<void> {
  const backends = (await qmp.execute('query-memdev')) as { share?: boolean }[];
  if (backends.some(({ share }) => share !== false)) return;
  throw new QemuError(
    'memory-not-shared',
    'the memory of this guest is not shared, which vhost-user needs: start QEMU with ' +
      '-object memory-backend-memfd,id=m,size=…,share=on -machine …,memory-backend=m (libvirt: <memoryBacking>' +
      "<source type='memfd'/><access mode='shared'/></memoryBacking>)",
  );
}

/** The id of a root port with nothing in it, or `undefined` where devices go into the root bus. */
async function freeBus(qmp: QmpClient): Promise<string | undefined> {
  const buses = (await qmp.execute('query-pci')) as { devices: PciDevice[] }[];
  const devices = buses.flatMap((bus) => bus.devices);
  const ports = devices.filter((device) => rootPorts.has(pciIdOf(device)) && device.qdev_id !== '');
  const free = ports.find((port) => (port.pci_bridge?.devices ?? []).length === 0);
  if (free) return free.qdev_id;
  if (ports.length === 0 && devices.some((device) => pciIdOf(device) === i440fx)) return undefined;
  throw new QemuError(
    'no-free-port',
    `all ${ports.length} PCI Express root ports of this guest are taken: start it with more ` +
      '-device pcie-root-port,id=…,chassis=N (libvirt: <controller type="pci" model="pcie-root-port"/>)',
  );
}

function pciIdOf({ id }: PciDevice): string {
  return `${id.vendor.toString(16)}:${id.device.toString(16)}`;
}

function plugError(error: unknown, id: string, what: string): unknown {
  if (!(error instanceof QmpCommandError)) return error;
  if (/duplicate|already exists/i.test(error.description)) {
    return new QemuError(
      'device-exists',
      `this guest already has a device ${id}: unplug it first, or it is attached already`,
      { cause: error },
    );
  }
  return new QemuError('plug-failed', `${what}: ${error.description}`, { cause: error });
}
