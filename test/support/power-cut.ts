import { createHash } from 'node:crypto';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { checkPool, describeFinding, type SwitchHeads, VolumeImage, VolumeStore } from '@cairn/storage';
import { RecordingDisk, seeded } from '@cairn/storage/testing';

const SECTOR = 512;
const BLOCK = 4096;
const SIZE = 16 * BLOCK;
const GROWN = 24 * BLOCK;

/** A change of a volume's sectors, between two moments of the disk's record. */
interface Change {
  start: number;
  end: number;
  from: number;
  to: number;
  value: number | Uint8Array;
  /** It is certain once it has ended. */
  durable: boolean;
}

interface Life {
  madeAt: [start: number, end: number];
  goneAt?: [start: number, end: number];
}

interface VolumeLife extends Life {
  initial: Uint8Array;
  changes: Change[];
  /** When a flush was issued, and when it had succeeded. */
  flushes: [issued: number, done: number][];
}

interface SnapshotLife extends Life {
  /** None when it was written from blocks. */
  volumeId?: string;
  bytes: Uint8Array;
}

/** Random verbs on a recorded disk, and what must and may be there after a power cut at any moment of them. */
export class PowerCutScenario {
  readonly disk: RecordingDisk;
  private readonly volumes = new Map<string, VolumeLife>();
  private readonly snapshots = new Map<string, SnapshotLife>();
  private readonly contents = new Map<string, Uint8Array>();
  private readonly random: (below: number) => number;
  private store!: VolumeStore;
  private nextId = 1;
  private value = 0;

  constructor(
    private readonly directory: string,
    seed: number,
  ) {
    this.disk = new RecordingDisk(directory);
    this.random = seeded(seed);
  }

  async run(verbs: number): Promise<void> {
    this.store = await VolumeStore.open({ directory: this.directory, disk: this.disk, overcommitRatio: 1e6 });
    await this.create();
    for (let i = 0; i < verbs; i += 1) await this.verb();
    await this.store.close();
  }

  /** Opens what a power cut left in a directory, and throws where it is not what it may be. */
  async check(directory: string, at: number): Promise<void> {
    for (const folder of ['layers', 'volumes', 'snapshots'])
      mkdirSync(join(directory, folder), { recursive: true });
    await expectNone(directory, 'damage');
    const store = await VolumeStore.open({ directory, overcommitRatio: 1e6 });
    try {
      const broken = [...store.listBroken(), ...store.snapshots.listBroken()];
      if (broken.length > 0) throw new Error(`not understood: ${JSON.stringify(broken)}`);
      const before = await this.checkAll(store, at);
      await store.coalescer.run();
      const after = await this.checkAll(store, at);
      for (const [id, bytes] of before) {
        if (Buffer.compare(bytes, after.get(id)!) !== 0)
          throw new Error(`${id} is not the same after coalescing`);
      }
    } finally {
      await store.close();
    }
    await expectNone(directory, 'damage', 'leftover', 'notice');
  }

  private async checkAll(store: VolumeStore, at: number): Promise<Map<string, Uint8Array>> {
    const seen = new Map<string, Uint8Array>();
    for (const [id, life] of this.volumes) {
      if (!existence(id, life, at, store.find(id) !== undefined)) continue;
      const image = await VolumeImage.open(store.chain(id), { readOnly: true });
      const bytes = new Uint8Array(image.sizeBytes);
      await image.readAt(0, bytes);
      await image.close();
      seen.set(id, bytes);
      for (let sector = 0; sector < bytes.length / SECTOR; sector += 1) {
        const may = candidates(life, sector, at);
        const value = bytes[sector * SECTOR]!;
        if (
          may.has(value) &&
          bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR).every((byte) => byte === value)
        )
          continue;
        throw new Error(`${id} reads ${value} in sector ${sector}, may be ${[...may].join(' or ')}`);
      }
    }
    for (const [id, life] of this.snapshots) {
      // One that is being written from blocks is none yet.
      if (!existence(id, life, at, store.snapshots.find(id)?.state === 'completed')) continue;
      const image = await VolumeImage.open(store.snapshots.chain(id), { readOnly: true });
      const bytes = new Uint8Array(image.sizeBytes);
      await image.readAt(0, bytes);
      await image.close();
      seen.set(id, bytes);
      if (Buffer.compare(bytes, life.bytes) !== 0) throw new Error(`${id} is not what it was`);
    }
    return seen;
  }

  private async verb(): Promise<void> {
    const verbs = [
      () => this.write(),
      () => this.write(),
      () => this.write(),
      () => this.snapshot(1),
      () => this.snapshot(2),
      () => this.clone(),
      () => this.cloneVolume(),
      () => this.writeSnapshot(),
      () => this.scrub(),
      () => this.deleteSnapshot(),
      () => this.deleteSnapshot(),
      () => this.store.coalescer.run(),
      () => this.revert(),
      () => this.grow(),
      () => this.deleteVolume(),
    ];
    await verbs[this.random(verbs.length)]!();
  }

  private async create(): Promise<void> {
    const volumeId = this.newId('vol');
    const start = this.disk.length;
    await this.store.create({ volumeId, sizeBytes: SIZE });
    this.born(volumeId, start, new Uint8Array(SIZE));
  }

  /** Some writes and discards of an attached volume, perhaps flushed, perhaps with a snapshot while it is attached. */
  private async write(): Promise<void> {
    const id = this.pick(this.contents);
    if (id === undefined) return this.create();
    const life = this.volumes.get(id)!;
    const bytes = this.contents.get(id)!;
    // No verb runs between attaching and opening, so neither is called before there is an image.
    const open: { image?: VolumeImage } = {};
    const chain = await this.store.attach(id, {
      barrier: () => open.image!.barrier(),
      chainChanged: (changed) => open.image!.goOver(changed),
    });
    const image = await VolumeImage.open(chain, { disk: this.disk });
    open.image = image;
    for (let i = 1 + this.random(4); i > 0; i -= 1) {
      const sectors = bytes.length / SECTOR;
      const from = this.random(sectors);
      const to = Math.min(from + 1 + this.random(this.random(3) === 0 ? 64 : 9), sectors);
      const start = this.disk.length;
      this.value = (this.value % 250) + 1;
      const value = this.random(3) === 0 ? 0 : this.value;
      if (value === 0) await image.discard(from * SECTOR, (to - from) * SECTOR);
      else await image.writeAt(from * SECTOR, new Uint8Array((to - from) * SECTOR).fill(value));
      bytes.fill(value, from * SECTOR, to * SECTOR);
      life.changes.push({ start, end: this.disk.length, from, to, value, durable: false });
      if (this.random(3) === 0) {
        const issued = this.disk.length;
        await image.flush();
        life.flushes.push([issued, this.disk.length]);
      }
      if (this.random(6) === 0) await this.takeSnapshots([id], ([only]) => image.goOver(only!.chain));
      if (this.random(6) === 0) await this.store.coalescer.run();
    }
    await image.close();
    await this.store.detach(id);
    return undefined;
  }

  private async snapshot(most: number): Promise<void> {
    await this.takeSnapshots([...this.contents.keys()].slice(0, most));
  }

  private async takeSnapshots(ids: string[], switchHeads?: SwitchHeads): Promise<void> {
    if (ids.length === 0 || [...this.snapshots.values()].filter(({ goneAt }) => !goneAt).length > 5) return;
    const start = this.disk.length;
    const requests = ids.map((volumeId) => ({ volumeId, snapshotId: this.newId('snap') }));
    await this.store.snapshots.take(requests, {
      ...(ids.length > 1 && { group: `group-${this.nextId}` }),
      ...(switchHeads && { switchHeads }),
    });
    for (const { volumeId, snapshotId } of requests) {
      const bytes = this.contents.get(volumeId)!.slice();
      this.snapshots.set(snapshotId, { volumeId, bytes, madeAt: [start, this.disk.length] });
      // Taking a snapshot makes durable what it has.
      this.volumes.get(volumeId)!.flushes.push([start, this.disk.length]);
    }
  }

  private async clone(): Promise<void> {
    const snapshotId = this.livingSnapshot();
    if (snapshotId === undefined || this.contents.size > 3) return;
    const { bytes } = this.snapshots.get(snapshotId)!;
    const volumeId = this.newId('vol');
    const start = this.disk.length;
    await this.store.clones.fromSnapshot({ volumeId, snapshotId });
    this.born(volumeId, start, bytes.slice());
  }

  /** By a snapshot of its own, which makes durable what the source has. */
  private async cloneVolume(): Promise<void> {
    const sourceVolumeId = this.pick(this.contents);
    if (sourceVolumeId === undefined || this.contents.size > 3) return;
    const bytes = this.contents.get(sourceVolumeId)!;
    const volumeId = this.newId('vol');
    const start = this.disk.length;
    await this.store.clones.ofVolume({ volumeId, sourceVolumeId });
    this.volumes.get(sourceVolumeId)!.flushes.push([start, this.disk.length]);
    this.born(volumeId, start, bytes.slice());
  }

  private async writeSnapshot(): Promise<void> {
    const parentSnapshotId = this.random(2) === 0 ? undefined : this.livingSnapshot();
    const parent = this.snapshots.get(parentSnapshotId ?? '');
    const bytes = parent ? parent.bytes.slice() : new Uint8Array(SIZE);
    const sizeBytes = bytes.length;
    const snapshotId = this.newId('snap');
    const start = this.disk.length;
    const { snapshotWriter } = this.store;
    await snapshotWriter.start({
      snapshotId,
      sizeBytes,
      ...(parentSnapshotId !== undefined && { parentSnapshotId }),
    });
    const put = this.random(3) > 0;
    if (put) {
      this.value = (this.value % 250) + 1;
      bytes.fill(this.value);
      const checksum = createHash('sha256').update(bytes).digest('base64');
      await snapshotWriter.putBlock(snapshotId, 0, bytes, checksum);
    }
    await snapshotWriter.complete(snapshotId, { changedBlocks: put ? 1 : 0 });
    this.snapshots.set(snapshotId, { bytes, madeAt: [start, this.disk.length] });
  }

  private async scrub(): Promise<void> {
    const { damaged } = await this.store.scrub();
    if (damaged.length > 0) throw new Error(`called damaged: ${JSON.stringify(damaged)}`);
  }

  private async revert(): Promise<void> {
    const snapshotId = this.livingSnapshot();
    const { volumeId, bytes } = this.snapshots.get(snapshotId ?? '') ?? {};
    const now = this.contents.get(volumeId ?? '');
    if (snapshotId === undefined || volumeId === undefined || !bytes || !now) return;
    const start = this.disk.length;
    await this.store.clones.revert(volumeId, snapshotId);
    now.fill(0);
    now.set(bytes);
    const value = now.slice();
    const change = { start, end: this.disk.length, from: 0, to: now.length / SECTOR, value, durable: true };
    this.volumes.get(volumeId)!.changes.push(change);
  }

  private async grow(): Promise<void> {
    const id = this.pick(this.contents);
    const before = this.contents.get(id ?? '');
    if (id === undefined || !before || before.length === GROWN) return;
    await this.store.grow(id, GROWN);
    const bytes = new Uint8Array(GROWN);
    bytes.set(before);
    this.contents.set(id, bytes);
  }

  private async deleteVolume(): Promise<void> {
    const id = this.pick(this.contents);
    if (id === undefined || this.contents.size < 2) return;
    const start = this.disk.length;
    await this.store.delete(id);
    this.volumes.get(id)!.goneAt = [start, this.disk.length];
    this.contents.delete(id);
  }

  private async deleteSnapshot(): Promise<void> {
    const id = this.livingSnapshot();
    if (id === undefined) return;
    const start = this.disk.length;
    await this.store.snapshots.delete(id);
    this.snapshots.get(id)!.goneAt = [start, this.disk.length];
  }

  private born(id: string, start: number, bytes: Uint8Array): void {
    const madeAt: [number, number] = [start, this.disk.length];
    this.volumes.set(id, { madeAt, initial: bytes.slice(), changes: [], flushes: [] });
    this.contents.set(id, bytes);
  }

  private livingSnapshot(): string | undefined {
    return this.pick(new Map([...this.snapshots].filter(([, { goneAt }]) => goneAt === undefined)));
  }

  private newId(prefix: string): string {
    const id = `${prefix}-${this.nextId.toString(16).padStart(16, '0')}`;
    this.nextId += 1;
    return id;
  }

  private pick<T>(from: ReadonlyMap<string, T>): string | undefined {
    return [...from.keys()][this.random(from.size)];
  }
}

/** Throws when a check finds anything so severe. A pool that was not made yet is none. */
const expectNone = async (directory: string, ...severities: string[]): Promise<void> => {
  if (!existsSync(join(directory, 'pool.json'))) return;
  const { findings } = await checkPool(directory, { scrub: true });
  const found = findings.filter(({ severity }) => severities.includes(severity)).map(describeFinding);
  if (found.length > 0) throw new Error(found.join('; '));
};

/** Is it there? Throws when it must be and is not, or the other way round. */
const existence = (id: string, { madeAt, goneAt }: Life, at: number, there: boolean): boolean => {
  const must = madeAt[1] <= at && (goneAt === undefined || goneAt[0] >= at);
  const may = madeAt[0] < at && (goneAt === undefined || goneAt[1] > at);
  if (must && !there) throw new Error(`${id} is not there`);
  if (there && !may) throw new Error(`${id} is there`);
  return there;
};

/** What a sector may read as after a power cut. */
const candidates = ({ initial, changes, flushes }: VolumeLife, sector: number, at: number): Set<number> => {
  let may = new Set([initial[sector * SECTOR] ?? 0]);
  for (const { start, end, from, to, value, durable } of changes) {
    if (start >= at || sector < from || sector >= to) continue;
    const now = typeof value === 'number' ? value : value[sector * SECTOR]!;
    const certain = durable ? end <= at : flushes.some(([issued, done]) => issued >= end && done <= at);
    if (certain) may = new Set([now]);
    else may.add(now);
  }
  return may;
};
