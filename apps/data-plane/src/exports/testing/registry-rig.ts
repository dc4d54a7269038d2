import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exportStatusOf } from '@cairn/block-export/testing';
import type { RateLimits } from '@cairn/block-export';
import { AgentError } from '@cairn/agent';
import { MIB, type VolumeId } from '@cairn/domain';
import { type HeadSwitch, type LiveVolume, StorageError, type VolumeChain } from '@cairn/storage';
import { ExportRegistry } from '../export.registry.js';
import type { ExportReactor, VolumePool } from '../registry-parts.js';
import { VolumeStates } from '../volume-states.js';

/** A pool without files. */
export class MemoryPool implements VolumePool {
  readonly poolId = 'pool-0123456789abcdef';
  readonly attached = new Map<string, LiveVolume>();
  private readonly records = new Map<string, { id: string; sizeBytes: number; createdAt: string }>();

  async create({ volumeId, sizeBytes }: { volumeId: string; sizeBytes: number }) {
    const record = this.records.get(volumeId) ?? {
      id: volumeId,
      sizeBytes,
      createdAt: '2026-01-01T00:00:00.000Z',
    };
    if (record.sizeBytes !== sizeBytes) throw new StorageError('volume-size-mismatch', { op: 'create' });
    this.records.set(volumeId, record);
    return record;
  }
  find(volumeId: string) {
    return this.records.get(volumeId);
  }
  list() {
    return [...this.records.values()];
  }
  async delete(volumeId: string) {
    this.records.delete(volumeId);
  }
  async attach(volumeId: string, live: LiveVolume): Promise<VolumeChain> {
    const record = this.records.get(volumeId);
    if (!record) throw new StorageError('volume-not-found', { op: 'attach' });
    if (this.attached.has(volumeId)) throw new StorageError('volume-in-use', { op: 'attach' });
    this.attached.set(volumeId, live);
    const { sizeBytes } = record;
    const layer = { id: 'lay-1', path: `/pool/${volumeId}`, sizeBytes, zeroMapOffsetBytes: undefined };
    return { volumeId, sizeBytes, layers: [layer] };
  }
  async detach(volumeId: string) {
    this.attached.delete(volumeId);
  }
  async grow(volumeId: string, sizeBytes: number) {
    const record = { ...this.records.get(volumeId)!, sizeBytes };
    this.records.set(volumeId, record);
    return record;
  }
  /** The reverts that were made, as `volume snapshot`. */
  readonly reverts: string[] = [];
  // Only the verbs of the cases below; what they do is tested with the store itself.
  readonly clones = {
    revert: async (volumeId: string, snapshotId: string) => {
      this.reverts.push(`${volumeId} ${snapshotId}`);
      return { ...this.records.get(volumeId)!, headLayer: 'lay' };
    },
  } as unknown as VolumePool['clones'];
  async allocatedBytes() {
    return 0;
  }
  async capacity() {
    return { totalBytes: 100 * MIB, freeBytes: 50 * MIB, provisionedBytes: 0 };
  }
}

/** A reactor that serves nobody: it knows what it listens on and what a test connected. */
export class IdleReactor implements ExportReactor {
  readonly listening = new Set<string>();
  readonly connected = new Set<string>();
  readonly calls: string[] = [];
  readonly limits = new Map<string, RateLimits | undefined>();
  failNext: Error | undefined;
  /** Why the flush at the end of the next export that goes has failed. */
  lossNext: string | undefined;
  /** Held open by a test to look at what happens meanwhile. */
  gate: Promise<void> = Promise.resolve();

  async resizeExport(id: string, sizeBytes: number) {
    this.calls.push(`resize ${id} ${sizeBytes}`);
  }
  async addExport({ id, limits }: { id: string; limits?: RateLimits }) {
    this.calls.push(`add ${id}`);
    this.limits.set(id, limits);
    await this.gate;
    const failure = this.failNext;
    this.failNext = undefined;
    if (failure) throw failure;
    this.listening.add(id);
  }
  /** The exports that came and went. */
  get listened() {
    return this.calls.filter((call) => /^(add|remove) /.test(call));
  }
  async removeExport(id: string) {
    if (!this.listening.has(id)) return undefined;
    this.calls.push(`remove ${id}`);
    this.listening.delete(id);
    this.connected.delete(id);
    const loss = this.lossNext;
    this.lossNext = undefined;
    return loss;
  }
  async switchHeads(switches: readonly HeadSwitch[]) {
    this.calls.push(`switch ${switches.map(({ volumeId: id }) => id).join(' ')}`);
    return { frozenMicros: 1500, flushMicros: 1000 };
  }
  async changeChain({ volumeId: id }: VolumeChain) {
    this.calls.push(`change ${id}`);
  }
  async barrier(id: string) {
    this.calls.push(`barrier ${id}`);
  }
  limitExport(id: string, limits: RateLimits | undefined) {
    this.limits.set(id, limits);
  }
  async resumeExport(id: string) {
    this.calls.push(`resume ${id}`);
  }
  async releaseExport(id: string) {
    this.calls.push(`release ${id}`);
    this.listening.delete(id);
  }
  async status(id: string) {
    if (!this.listening.has(id)) return undefined;
    return exportStatusOf(id, { connected: this.connected.has(id) });
  }
  async statuses() {
    return (await Promise.all([...this.listening].map((id) => this.status(id)))).filter(
      (each) => each !== undefined,
    );
  }
}

export const volumeId: VolumeId = 'vol-0123456789abcdef';
export const request = {
  attachmentId: 'att-0123456789abcdef',
  generation: 1,
  readOnly: false,
  numQueues: 1,
} as const;
export const newer = { ...request, attachmentId: 'att-00000000000000ff', generation: 2 } as const;

/** A node with one volume, as the tests of its registry find it. */
export class RegistryRig {
  readonly pool = new MemoryPool();
  reactor!: IdleReactor;
  registry!: ExportRegistry;

  private constructor(readonly directory: string) {}

  static async make(): Promise<RegistryRig> {
    const rig = new RegistryRig(await mkdtemp(join(tmpdir(), 'cairn-registry-')));
    await rig.restart();
    await rig.registry.putVolume(volumeId, { sizeBytes: MIB });
    return rig;
  }

  /** Another process: nothing listens, the disk is as it was. */
  async restart(): Promise<void> {
    this.reactor = new IdleReactor();
    await this.openAnew();
  }

  /** The same process opens the node once more, while the reactor serves what it did. */
  async openAnew(): Promise<void> {
    const { directory, pool, reactor } = this;
    const states = await VolumeStates.open(directory);
    const settings = { socketDirectory: directory, cache: 'writeback' } as const;
    this.registry = new ExportRegistry({ pool, reactor, states, settings });
  }

  async remove(): Promise<void> {
    await rm(this.directory, { recursive: true });
  }
}

/** The code with which a verb is refused. */
export const codeOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => 'done',
    (error: unknown) => (error instanceof AgentError ? error.code : String(error)),
  );
