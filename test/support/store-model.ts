import { type SwitchHeads, StorageError, VolumeImage, VolumeStore } from '@cairn/storage';
import { seeded } from '@cairn/storage/testing';

export const BLOCK = 4096;
const SECTOR = 512;
const MAX_VOLUMES = 6;
const MAX_SNAPSHOTS = 12;
const START_BYTES = 1024 * 1024;
const MAX_BYTES = 3 * 1024 * 1024;

/** A store, and plain byte arrays that say what must be in it, changed together by random verbs. */
export class StoreModel {
  readonly volumes = new Map<string, Uint8Array>();
  readonly snapshots = new Map<string, { bytes: Uint8Array; volumeId: string }>();
  readonly counts = new Map<string, number>();
  private readonly images = new Map<string, VolumeImage>();
  private readonly random: (below: number) => number;
  private background: Promise<unknown> = Promise.resolve();
  private nextId = 1;
  private value = 1;

  private constructor(
    private readonly directory: string,
    private store: VolumeStore,
    seed: number,
  ) {
    this.random = seeded(seed);
  }

  static async open(directory: string, seed: number): Promise<StoreModel> {
    return new StoreModel(directory, await VolumeStore.open({ directory, overcommitRatio: 1e6 }), seed);
  }

  /** One random verb, on the store and on the arrays. */
  async step(): Promise<void> {
    const verbs: [string, number, () => Promise<boolean>][] = [
      ['create', 3, () => this.create()],
      ['write', 30, () => this.change('write')],
      ['discard', 10, () => this.change('discard')],
      ['zero', 5, () => this.change('zero')],
      ['snapshot', 8, () => this.snapshot(1)],
      ['group snapshot', 3, () => this.snapshot(3)],
      ['clone', 4, () => this.clone()],
      ['clone of a volume', 2, () => this.cloneVolume()],
      ['revert', 3, () => this.revert()],
      ['delete volume', 3, () => this.deleteVolume()],
      ['delete snapshot', 7, () => this.deleteSnapshot()],
      ['coalesce', 5, () => this.coalesce()],
      ['coalesce meanwhile', 4, () => this.coalesceMeanwhile()],
      ['grow', 2, () => this.grow()],
      ['attach or detach', 8, () => this.toggle()],
      ['reopen', 1, () => this.reopen()],
      ['read', 20, () => this.read()],
    ];
    let at = this.random(verbs.reduce((sum, [, weight]) => sum + weight, 0));
    for (const [name, weight, verb] of verbs) {
      at -= weight;
      if (at >= 0) continue;
      if (await verb()) this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
      return;
    }
  }

  /** Compares every byte of every volume and snapshot; throws where one differs. */
  async verify(): Promise<void> {
    await this.background;
    for (const [id, bytes] of this.volumes)
      await this.compare(id, await this.imageOf(id), bytes, 0, bytes.length);
    for (const [id, { bytes }] of this.snapshots) {
      const image = await VolumeImage.open(this.store.snapshots.chain(id), { readOnly: true });
      await this.compare(id, image, bytes, 0, bytes.length);
      await image.close();
    }
  }

  /** Deletes everything, in any order, and folds what is left; the pool has no layer then. */
  async clear(): Promise<void> {
    await this.background;
    while (this.volumes.size + this.snapshots.size > 0) {
      if (this.random(2) === 0) await this.deleteVolume();
      else await this.deleteSnapshot();
      if (this.random(4) === 0) {
        await this.store.coalescer.run();
        await this.verify();
      }
    }
    await this.store.coalescer.run();
  }

  async close(): Promise<void> {
    await this.background.catch(() => undefined);
    for (const id of [...this.images.keys()]) await this.detach(id);
    await this.store.close();
  }

  private async create(): Promise<boolean> {
    if (this.volumes.size >= MAX_VOLUMES) return false;
    return this.made(async (volumeId) => {
      await this.store.create({ volumeId, sizeBytes: START_BYTES });
      this.volumes.set(volumeId, new Uint8Array(START_BYTES));
    });
  }

  private async change(verb: 'write' | 'discard' | 'zero'): Promise<boolean> {
    const id = this.pick(this.volumes);
    if (id === undefined) return false;
    const bytes = this.volumes.get(id)!;
    const sectors = bytes.length / SECTOR;
    const start = this.random(sectors) * SECTOR;
    const most = this.random(10) === 0 ? sectors : 8 * (1 + this.random(12));
    const length = Math.min((1 + this.random(most)) * SECTOR, bytes.length - start);
    const image = await this.imageOf(id);
    this.value = (this.value % 255) + 1;
    if (verb === 'write') await image.writeAt(start, new Uint8Array(length).fill(this.value));
    else if (verb === 'discard') await image.discard(start, length);
    else await image.writeZeroes(start, length);
    bytes.fill(verb === 'write' ? this.value : 0, start, start + length);
    if (this.random(4) === 0) await image.flush();
    return true;
  }

  private async snapshot(most: number): Promise<boolean> {
    const ids = [...this.volumes.keys()].sort(() => this.random(3) - 1).slice(0, most);
    if (ids.length === 0 || this.snapshots.size + ids.length > MAX_SNAPSHOTS) return false;
    const requests = ids.map((volumeId) => ({ volumeId, snapshotId: this.newId('snap') }));
    const group = most > 1 ? { group: `group-${this.nextId}` } : {};
    const fail = this.random(10) === 0 && ids.some((id) => this.images.has(id));
    const switchHeads: SwitchHeads = async (switches) => {
      for (const [i, { volumeId, chain }] of switches.entries()) {
        if (fail && i === switches.length - 1)
          throw new StorageError('io', { op: 'switch', reason: 'asked for' });
        await this.images.get(volumeId)!.goOver(chain);
      }
    };
    try {
      await this.store.snapshots.take(requests, { switchHeads, ...group });
    } catch (error) {
      if (!fail) throw error;
      return true;
    }
    for (const { volumeId, snapshotId } of requests) {
      this.snapshots.set(snapshotId, { bytes: this.volumes.get(volumeId)!.slice(), volumeId });
    }
    return true;
  }

  private async clone(): Promise<boolean> {
    const snapshotId = this.pick(this.snapshots);
    if (snapshotId === undefined || this.volumes.size >= MAX_VOLUMES) return false;
    const { bytes } = this.snapshots.get(snapshotId)!;
    const sizeBytes = bytes.length + this.random(2) * 64 * BLOCK;
    return this.made(async (volumeId) => {
      await this.store.clones.fromSnapshot({ volumeId, snapshotId, sizeBytes });
      this.volumes.set(volumeId, grown(bytes, sizeBytes));
    });
  }

  private async cloneVolume(): Promise<boolean> {
    const sourceVolumeId = this.pick(this.volumes);
    if (sourceVolumeId === undefined || this.volumes.size >= MAX_VOLUMES) return false;
    return this.made(async (volumeId) => {
      const switchHeads: SwitchHeads = ([only]) => this.images.get(sourceVolumeId)!.goOver(only!.chain);
      await this.store.clones.ofVolume({ volumeId, sourceVolumeId }, { switchHeads });
      this.volumes.set(volumeId, this.volumes.get(sourceVolumeId)!.slice());
    });
  }

  private async revert(): Promise<boolean> {
    const snapshotId = this.pick(this.snapshots);
    if (snapshotId === undefined) return false;
    const { bytes, volumeId } = this.snapshots.get(snapshotId)!;
    const now = this.volumes.get(volumeId);
    if (!now) return false;
    await this.detach(volumeId);
    await this.store.clones.revert(volumeId, snapshotId);
    this.volumes.set(volumeId, grown(bytes, now.length));
    return true;
  }

  private async deleteVolume(): Promise<boolean> {
    const id = this.pick(this.volumes);
    if (id === undefined) return false;
    await this.detach(id);
    await this.store.delete(id);
    this.volumes.delete(id);
    return true;
  }

  private async deleteSnapshot(): Promise<boolean> {
    const id = this.pick(this.snapshots);
    if (id === undefined) return false;
    await this.store.snapshots.delete(id);
    this.snapshots.delete(id);
    return true;
  }

  private async coalesce(): Promise<boolean> {
    await this.background;
    const signal = new AbortController();
    const progress = this.random(3);
    let steps = 0;
    await this.store.coalescer.run({
      signal: signal.signal,
      onProgress: () => {
        steps += 1;
        if (progress === 0 && steps === 2) signal.abort();
      },
    });
    return true;
  }

  private async coalesceMeanwhile(): Promise<boolean> {
    await this.background;
    this.background = this.store.coalescer.run({ bytesPerSecond: 64 * 2 ** 20 });
    this.background.catch(() => undefined);
    return true;
  }

  private async grow(): Promise<boolean> {
    const id = this.pick(this.volumes);
    if (id === undefined) return false;
    const before = this.volumes.get(id)!;
    const sizeBytes = before.length + (1 + this.random(64)) * BLOCK;
    if (sizeBytes > MAX_BYTES) return false;
    await this.store.grow(id, sizeBytes);
    await this.images.get(id)?.grow(sizeBytes);
    this.volumes.set(id, grown(before, sizeBytes));
    return true;
  }

  private async toggle(): Promise<boolean> {
    const id = this.pick(this.volumes);
    if (id === undefined) return false;
    if (this.images.has(id)) await this.detach(id);
    else await this.imageOf(id);
    return true;
  }

  private async reopen(): Promise<boolean> {
    await this.close();
    this.store = await VolumeStore.open({ directory: this.directory, overcommitRatio: 1e6 });
    this.background = Promise.resolve();
    return true;
  }

  private async read(): Promise<boolean> {
    const id = this.pick(this.volumes);
    if (id === undefined) return false;
    const bytes = this.volumes.get(id)!;
    const start = this.random(bytes.length / SECTOR) * SECTOR;
    const length = Math.min((1 + this.random(200)) * SECTOR, bytes.length - start);
    await this.compare(id, await this.imageOf(id), bytes, start, length);
    return true;
  }

  private async compare(
    id: string,
    image: VolumeImage,
    bytes: Uint8Array,
    start: number,
    length: number,
  ): Promise<void> {
    if (image.sizeBytes !== bytes.length)
      throw new Error(`${id} has ${image.sizeBytes} bytes, not ${bytes.length}`);
    const seen = new Uint8Array(length);
    await image.readAt(start, seen);
    if (Buffer.compare(seen, bytes.subarray(start, start + length)) === 0) return;
    const at = seen.findIndex((byte, i) => byte !== bytes[start + i]);
    throw new Error(`${id} differs at block ${(start + at) / BLOCK}: ${seen[at]}, not ${bytes[start + at]}`);
  }

  private async imageOf(id: string): Promise<VolumeImage> {
    const open = this.images.get(id);
    if (open) return open;
    let image: VolumeImage | undefined;
    let opened: Promise<unknown> = Promise.resolve();
    const chain = await this.store.attach(id, {
      barrier: () => image?.barrier() ?? Promise.resolve(),
      chainChanged: async (chain) => {
        await opened;
        await image?.goOver(chain);
      },
    });
    opened = VolumeImage.open(chain, { mapBytes: 4096 }).then((made) => (image = made));
    await opened;
    this.images.set(id, image!);
    return image!;
  }

  private async detach(id: string): Promise<void> {
    const image = this.images.get(id);
    if (!image) return;
    this.images.delete(id);
    await image.close();
    await this.store.detach(id);
  }

  private async made(make: (volumeId: string) => Promise<void>): Promise<boolean> {
    await make(this.newId('vol'));
    return true;
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

const grown = (bytes: Uint8Array, length: number): Uint8Array => {
  const out = new Uint8Array(length);
  out.set(bytes);
  return out;
};
