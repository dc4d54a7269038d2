import { createHash } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import {
  checkPool,
  describeFinding,
  SNAPSHOT_BLOCK_BYTES,
  StorageError,
  type SwitchHeads,
  type VolumeChain,
  VolumeImage,
  VolumeStore,
} from '@cairn/storage';
import { FailingDisk, seeded } from '@cairn/storage/testing';
import { expectSame, isFull, type ModelSnapshot, pickOf } from './store-checks.js';
import { BLOCK, Content, patternOf, SECTOR } from './volume-content.js';

const MAX_VOLUMES = 6;
const MAX_SNAPSHOTS = 12;
/** Most volumes are small, so that all is compared often; some go over the windows in which the store works. */
const [SMALL_BYTES, LARGE_BYTES] = [2 ** 20, 9 * 2 ** 20];
const GROWTH_BYTES = 2 * 2 ** 20;
const WINDOW_BYTES = 4 * 2 ** 20;
/** So few that chunks of a large volume are dropped and looked up again. */
const MAP_BYTES = 2048;
export type Verb = () => Promise<void>;

/** The verbs of a store, each done on plain byte arrays, too. */
export class ModelVerbs {
  readonly volumes = new Map<string, Content>();
  readonly snapshots = new Map<string, ModelSnapshot>();
  readonly images = new Map<string, VolumeImage>();
  /** What each image was told to read from. */
  readonly chains = new Map<string, VolumeChain>();
  readonly disk = new FailingDisk();
  readonly random: (below: number) => number;
  store!: VolumeStore;
  background: Promise<unknown> = Promise.resolve();
  /** What the verb that runs names, and what that may be when it ends half-way; `undefined` is gone. */
  intended = {
    volumes: new Map<string, { content: Content | undefined; before: string }>(),
    snapshots: new Map<string, ModelSnapshot | undefined>(),
  };
  private nextId = 1;
  private value = 1;

  private constructor(
    readonly directory: string,
    seed: number,
  ) {
    this.random = seeded(seed);
  }

  static async open(directory: string, seed: number): Promise<ModelVerbs> {
    const verbs = new ModelVerbs(directory, seed);
    await verbs.openStore();
    return verbs;
  }

  async close(): Promise<void> {
    await this.background.catch(() => undefined);
    for (const id of [...this.images.keys()]) await this.detach(id);
    await this.store.close();
  }

  // ---- volumes ----------------------------------------------------------------------------------------------------

  async create(): Promise<void> {
    if (this.volumes.size >= MAX_VOLUMES) return;
    const content = Content.empty(this.random(3) === 0 ? LARGE_BYTES : SMALL_BYTES);
    const volumeId = this.willHave('vol', content);
    await this.store.create({ volumeId, sizeBytes: content.sizeBytes });
    this.volumes.set(volumeId, content);
  }

  async change(verb: 'write' | 'discard' | 'zero'): Promise<void> {
    const id = this.pick(this.volumes);
    if (id === undefined) return;
    const content = this.volumes.get(id)!;
    const [start, length] = this.rangeOf(content);
    const image = await this.imageOf(id);
    this.value = (this.value % 255) + 1;
    const data = patternOf(this.value, start, length);
    const work = (): Promise<void> => {
      if (verb === 'write') return image.writeAt(start, data);
      return verb === 'discard' ? image.discard(start, length) : image.writeZeroes(start, length);
    };
    await work().catch((error: unknown) => {
      if (!isFull(error)) throw error;
      // Space is there again: the guest's request goes on, and nothing of the volume is lost.
      this.disk.heal();
      return work();
    });
    if (verb === 'write') content.write(start, data);
    else content.zero(start, length);
    if (this.random(4) === 0) await image.flush();
  }

  async grow(): Promise<void> {
    const id = this.pick(this.volumes);
    const before = this.volumes.get(id ?? '');
    if (id === undefined || !before) return;
    const sizeBytes = before.sizeBytes + (1 + this.random(64)) * BLOCK;
    const first = before.sizeBytes >= LARGE_BYTES ? LARGE_BYTES : SMALL_BYTES;
    if (sizeBytes > first + GROWTH_BYTES) return;
    const content = before.copy(sizeBytes);
    this.intend(id, content);
    await this.store.grow(id, sizeBytes);
    await this.images.get(id)?.grow(sizeBytes);
    this.volumes.set(id, content);
  }

  async clone(): Promise<void> {
    const snapshotId = this.pick(this.snapshots);
    if (snapshotId === undefined || this.volumes.size >= MAX_VOLUMES) return;
    const { content } = this.snapshots.get(snapshotId)!;
    const copy = content.copy(content.sizeBytes + this.random(2) * 64 * BLOCK);
    const volumeId = this.willHave('vol', copy);
    await this.store.clones.fromSnapshot({ volumeId, snapshotId, sizeBytes: copy.sizeBytes });
    this.volumes.set(volumeId, copy);
  }

  async cloneVolume(): Promise<void> {
    const sourceVolumeId = this.pick(this.volumes);
    if (sourceVolumeId === undefined || this.volumes.size >= MAX_VOLUMES) return;
    const copy = this.volumes.get(sourceVolumeId)!.copy();
    const volumeId = this.willHave('vol', copy);
    const switchHeads: SwitchHeads = ([only]) => this.goOver(sourceVolumeId, only!.chain);
    await this.store.clones.ofVolume({ volumeId, sourceVolumeId }, { switchHeads });
    this.volumes.set(volumeId, copy);
  }

  async revert(): Promise<void> {
    const snapshotId = this.pick(this.snapshots);
    const { content, volumeId = '' } = this.snapshots.get(snapshotId ?? '') ?? {};
    const now = this.volumes.get(volumeId);
    if (snapshotId === undefined || !content || !now) return;
    await this.detach(volumeId);
    const reverted = content.copy(now.sizeBytes);
    this.intend(volumeId, reverted);
    await this.store.clones.revert(volumeId, snapshotId);
    this.volumes.set(volumeId, reverted);
  }

  async deleteVolume(): Promise<void> {
    const id = this.pick(this.volumes);
    if (id === undefined) return;
    await this.detach(id);
    this.intend(id, undefined);
    await this.store.delete(id);
    this.volumes.delete(id);
  }

  // ---- snapshots --------------------------------------------------------------------------------------------------

  async snapshot(most: number): Promise<void> {
    const ids = [...this.volumes.keys()].sort(() => this.random(3) - 1).slice(0, most);
    if (ids.length === 0 || this.snapshots.size + ids.length > MAX_SNAPSHOTS) return;
    const requests = ids.map((volumeId) => ({ volumeId, snapshotId: this.newId('snap') }));
    for (const { volumeId, snapshotId } of requests)
      this.intended.snapshots.set(snapshotId, { content: this.volumes.get(volumeId)!.copy(), volumeId });
    const group = most > 1 ? { group: `group-${this.nextId}` } : {};
    const fail = this.random(10) === 0 && ids.some((id) => this.images.has(id));
    const switchHeads: SwitchHeads = async (switches) => {
      for (const [i, { volumeId, chain }] of switches.entries()) {
        if (fail && i === switches.length - 1)
          throw new StorageError('io', { op: 'switch', reason: 'asked for' });
        await this.goOver(volumeId, chain);
      }
    };
    try {
      await this.store.snapshots.take(requests, { switchHeads, ...group });
    } catch (error) {
      if (!fail || !(error instanceof StorageError) || error.details.op !== 'switch') throw error;
      return;
    }
    for (const { snapshotId } of requests)
      this.snapshots.set(snapshotId, this.intended.snapshots.get(snapshotId)!);
  }

  /** A snapshot of blocks that come from outside, over another one or over nothing. */
  async writeSnapshot(): Promise<void> {
    if (this.snapshots.size >= MAX_SNAPSHOTS) return;
    const parentSnapshotId = this.random(2) === 0 ? undefined : this.pick(this.snapshots);
    const content = this.snapshots.get(parentSnapshotId ?? '')?.content.copy() ?? Content.empty(SMALL_BYTES);
    const snapshotId = this.newId('snap');
    this.intended.snapshots.set(snapshotId, { content, volumeId: undefined });
    const { snapshotWriter } = this.store;
    const { sizeBytes } = content;
    await snapshotWriter.start({
      snapshotId,
      sizeBytes,
      ...(parentSnapshotId !== undefined && { parentSnapshotId }),
    });
    const all = Array.from({ length: Math.ceil(sizeBytes / SNAPSHOT_BLOCK_BYTES) }, (_, index) => index);
    const put = all.filter(() => this.random(all.length) < 2);
    const sum = createHash('sha256');
    for (const index of put) {
      const offset = index * SNAPSHOT_BLOCK_BYTES;
      this.value = (this.value % 255) + 1;
      const data = patternOf(this.value, offset, Math.min(SNAPSHOT_BLOCK_BYTES, sizeBytes - offset));
      const digest = createHash('sha256').update(data).digest();
      content.write(offset, data);
      await snapshotWriter.putBlock(snapshotId, index, data, digest.toString('base64'));
      sum.update(digest);
    }
    const checksum = sum.digest('base64');
    await snapshotWriter.complete(snapshotId, { changedBlocks: put.length, checksum });
    this.snapshots.set(snapshotId, { content, volumeId: undefined });
  }

  async deleteSnapshot(): Promise<void> {
    const id = this.pick(this.snapshots);
    if (id === undefined) return;
    this.intended.snapshots.set(id, undefined);
    await this.store.snapshots.delete(id);
    this.snapshots.delete(id);
  }

  // ---- the pool ---------------------------------------------------------------------------------------------------

  async coalesce(): Promise<void> {
    const signal = new AbortController();
    const stopAt = this.random(3) === 0 ? 2 : Number.POSITIVE_INFINITY;
    let steps = 0;
    const onProgress = (): void => {
      steps += 1;
      if (steps === stopAt) signal.abort();
    };
    await this.store.coalescer.run({ signal: signal.signal, onProgress });
  }

  async coalesceMeanwhile(): Promise<void> {
    await this.background;
    this.background = this.store.coalescer.run({ bytesPerSecond: 64 * 2 ** 20 });
    this.background.catch(() => undefined);
  }

  async scrub(): Promise<void> {
    const { damaged } = await this.store.scrub();
    if (damaged.length > 0) throw new Error(`called damaged: ${JSON.stringify(damaged)}`);
  }

  async toggle(): Promise<void> {
    const id = this.pick(this.volumes);
    if (id === undefined) return;
    if (this.images.has(id)) await this.detach(id);
    else await this.imageOf(id);
  }

  async reopen(): Promise<void> {
    await this.background;
    await this.close();
    const { findings } = await checkPool(this.directory, { scrub: true });
    const wrong = findings.filter(({ severity }) => severity !== 'notice').map(describeFinding);
    if (wrong.length > 0) throw new Error(wrong.join('; '));
    await this.openStore();
  }

  async read(): Promise<void> {
    const id = this.pick(this.volumes);
    if (id === undefined) return;
    const { bytes } = this.volumes.get(id)!;
    const start = this.random(bytes.length / SECTOR) * SECTOR;
    const length = Math.min((1 + this.random(200)) * SECTOR, bytes.length - start);
    await expectSame(id, await this.imageOf(id), bytes, start, length);
  }

  /** The volume is to be so, or gone, when the verb that runs has ended. */
  private intend(id: string, content: Content | undefined): void {
    this.intended.volumes.set(id, { content, before: this.stateOf(id) });
  }

  /** What is another for a volume after each verb that makes, reverts, grows or removes it. */
  stateOf(id: string): string {
    const volume = this.store.find(id);
    return volume ? `${this.store.chain(id).layers.at(-1)!.id} ${volume.sizeBytes}` : 'gone';
  }

  async openStore(): Promise<void> {
    const { directory, disk } = this;
    this.store = await VolumeStore.open({ directory, disk, overcommitRatio: 1e6 });
  }

  // ---- what verbs share -------------------------------------------------------------------------------------------

  async imageOf(id: string): Promise<VolumeImage> {
    const open = this.images.get(id);
    if (open) return open;
    let image: VolumeImage | undefined;
    let opened: Promise<unknown> = Promise.resolve();
    const chain = await this.store.attach(id, {
      barrier: () => image?.barrier() ?? Promise.resolve(),
      chainChanged: async (changed) => {
        await opened;
        this.chains.set(id, changed);
        await image?.goOver(changed);
      },
    });
    this.chains.set(id, chain);
    const options = { mapBytes: MAP_BYTES, disk: this.disk };
    opened = VolumeImage.open(chain, options).then((made) => (image = made));
    await opened;
    this.images.set(id, image!);
    return image!;
  }

  /** A switch takes its time now and then: a fold under way meets it. */
  private async goOver(id: string, chain: VolumeChain): Promise<void> {
    if (this.random(3) === 0) await setTimeout(this.random(8));
    this.chains.set(id, chain);
    await this.images.get(id)!.goOver(chain);
  }

  async detach(id: string): Promise<void> {
    const image = this.images.get(id);
    if (!image) return;
    this.images.delete(id);
    await image.close();
    await this.store.detach(id);
  }

  /** A range of sectors; in a large volume most often at the edge of a window. */
  private rangeOf({ sizeBytes }: Content): [start: number, length: number] {
    const sectors = sizeBytes / SECTOR;
    const edge = sizeBytes >= LARGE_BYTES && this.random(4) > 0;
    const near = (1 + this.random(2)) * WINDOW_BYTES - this.random(24 * 8) * SECTOR;
    const start = edge ? near : this.random(sectors) * SECTOR;
    const most = this.random(10) === 0 ? sectors : 8 * (1 + this.random(12));
    return [start, Math.min((1 + this.random(most)) * SECTOR, sizeBytes - start)];
  }

  private willHave(prefix: string, content: Content): string {
    const id = this.newId(prefix);
    this.intend(id, content);
    return id;
  }

  private newId(prefix: string): string {
    const id = `${prefix}-${this.nextId.toString(16).padStart(16, '0')}`;
    this.nextId += 1;
    return id;
  }

  private pick(from: ReadonlyMap<string, unknown>): string | undefined {
    return pickOf(from, this.random);
  }

  async pickWeighted(verbs: readonly [weight: number, verb: Verb][]): Promise<void> {
    let at = this.random(verbs.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, verb] of verbs) {
      at -= weight;
      if (at < 0) return verb();
    }
    return undefined;
  }
}
