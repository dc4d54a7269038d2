import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { ApiClient } from '../api/api-client.js';
import { CliError } from '../cli-error.js';
import type { Steps } from './steps.js';

/** What the tour needs of a guest, real or played. */
export interface TourGuest {
  /** Attaches the volume, gives it to the guest, and returns once the guest has the disk. */
  plug(volumeId: string): Promise<void>;
  /** Takes the disk away and detaches the volume. */
  unplug(volumeId: string): Promise<void>;
  /** The serial of the disk as the guest reads it. */
  readSerial(): Promise<string>;
  /** What `format` does, in words. */
  readonly formatting: string;
  /** Makes the disk ready for data. */
  format(): Promise<void>;
  /** What `write` does, in words. */
  readonly writing: string;
  /** Writes data, makes it durable and returns its checksum. */
  write(): Promise<string>;
  /** Lets go of the disk in good order. */
  release(): Promise<void>;
  /** Reads the data back and returns its checksum. */
  checksum(): Promise<string>;
}

/** What the tour is given. */
export interface TourOptions {
  steps: Steps;
  api: ApiClient;
  poolDirectory: string;
  guestA: TourGuest;
  guestB: TourGuest;
}

const volumeBytes = 2 ** 30;

/** What the guest writes. */
export const dataBytes = 32 * 2 ** 20;

/** The whole life of a volume: made, filled by one guest, read by another, and gone. */
export async function tour({ steps, api, poolDirectory, guestA, guestB }: TourOptions): Promise<void> {
  const before = filesIn(poolDirectory);
  const volume = await steps.run(
    'create a 1 GiB volume over REST',
    () => createVolume(api),
    (id) => id,
  );
  const files = filesIn(poolDirectory).filter((file) => !before.includes(file));
  await steps.run('attach it and plug it into guest A while it runs', () => guestA.plug(volume));
  await steps.run(
    'guest A sees a disk with the volume id as its serial',
    async () => expectEqual('the serial', await guestA.readSerial(), volume),
    (serial) => serial,
  );
  await steps.run(`guest A: ${guestA.formatting}`, () => guestA.format());
  const written = await steps.run(`guest A: ${guestA.writing}`, () => guestA.write(), short);
  await steps.run('guest A lets go; unplug it and detach', async () => {
    await guestA.release();
    await guestA.unplug(volume);
  });
  await steps.run(
    'the sparse file occupies what was written, not 1 GiB',
    async () => occupiedBy(files),
    (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB of 1024 MiB`,
  );
  await steps.run('attach it and plug it into guest B', () => guestB.plug(volume));
  await steps.run(
    'guest B reads the same checksum',
    async () => expectEqual('the checksum', await guestB.checksum(), written),
    short,
  );
  await steps.run('guest B lets go; unplug it and detach', async () => {
    await guestB.release();
    await guestB.unplug(volume);
  });
  await steps.run('delete the volume', async () => api.finish((await api.deleteVolume(volume)).operation));
  await steps.run('its sparse file is gone from the pool', async () => {
    const left = files.filter((file) => existsSync(file));
    if (left.length > 0) throw new CliError(`still there: ${left.join(', ')}`);
  });
}

async function createVolume(api: ApiClient): Promise<string> {
  const { volume, operation } = await api.createVolume({ sizeBytes: volumeBytes, name: 'demo' });
  await api.finish(operation);
  return volume.id;
}

/** Every file of the pool; the demo's pool holds nothing but the demo's volume. */
function filesIn(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** st_blocks counts 512 bytes (inode(7)), whatever the file system's block size is. */
function occupiedBy(files: string[]): number {
  const apparent = files.reduce((sum, file) => sum + statSync(file).size, 0);
  const occupied = files.reduce((sum, file) => sum + statSync(file).blocks * 512, 0);
  if (apparent < volumeBytes) throw new CliError(`the files of the volume have ${apparent} bytes`);
  if (occupied < dataBytes) throw new CliError(`${occupied} bytes are occupied, less than was written`);
  if (occupied > volumeBytes / 4)
    throw new CliError(`${occupied} bytes are occupied; the file is not sparse`);
  return occupied;
}

function expectEqual(what: string, actual: string, expected: string): string {
  if (actual === expected) return actual;
  throw new CliError(`${what} is ${JSON.stringify(actual)} and should be ${JSON.stringify(expected)}`);
}

function short(checksum: string): string {
  return `sha256 ${checksum.slice(0, 16)}…`;
}
