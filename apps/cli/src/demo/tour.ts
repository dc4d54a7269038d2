import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { serialOf } from '@cairn/domain';
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
  /** Reads the data of a disk that was just plugged in and returns its checksum. */
  checksum(): Promise<string>;
  /** The same of a disk that is in use, from the disk and not from memory. */
  reread(): Promise<string>;
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

/** The whole life of a volume: made, filled, copied in a moment, parted from its copy, moved, and gone. */
export async function tour(options: TourOptions): Promise<void> {
  const { steps, api, poolDirectory } = options;
  const before = occupiedBy(filesIn(poolDirectory));
  const volume = await steps.run(
    'create a 1 GiB volume over REST',
    () => createVolume(api, { sizeBytes: volumeBytes, name: 'demo' }),
    (id) => id,
  );
  const written = await fill(options, volume);
  const snapshot = await steps.run(
    'snapshot it while guest A uses it',
    async () => first(await snapshotAll(api, [volume])),
    (id) => id,
  );
  const clone = await steps.run(
    'clone it, while guest A uses it',
    () => createVolume(api, { sourceVolumeId: volume }),
    (id) => id,
  );
  const rewritten = await part(options, clone, written);
  const group = await steps.run(
    'snapshot both at one point in time',
    () => snapshotAll(api, [volume, clone]),
    (ids) => ids.join(' '),
  );
  await letGo(options, 'A', volume);
  const restored = await steps.run(
    'make a volume of the first snapshot',
    () => createVolume(api, { snapshotId: snapshot }),
    (id) => id,
  );
  await readOn(options, 'A', restored, written);
  await letGo(options, 'B', clone);
  await readOn(options, 'B', volume, rewritten);
  await steps.run('delete it all in the wrong order', async () => {
    await api.finish((await api.deleteVolume(volume)).operation);
    for (const id of [group[0]!, snapshot, group[1]!])
      await api.finish((await api.deleteSnapshot(id)).operation);
    for (const id of [restored, clone]) await api.finish((await api.deleteVolume(id)).operation);
  });
  await steps.run('the pool is as large as it was', () => emptied(poolDirectory, before));
}

/** Guest A makes a file system and writes. Returns the checksum of what it wrote. */
async function fill({ steps, poolDirectory, guestA }: TourOptions, volume: string): Promise<string> {
  await steps.run('attach it and plug it into guest A while it runs', () => guestA.plug(volume));
  await steps.run(
    'guest A sees a disk with the volume id as its serial',
    async () => expectEqual('the serial', await guestA.readSerial(), serialOf(volume)),
    (serial) => serial,
  );
  await steps.run(`guest A: ${guestA.formatting}`, () => guestA.format());
  const written = await steps.run(`guest A: ${guestA.writing}`, () => guestA.write(), short);
  await steps.run(
    'the sparse file occupies what was written, not 1 GiB',
    async () => expectSparse(occupiedBy(filesIn(poolDirectory))),
    (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB of 1024 MiB`,
  );
  return written;
}

/** Guest B gets the clone and both guests write. Returns the checksum of what guest A has now. */
async function part({ steps, guestA, guestB }: TourOptions, clone: string, written: string): Promise<string> {
  await steps.run('attach the clone and plug it into guest B', () => guestB.plug(clone));
  await steps.run(
    'guest B reads the same checksum',
    async () => expectEqual('the checksum', await guestB.checksum(), written),
    short,
  );
  const onA = await steps.run(`guest A: ${guestA.writing}`, () => guestA.write(), short);
  const onB = await steps.run(`guest B: ${guestB.writing}`, () => guestB.write(), short);
  await steps.run('volume and clone have parted: each reads its own', async () => {
    if (new Set([written, onA, onB]).size < 3) throw new CliError('two of the three checksums are the same');
    expectEqual("guest A's checksum", await guestA.reread(), onA);
    expectEqual("guest B's checksum", await guestB.reread(), onB);
  });
  return onA;
}

/** A guest gets a volume, finds in it what is expected, and gives it back. */
async function readOn(
  options: TourOptions,
  name: 'A' | 'B',
  volume: string,
  expected: string,
): Promise<void> {
  const guest = guestOf(options, name);
  await options.steps.run(`attach ${volume} and plug it into guest ${name}`, () => guest.plug(volume));
  await options.steps.run(
    `guest ${name} reads what was in it`,
    async () => expectEqual('the checksum', await guest.checksum(), expected),
    short,
  );
  await letGo(options, name, volume);
}

async function letGo(options: TourOptions, name: 'A' | 'B', volume: string): Promise<void> {
  const guest = guestOf(options, name);
  await options.steps.run(`guest ${name} lets go; unplug and detach`, async () => {
    await guest.release();
    await guest.unplug(volume);
  });
}

function guestOf({ guestA, guestB }: TourOptions, name: 'A' | 'B'): TourGuest {
  return name === 'A' ? guestA : guestB;
}

async function createVolume(api: ApiClient, body: Parameters<ApiClient['createVolume']>[0]): Promise<string> {
  const { volume, operation } = await api.createVolume(body);
  await api.finish(operation);
  return volume.id;
}

async function snapshotAll(api: ApiClient, volumes: string[]): Promise<string[]> {
  const { snapshots, operation } = await api.takeSnapshots(volumes);
  await api.finish(operation);
  return snapshots.map(({ id }) => id);
}

/** Every file of the pool; the demo's pool holds nothing but what the demo makes. */
function filesIn(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** st_blocks counts 512 bytes (inode(7)), whatever the file system's block size is. */
function occupiedBy(files: string[]): number {
  return files.reduce((sum, file) => sum + (statSync(file, { throwIfNoEntry: false })?.blocks ?? 0) * 512, 0);
}

function expectSparse(occupied: number): number {
  if (occupied < dataBytes) throw new CliError(`${occupied} bytes are occupied, less than was written`);
  if (occupied > volumeBytes / 4)
    throw new CliError(`${occupied} bytes are occupied; the file is not sparse`);
  return occupied;
}

/** What was deleted last may still be on its way out in the background. */
async function emptied(directory: string, before: number): Promise<void> {
  for (const deadline = Date.now() + 30_000; occupiedBy(filesIn(directory)) > before; await sleep(50)) {
    if (Date.now() < deadline) continue;
    throw new CliError(
      `${occupiedBy(filesIn(directory)) - before} bytes more: ${filesIn(directory).join(', ')}`,
    );
  }
}

function first(ids: readonly string[]): string {
  const [id] = ids;
  if (id === undefined) throw new CliError('the API answered with no snapshot');
  return id;
}

function expectEqual(what: string, actual: string, expected: string): string {
  if (actual === expected) return actual;
  throw new CliError(`${what} is ${JSON.stringify(actual)} and should be ${JSON.stringify(expected)}`);
}

function short(checksum: string): string {
  return `sha256 ${checksum.slice(0, 16)}…`;
}
