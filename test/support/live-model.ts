import { setTimeout as sleep } from 'node:timers/promises';
import type { CacheMode } from '@cairn/block-export';
import { VolumeImage } from '@cairn/storage';
import { Random } from './random.js';
import { ServedStore } from './served-store.js';
import { checkMoment, type Moment, StampedDisk, stampsOf } from './stamped-disk.js';

const MIB = 2 ** 20;
const START_BYTES = 6 * MIB;
const MAX_BYTES = 10 * MIB;
const SECTOR = 512;
const MAX_VOLUMES = 4;
const MAX_SNAPSHOTS = 10;
const DEPTH = 8;

/** Served volumes under load, while everything that may happen to their chains happens. */
export class LiveModel {
  readonly counts = new Map<string, number>();
  private readonly disks = new Map<string, StampedDisk>();
  private readonly snapshots = new Map<string, Moment & { sizeBytes: number }>();
  private readonly random: Random;
  private background: Promise<unknown> = Promise.resolve();
  private nextId = 1;

  private constructor(
    private readonly served: ServedStore,
    seed: number,
  ) {
    this.random = new Random(seed);
  }

  static async open(directory: string, options: { seed: number; cache: CacheMode }): Promise<LiveModel> {
    const model = new LiveModel(await ServedStore.open(directory, options), options.seed);
    await model.create();
    return model;
  }

  get requests(): number {
    return [...this.disks.values()].reduce((sum, { requests }) => sum + requests, 0);
  }

  /** One random verb while the load goes on. */
  async step(): Promise<void> {
    const verbs: [string, number, () => Promise<boolean>][] = [
      ['create', 1, () => this.create()],
      ['snapshot', 10, () => this.snapshot(1)],
      ['group snapshot', 5, () => this.snapshot(MAX_VOLUMES)],
      ['clone', 4, () => this.clone()],
      ['clone of a volume', 2, () => this.cloneVolume()],
      ['delete snapshot', 9, () => this.deleteSnapshot()],
      ['delete volume', 2, () => this.deleteVolume()],
      ['coalesce', 4, () => this.coalesce()],
      ['coalesce meanwhile', 4, () => this.coalesceMeanwhile()],
      ['grow', 2, () => this.grow()],
      ['serve again', 3, () => this.serveAgain()],
      ['verify', 2, () => this.verifyOne()],
    ];
    let at = this.random.below(verbs.reduce((sum, [, weight]) => sum + weight, 0));
    for (const [name, weight, verb] of verbs) {
      at -= weight;
      if (at >= 0) continue;
      if (await verb()) this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
      break;
    }
    await sleep(this.random.below(20));
    for (const { failure } of this.disks.values()) if (failure !== undefined) throw failure;
  }

  /** Stops the load and compares every byte: through the rings, then in the files. */
  async verify(): Promise<void> {
    await this.background;
    for (const [id, disk] of this.disks) {
      await disk.stop();
      await disk.verify(id);
    }
    for (const id of this.snapshots.keys()) await this.verifySnapshot(id);
    for (const [id, { stamps }] of this.disks) {
      const image = await VolumeImage.open(this.served.store.chain(id), { readOnly: true });
      await checkImage(id, image, { before: stamps, meanwhile: new Map() });
    }
  }

  async close(): Promise<void> {
    await this.background.catch(() => undefined);
    for (const disk of this.disks.values()) {
      await disk.stop().catch(() => undefined);
      disk.disk.close();
    }
    await this.served.close();
  }

  private async create(): Promise<boolean> {
    if (this.disks.size >= MAX_VOLUMES) return false;
    const volumeId = this.newId('vol');
    await this.served.store.create({ volumeId, sizeBytes: START_BYTES });
    await this.attach(volumeId, new Uint32Array(START_BYTES / SECTOR));
    return true;
  }

  private async attach(volumeId: string, stamps: Uint32Array): Promise<void> {
    await this.served.serve(volumeId);
    const disk = new StampedDisk(await this.served.connect(volumeId), new Random(this.random.u32()), stamps);
    this.disks.set(volumeId, disk);
    disk.start(DEPTH);
  }

  private async detach(volumeId: string): Promise<StampedDisk> {
    const disk = this.disks.get(volumeId)!;
    await disk.stop();
    await disk.disk.detach();
    await this.served.stopServing(volumeId);
    this.disks.delete(volumeId);
    return disk;
  }

  private async snapshot(most: number): Promise<boolean> {
    const ids = [...this.disks.keys()].slice(0, most);
    if (ids.length === 0 || this.snapshots.size + ids.length > MAX_SNAPSHOTS) return false;
    const requests = ids.map((volumeId) => ({ volumeId, snapshotId: this.newId('snap') }));
    const group = most > 1 ? { group: `group-${this.nextId}` } : {};
    const moments = ids.map((id) => this.disks.get(id)!.beginMoment());
    await this.served.store.snapshots.take(requests, { switchHeads: this.served.switchHeads, ...group });
    requests.forEach(({ snapshotId, volumeId }, i) => {
      const disk = this.disks.get(volumeId)!;
      disk.endMoment(moments[i]!);
      this.snapshots.set(snapshotId, { ...moments[i]!, sizeBytes: moments[i]!.before.length * SECTOR });
    });
    return true;
  }

  private async clone(): Promise<boolean> {
    const snapshotId = this.pick(this.snapshots);
    if (snapshotId === undefined || this.disks.size >= MAX_VOLUMES) return false;
    const stamps = await this.verifySnapshot(snapshotId);
    const volumeId = this.newId('vol');
    const sizeBytes = stamps.length * SECTOR + this.random.below(2) * MIB;
    await this.served.store.clones.fromSnapshot({ volumeId, snapshotId, sizeBytes });
    await this.attach(volumeId, grown(stamps, sizeBytes));
    return true;
  }

  private async cloneVolume(): Promise<boolean> {
    const sourceVolumeId = this.pick(this.disks);
    if (sourceVolumeId === undefined || this.disks.size >= MAX_VOLUMES) return false;
    const volumeId = this.newId('vol');
    const disk = this.disks.get(sourceVolumeId)!;
    const moment = disk.beginMoment();
    const { switchHeads } = this.served;
    await this.served.store.clones.ofVolume({ volumeId, sourceVolumeId }, { switchHeads });
    disk.endMoment(moment);
    const image = await VolumeImage.open(this.served.store.chain(volumeId), { readOnly: true });
    await this.attach(volumeId, await checkImage(volumeId, image, moment));
    return true;
  }

  private async deleteSnapshot(): Promise<boolean> {
    const id = this.pick(this.snapshots);
    if (id === undefined) return false;
    if (this.random.chance(0.3)) await this.verifySnapshot(id);
    this.snapshots.delete(id);
    await this.served.store.snapshots.delete(id);
    return true;
  }

  private async deleteVolume(): Promise<boolean> {
    const id = this.pick(this.disks);
    if (id === undefined || this.disks.size === 1) return false;
    await this.detach(id);
    await this.served.store.delete(id);
    return true;
  }

  private async coalesce(): Promise<boolean> {
    await this.background;
    await this.served.store.coalescer.run();
    return true;
  }

  private async coalesceMeanwhile(): Promise<boolean> {
    await this.background;
    this.background = this.served.store.coalescer.run({ bytesPerSecond: 64 * MIB });
    this.background.catch(() => undefined);
    return true;
  }

  private async grow(): Promise<boolean> {
    const id = this.pick(this.disks);
    if (id === undefined) return false;
    const disk = this.disks.get(id)!;
    const sizeBytes = disk.stamps.length * SECTOR + MIB / 2;
    if (sizeBytes > MAX_BYTES) return false;
    await this.served.grow(id, sizeBytes);
    if ((await disk.disk.readConfig()).capacitySectors !== sizeBytes / SECTOR) {
      throw new Error(`${id} does not tell its new size`);
    }
    disk.grow(sizeBytes);
    return true;
  }

  private async serveAgain(): Promise<boolean> {
    const id = this.pick(this.disks);
    if (id === undefined) return false;
    const { stamps } = await this.detach(id);
    await this.attach(id, stamps);
    return true;
  }

  private async verifyOne(): Promise<boolean> {
    const id = this.pick(this.disks);
    if (id === undefined) return false;
    const disk = this.disks.get(id)!;
    await disk.stop();
    await disk.verify(id);
    disk.start(DEPTH);
    return true;
  }

  /** What it holds is certain from the first look on. */
  private async verifySnapshot(id: string): Promise<Uint32Array> {
    const moment = this.snapshots.get(id)!;
    const image = await VolumeImage.open(this.served.store.snapshots.chain(id), { readOnly: true });
    const found = await checkImage(id, image, moment);
    this.snapshots.set(id, { before: found, meanwhile: new Map(), sizeBytes: moment.sizeBytes });
    return found;
  }

  private pick<T>(from: ReadonlyMap<string, T>): string | undefined {
    return from.size === 0 ? undefined : this.random.pick([...from.keys()]);
  }

  private newId(kind: 'vol' | 'snap'): string {
    const id = this.nextId.toString(16).padStart(16, '0');
    this.nextId += 1;
    return `${kind}-${id}`;
  }
}

const checkImage = async (what: string, image: VolumeImage, moment: Moment): Promise<Uint32Array> => {
  try {
    const bytes = new Uint8Array(image.sizeBytes);
    await image.readAt(0, bytes);
    const found = stampsOf(bytes);
    checkMoment(what, found, moment);
    return found;
  } finally {
    await image.close();
  }
};

const grown = (stamps: Uint32Array, sizeBytes: number): Uint32Array => {
  const out = new Uint32Array(sizeBytes / SECTOR);
  out.set(stamps);
  return out;
};
