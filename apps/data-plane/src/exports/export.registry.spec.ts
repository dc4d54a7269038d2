import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Logger } from '@nestjs/common';
import { AgentError } from '@cairn/agent';
import { NO_LIMITS, type RateLimits } from '@cairn/block-export';
import { exportStatusOf } from '@cairn/block-export/testing';
import { MIB, type VolumeId } from '@cairn/domain';
import { type HeadSwitch, type LiveVolume, StorageError, type VolumeChain } from '@cairn/storage';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ExportRegistry, type ExportReactor, type VolumePool } from './export.registry.js';
import { VolumeStates } from './volume-states.js';

/** A pool without files. */
class MemoryPool implements VolumePool {
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
class IdleReactor implements ExportReactor {
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

const volumeId: VolumeId = 'vol-0123456789abcdef';
const request = {
  attachmentId: 'att-0123456789abcdef',
  generation: 1,
  readOnly: false,
  numQueues: 1,
} as const;
const newer = { ...request, attachmentId: 'att-00000000000000ff', generation: 2 } as const;

let directory: string;
let pool: MemoryPool;
let reactor: IdleReactor;
let registry: ExportRegistry;

/** The same node after a restart: nothing listens, the disk is as it was. */
const restart = async () => {
  reactor = new IdleReactor();
  const states = await VolumeStates.open(directory);
  registry = new ExportRegistry({
    pool,
    reactor,
    states,
    settings: { socketDirectory: directory, cache: 'writeback' },
  });
};

const codeOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => 'done',
    (error: unknown) => (error instanceof AgentError ? error.code : String(error)),
  );

beforeEach(async () => {
  Logger.overrideLogger(false);
  directory = await mkdtemp(join(tmpdir(), 'cairn-registry-'));
  pool = new MemoryPool();
  await restart();
  await registry.putVolume(volumeId, { sizeBytes: MIB });
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(directory, { recursive: true });
});

describe('volumes of the registry', () => {
  it('makes a volume once and refuses it in another size', async () => {
    expect(await registry.putVolume(volumeId, { sizeBytes: MIB })).toMatchObject({
      id: volumeId,
      sizeBytes: MIB,
    });
    expect(await codeOf(registry.putVolume(volumeId, { sizeBytes: 2 * MIB }))).toBe('volume-size-mismatch');
    expect(await registry.listVolumes()).toHaveLength(1);
  });

  it('deletes a volume for good: a create that comes late is refused, after a restart too', async () => {
    await registry.deleteVolume(volumeId);
    await registry.deleteVolume(volumeId);
    expect(await codeOf(registry.getVolume(volumeId))).toBe('volume-not-found');
    expect(await codeOf(registry.putVolume(volumeId, { sizeBytes: MIB }))).toBe('volume-deleted');
    await restart();
    expect(await codeOf(registry.putVolume(volumeId, { sizeBytes: MIB }))).toBe('volume-deleted');
    expect(await codeOf(registry.putExport(volumeId, request))).toBe('volume-deleted');
  });

  it('does not delete a volume that is exported', async () => {
    await registry.putExport(volumeId, request);
    expect(await codeOf(registry.deleteVolume(volumeId))).toBe('volume-exported');
    await registry.deleteExport(volumeId, { generation: 1, force: false });
    expect(await codeOf(registry.deleteVolume(volumeId))).toBe('done');
  });
});

describe('changes of volumes of the registry', () => {
  const snapshotId = 'snap-0123456789abcdef';

  it('grows a volume, tells a guest also when it is asked again, and never shrinks one', async () => {
    await registry.putExport(volumeId, request);
    for (let i = 0; i < 2; i += 1) {
      expect(await registry.putSize(volumeId, { sizeBytes: 2 * MIB })).toMatchObject({ sizeBytes: 2 * MIB });
    }
    expect(reactor.calls.slice(1)).toEqual([1, 2].map(() => `resize ${volumeId} ${2 * MIB}`));
    expect(await codeOf(registry.putSize(volumeId, { sizeBytes: MIB }))).toBe('volume-size-mismatch');
    await registry.deleteExport(volumeId, { generation: 1, force: false });
    await registry.putSize(volumeId, { sizeBytes: 3 * MIB });
    expect(reactor.calls.filter((call) => call.startsWith('resize'))).toHaveLength(2);
  });

  it('reverts a volume once for each generation, also over restarts', async () => {
    await registry.putRevert(volumeId, { snapshotId, generation: 1 });
    await restart();
    expect(await codeOf(registry.putRevert(volumeId, { snapshotId, generation: 1 }))).toBe('done');
    expect(pool.reverts).toEqual([`${volumeId} ${snapshotId}`]);
    expect(await codeOf(registry.putExport(volumeId, request))).toBe('stale-generation');
  });

  it('does not undo what was written after a revert when that comes late', async () => {
    await registry.putExport(volumeId, newer);
    expect(await codeOf(registry.putRevert(volumeId, { snapshotId, generation: 3 }))).toBe('volume-exported');
    await registry.deleteExport(volumeId, { generation: 2, force: false });
    expect(await codeOf(registry.putRevert(volumeId, { snapshotId, generation: 1 }))).toBe(
      'stale-generation',
    );
    expect(pool.reverts).toEqual([]);
    expect(await codeOf(registry.putRevert(volumeId, { snapshotId, generation: 3 }))).toBe('done');
  });
});

describe('exports of the registry', () => {
  it('exports once and gives the same answer again', async () => {
    const answer = await registry.putExport(volumeId, request);
    expect(answer).toMatchObject({
      state: 'listening',
      generation: 1,
      connection: {
        type: 'vhost-user-blk',
        serial: volumeId,
        socketPath: join(directory, `${volumeId}.sock`),
      },
    });
    expect(await registry.putExport(volumeId, request)).toEqual(answer);
    expect(reactor.listened).toEqual([`add ${volumeId}`]);
  });

  it('does not export a volume it does not have', async () => {
    expect(await codeOf(registry.putExport('vol-00000000000000ff', request))).toBe('volume-not-found');
  });

  it('refuses a generation older than the newest, and lets a newer one cut the older', async () => {
    await registry.putExport(volumeId, request);
    reactor.connected.add(volumeId);
    expect(await registry.putExport(volumeId, newer)).toMatchObject({
      generation: 2,
      attachmentId: newer.attachmentId,
    });
    expect(reactor.listened).toEqual([`add ${volumeId}`, `remove ${volumeId}`, `add ${volumeId}`]);
    expect(await codeOf(registry.putExport(volumeId, request))).toBe('stale-generation');
    expect(await codeOf(registry.deleteExport(volumeId, { generation: 1, force: true }))).toBe(
      'stale-generation',
    );
  });

  it('refuses one generation for two attachments', async () => {
    await registry.putExport(volumeId, request);
    expect(await codeOf(registry.putExport(volumeId, { ...newer, generation: 1 }))).toBe('stale-generation');
  });

  it('closes a generation with its export: a put that comes late is refused, after a restart too', async () => {
    await registry.putExport(volumeId, newer);
    await registry.deleteExport(volumeId, { generation: 2, force: false });
    await registry.deleteExport(volumeId, { generation: 2, force: false });
    expect(await codeOf(registry.putExport(volumeId, newer))).toBe('stale-generation');
    await restart();
    expect(await codeOf(registry.putExport(volumeId, request))).toBe('stale-generation');
    expect(await codeOf(registry.putExport(volumeId, newer))).toBe('stale-generation');
    expect(await codeOf(registry.putExport(volumeId, { ...newer, generation: 3 }))).toBe('done');
  });

  it('closes a generation that was never exported, so that its put cannot overtake the delete', async () => {
    await registry.deleteExport(volumeId, { generation: 1, force: true });
    expect(await codeOf(registry.putExport(volumeId, request))).toBe('stale-generation');
  });

  it('keeps an export that a front-end is connected to, unless forced', async () => {
    await registry.putExport(volumeId, request);
    reactor.connected.add(volumeId);
    expect(await codeOf(registry.deleteExport(volumeId, { generation: 1, force: false }))).toBe(
      'export-busy',
    );
    expect(await registry.listExports()).toMatchObject([{ state: 'connected' }]);
    expect(await codeOf(registry.deleteExport(volumeId, { generation: 1, force: true }))).toBe('done');
    expect(await registry.listExports()).toEqual([]);
  });

  it('tells that the last flush has failed until the attachment is let go of by force', async () => {
    await registry.putExport(volumeId, request);
    reactor.lossNext = 'fdatasync failed with EIO';
    const remove = (force: boolean) => codeOf(registry.deleteExport(volumeId, { generation: 1, force }));
    expect(await remove(false)).toBe('export-failed');
    expect(await registry.listExports()).toMatchObject([
      { state: 'error', reason: 'fdatasync failed with EIO' },
    ]);
    expect(await remove(false)).toBe('export-failed');
    expect(pool.attached.has(volumeId)).toBe(false);
    expect(await remove(true)).toBe('done');
    expect(await registry.listExports()).toEqual([]);
    await registry.putExport(volumeId, newer);
    expect(await codeOf(registry.deleteExport(volumeId, { generation: 2, force: false }))).toBe('done');
  });

  it('holds nothing against an attachment that the one before it has lost', async () => {
    await registry.putExport(volumeId, request);
    reactor.lossNext = 'fdatasync failed with EIO';
    expect(await registry.putExport(volumeId, newer)).toMatchObject({ state: 'listening' });
    expect(await codeOf(registry.deleteExport(volumeId, { generation: 2, force: false }))).toBe('done');
  });

  it('reports an export that cannot listen, and listens when asked again', async () => {
    reactor.failNext = new Error('no descriptors left');
    expect(await codeOf(registry.putExport(volumeId, request))).toBe('export-failed');
    expect(await registry.listExports()).toMatchObject([{ state: 'error', reason: 'no descriptors left' }]);
    expect(await registry.putExport(volumeId, request)).toMatchObject({ state: 'listening' });
  });

  it('orders the verbs of one volume and runs those of different volumes at once', async () => {
    const other: VolumeId = 'vol-00000000000000ff';
    await registry.putVolume(other, { sizeBytes: MIB });
    let open: () => void = () => undefined;
    reactor.gate = new Promise((resolve) => (open = resolve));
    const put = registry.putExport(volumeId, request);
    const removal = registry.deleteExport(volumeId, { generation: 1, force: false });
    const again = codeOf(registry.putExport(volumeId, request));
    await registry.deleteVolume(other);
    expect(reactor.calls).not.toContain(`remove ${volumeId}`);
    open();
    await Promise.all([put, removal]);
    expect(await again).toBe('stale-generation');
    expect(reactor.listened).toEqual([`add ${volumeId}`, `remove ${volumeId}`]);
  });
});

describe('the chain of a volume that the registry serves', () => {
  it('is attached in the pool exactly while it is served', async () => {
    expect(pool.attached.has(volumeId)).toBe(false);
    await registry.putExport(volumeId, request);
    expect(pool.attached.has(volumeId)).toBe(true);
    await registry.putExport(volumeId, newer);
    expect(pool.attached.has(volumeId)).toBe(true);
    await registry.deleteExport(volumeId, { generation: 2, force: true });
    expect(pool.attached.has(volumeId)).toBe(false);
  });

  it('is not attached when it could not be served', async () => {
    reactor.failNext = new Error('no descriptors left');
    expect(await codeOf(registry.putExport(volumeId, request))).toBe('export-failed');
    expect(pool.attached.has(volumeId)).toBe(false);
  });

  it('stays attached while its rings do not stop', async () => {
    await registry.putExport(volumeId, request);
    vi.spyOn(reactor, 'removeExport').mockRejectedValueOnce(new Error('draining took too long'));
    expect(await codeOf(registry.deleteExport(volumeId, { generation: 1, force: true }))).toBe(
      'export-failed',
    );
    expect(pool.attached.has(volumeId)).toBe(true);
    expect(await codeOf(registry.deleteExport(volumeId, { generation: 1, force: true }))).toBe('done');
    expect(pool.attached.has(volumeId)).toBe(false);
  });

  it('is changed in the rings when the pool changes it', async () => {
    await registry.putExport(volumeId, request);
    const live = pool.attached.get(volumeId)!;
    await live.barrier();
    await live.chainChanged({ volumeId, sizeBytes: MIB, layers: [] });
    await registry.switchHeads([{ volumeId, chain: { volumeId, sizeBytes: MIB, layers: [] } }]);
    expect(reactor.calls.slice(1)).toEqual([
      `barrier ${volumeId}`,
      `change ${volumeId}`,
      `switch ${volumeId}`,
    ]);
  });
});

describe('limits of an export', () => {
  const slow = { ...NO_LIMITS, iops: 10 };

  it('hold at once, and over a restart', async () => {
    await registry.putExport(volumeId, request);
    const limited = await registry.putExportLimits(volumeId, { generation: 1, limits: { iops: 10 } });
    expect(limited).toMatchObject({ state: 'listening', limits: slow });
    expect(reactor.limits.get(volumeId)).toEqual(slow);
    // The same export asked for again keeps them.
    expect(await registry.putExport(volumeId, request)).toEqual(limited);
    await restart();
    await registry.restore();
    expect(reactor.limits.get(volumeId)).toEqual(slow);
    expect(await registry.listExports()).toEqual([limited]);
  });

  it('take the place of all there were, and are gone when they limit nothing', async () => {
    await registry.putExport(volumeId, request);
    await registry.putExportLimits(volumeId, { generation: 1, limits: { iops: 10 } });
    const burst = { bytesPerSecond: 4096, bytesBurst: 8192 };
    const answered = await registry.putExportLimits(volumeId, { generation: 1, limits: burst });
    expect(answered.limits).toEqual({ ...NO_LIMITS, ...burst, bytesBurstSeconds: 1 });
    const freed = await registry.putExportLimits(volumeId, { generation: 1, limits: {} });
    expect(freed).not.toHaveProperty('limits');
    expect(reactor.limits.get(volumeId)).toBeUndefined();
    await restart();
    await registry.restore();
    expect(reactor.limits.get(volumeId)).toBeUndefined();
  });

  it('end with the export', async () => {
    await registry.putExport(volumeId, request);
    await registry.putExportLimits(volumeId, { generation: 1, limits: { iops: 10 } });
    expect(await registry.putExport(volumeId, newer)).not.toHaveProperty('limits');
    expect(reactor.limits.get(volumeId)).toBeUndefined();
  });

  it('are refused under a generation that is over, or is not exported', async () => {
    const limit = (generation: number) =>
      codeOf(registry.putExportLimits(volumeId, { generation, limits: { iops: 10 } }));
    expect(await limit(1)).toBe('export-not-found');
    await registry.putExport(volumeId, newer);
    expect(await limit(1)).toBe('stale-generation');
    expect(await limit(3)).toBe('export-not-found');
    await registry.deleteExport(volumeId, { generation: 2, force: false });
    expect(await limit(2)).toBe('stale-generation');
    expect(reactor.limits.get(volumeId)).toBeUndefined();
  });

  it('are refused when they make no sense, and those before stay', async () => {
    await registry.putExport(volumeId, request);
    await registry.putExportLimits(volumeId, { generation: 1, limits: { iops: 10 } });
    for (const limits of [
      { iopsBurst: 5 },
      { iops: 9, iopsBurst: 9 },
      { iops: 2 ** 41 },
      { iopsUnitBytes: 1 },
    ])
      expect(await codeOf(registry.putExportLimits(volumeId, { generation: 1, limits }))).toBe(
        'invalid-argument',
      );
    expect(await registry.listExports()).toMatchObject([{ limits: slow }]);
  });
});

describe('restoring the registry', () => {
  it('listens again on everything that was exported', async () => {
    const before = await registry.putExport(volumeId, request);
    await restart();
    await registry.restore();
    expect([...reactor.listening]).toEqual([volumeId]);
    expect(await registry.listExports()).toEqual([before]);
  });

  it('serves the others when one export cannot be re-opened', async () => {
    const other: VolumeId = 'vol-00000000000000ff';
    await registry.putVolume(other, { sizeBytes: MIB });
    await registry.putExport(volumeId, request);
    await registry.putExport(other, newer);
    await pool.delete(volumeId);
    await restart();
    await registry.restore();
    const states = (await registry.listExports()).map((each) => [each.volumeId, each.state] as const);
    expect(new Map(states)).toEqual(
      new Map([
        [other, 'listening'],
        [volumeId, 'error'],
      ]),
    );
  });

  it('removes the socket that a killed process left of an export that is over', async () => {
    const socket = join(directory, `${volumeId}.sock`);
    const strangers = join(directory, 'vol-00000000000000ff.sock');
    await writeFile(socket, '');
    await writeFile(strangers, '');
    await registry.restore();
    expect([existsSync(socket), existsSync(strangers)]).toEqual([false, true]);
  });
});

describe('an export that a predecessor could not hand over', () => {
  it('is left alone until the predecessor has gone, and then opened anew', async () => {
    await registry.putExport(volumeId, request);
    pool.attached.clear();
    await restart();
    let end: () => void = () => undefined;
    const ended = new Promise<void>((resolve) => (end = resolve));
    await registry.restore({ take: () => Promise.resolve('kept'), gone: () => ended });

    expect(await registry.listExports()).toMatchObject([{ state: 'error' }]);
    await expect(pool.attached.get(volumeId)!.barrier()).rejects.toThrow('ran before');
    const chain = { volumeId, sizeBytes: MIB, layers: [] };
    await expect(registry.switchHeads([{ volumeId, chain }])).rejects.toThrow('ran before');
    expect(await codeOf(registry.deleteExport(volumeId, { generation: 1, force: true }))).toBe('volume-busy');
    expect(await codeOf(registry.putExport(volumeId, newer))).toBe('volume-busy');
    expect(reactor.listened).toEqual([]);

    end();
    await vi.waitFor(async () =>
      expect(await registry.listExports()).toMatchObject([{ state: 'listening' }]),
    );
    expect(reactor.listened).toEqual([`add ${volumeId}`]);
  });

  it('looks anew at what it is read from after a successor that has died', async () => {
    await registry.putExport(volumeId, request);
    pool.attached.clear();
    const states = await VolumeStates.open(directory);
    const settings = { socketDirectory: directory, cache: 'writeback' } as const;
    registry = new ExportRegistry({ pool, reactor, states, settings });
    await registry.restore();
    expect(reactor.calls).toContain(`change ${volumeId}`);
  });
});
