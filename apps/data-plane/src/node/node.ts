import { mkdir } from 'node:fs/promises';
import { isId, type FaultPoints, type NodeId, type PoolId } from '@cairn/domain';
import type { Reactors } from '@cairn/block-export';
import { VolumeStore, type Step } from '@cairn/storage';
import type { DataPlaneConfig } from '../config.js';
import { ExportRegistry } from '../exports/export.registry.js';
import { startRefusalOf } from '../exports/storage-refusals.js';
import { VolumeStates } from '../exports/volume-states.js';
import { Coalescing } from '../snapshots/coalescing.js';
import { NodeSnapshots } from '../snapshots/node-snapshots.js';
import { SnapshotWriting } from '../snapshots/snapshot-writing.js';
import { UsageMeter } from '../snapshots/usage-meter.js';
import { StartRefused } from '../start-refused.js';
import { openNodeIdentity } from './node.identity.js';
import { PoolSpaceWatch } from './pool-space.js';

/** What the data plane knows of its volumes; the reactors serve them without it, too. */
export interface OpenNode {
  readonly nodeId: NodeId;
  readonly poolId: PoolId;
  readonly store: VolumeStore;
  readonly registry: ExportRegistry;
  readonly snapshots: NodeSnapshots;
  readonly writing: SnapshotWriting;
  readonly coalescing: Coalescing;
  readonly usage: UsageMeter;
  /** Begins what goes on in the background, once the exports are restored. */
  start(): void;
  /** Ends that, and lets go of the pool but for its lock, which the caller has from now on. */
  close(): Promise<number>;
}

/** Layers that could not be folded while a guest wrote to them are looked at again this often. */
const coalesceIntervalMs = 60_000;

/** Free space is looked at this often. */
const spaceIntervalMs = 10_000;

/** Snapshots into which nothing was put for too long are looked for this often. */
const expiryIntervalMs = 1000;

/** The name under which a crash test knows a step of the store. */
export const storeFault = (step: Step) => `store.${step}` as const;

/**
 * Opens the pool and what is remembered of exports; `restore` of the registry serves them. `lockFd`: see VolumeStore.
 *
 * Throws StartRefused for whatever an operator must put right first; nothing is left open then.
 */
export async function openNode(
  config: DataPlaneConfig,
  reactor: Reactors,
  { lockFd, faultPoints }: { lockFd?: number | undefined; faultPoints: FaultPoints },
): Promise<OpenNode> {
  const store = await openStore(config, { lockFd, faultPoints });
  try {
    const { poolId } = store;
    if (!isId('pool', poolId)) {
      throw new StartRefused(
        `${config.poolDirectory} calls itself ${poolId}`,
        'put the pool back from a backup',
      );
    }
    const nodeId = await openNodeIdentity(config.stateDirectory, poolId);
    const states = await VolumeStates.open(config.stateDirectory);
    await mkdir(config.socketDirectory, { recursive: true, mode: 0o750 });
    const registry = new ExportRegistry({
      pool: store,
      reactor,
      states,
      faultPoints,
      settings: { socketDirectory: config.socketDirectory, cache: config.cache },
    });
    const coalescing = new Coalescing(store, {
      bytesPerSecond: config.coalesceBytesPerSecond,
      requestsInFlight: () => reactor.requestsInFlight(),
      intervalMs: coalesceIntervalMs,
    });
    const deleted = () => coalescing.start();
    const snapshots = new NodeSnapshots({ pool: store, exports: registry, deleted, faultPoints });
    const writing = new SnapshotWriting({
      pool: store,
      secret: config.heartbeat?.joinToken,
      intervalMs: expiryIntervalMs,
      faultPoints,
    });
    const usage = new UsageMeter(store, config.usageMs);
    const space = new PoolSpaceWatch(store, {
      lowPercent: config.lowSpacePercent,
      intervalMs: spaceIntervalMs,
    });
    const start = (): void => {
      // What a crash interrupted goes on, too.
      coalescing.start();
      usage.start();
      writing.startExpiry();
      space.start();
    };
    const close = async (): Promise<number> => {
      space.stop();
      await coalescing.stop();
      await writing.stopExpiry();
      await usage.stop();
      return store.closeKeepingLock();
    };
    return { nodeId, poolId, store, registry, snapshots, writing, coalescing, usage, start, close };
  } catch (error) {
    await store.close();
    throw error;
  }
}

async function openStore(
  { poolDirectory, overcommitRatio }: DataPlaneConfig,
  { lockFd, faultPoints }: { lockFd: number | undefined; faultPoints: FaultPoints },
): Promise<VolumeStore> {
  try {
    const onStep = (step: Step): void => faultPoints.reach(storeFault(step));
    return await VolumeStore.open({ directory: poolDirectory, overcommitRatio, lockFd, onStep });
  } catch (error) {
    throw startRefusalOf(error);
  }
}
