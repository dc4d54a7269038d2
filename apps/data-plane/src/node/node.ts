import { mkdir } from 'node:fs/promises';
import { armFaultPoints, isId, type FaultPoints, type NodeId, type PoolId } from '@cairn/domain';
import { Reactors } from '@cairn/block-export';
import { STEPS, VolumeStore, type Step } from '@cairn/storage';
import type { DataPlaneConfig } from '../config.js';
import { ExportRegistry } from '../exports/export.registry.js';
import { startRefusalOf } from '../exports/storage-refusals.js';
import { VolumeStates } from '../exports/volume-states.js';
import { Coalescing } from '../snapshots/coalescing.js';
import { NodeSnapshots } from '../snapshots/node-snapshots.js';
import { UsageMeter } from '../snapshots/usage-meter.js';
import { StartRefused } from '../start-refused.js';
import { openNodeIdentity } from './node.identity.js';
import { PoolSpaceWatch } from './pool-space.js';

/** What the data plane serves with, open and restored. */
export interface OpenNode {
  readonly nodeId: NodeId;
  readonly poolId: PoolId;
  readonly store: VolumeStore;
  readonly reactor: Reactors;
  readonly registry: ExportRegistry;
  readonly snapshots: NodeSnapshots;
  readonly coalescing: Coalescing;
  readonly usage: UsageMeter;
  /** Drains the rings and lets go of the pool. */
  close(): Promise<void>;
}

/** How long a stop waits for requests that the disk has not completed. */
const drainTimeoutMs = 10_000;

/** Layers that could not be folded while a guest wrote to them are looked at again this often. */
const coalesceIntervalMs = 60_000;

/** Free space is looked at this often. */
const spaceIntervalMs = 10_000;

const storeFault = (step: Step) => `store.${step}` as const;

/**
 * Opens the pool, re-opens every export, and only then returns.
 *
 * Throws StartRefused for whatever an operator must put right first; nothing is left open then.
 */
export async function openNode(config: DataPlaneConfig): Promise<OpenNode> {
  const kill = () => void process.kill(process.pid, 'SIGKILL');
  const faultPoints = armFaultPoints(process.env, kill, STEPS.map(storeFault));
  const store = await openStore(config, faultPoints);
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
    const reactor = await Reactors.start({ reactors: config.reactors, pollMicros: config.pollMicros });
    const registry = new ExportRegistry({
      pool: store,
      reactor,
      states,
      faultPoints,
      settings: { socketDirectory: config.socketDirectory, cache: config.cache },
    });
    await registry.restore();
    const coalescing = new Coalescing(store, {
      bytesPerSecond: config.coalesceBytesPerSecond,
      intervalMs: coalesceIntervalMs,
    });
    const deleted = () => coalescing.start();
    const snapshots = new NodeSnapshots({ pool: store, exports: registry, deleted, faultPoints });
    // What a crash interrupted goes on.
    coalescing.start();
    const usage = new UsageMeter(store, config.usageMs);
    usage.start();
    const space = new PoolSpaceWatch(store, {
      lowPercent: config.lowSpacePercent,
      intervalMs: spaceIntervalMs,
    });
    space.start();
    const close = async (): Promise<void> => {
      space.stop();
      await coalescing.stop();
      await usage.stop();
      await reactor.stop({ drainTimeoutMs });
      await store.close();
    };
    return { nodeId, poolId, store, reactor, registry, snapshots, coalescing, usage, close };
  } catch (error) {
    await store.close();
    throw error;
  }
}

async function openStore(
  { poolDirectory, overcommitRatio }: DataPlaneConfig,
  faultPoints: FaultPoints,
): Promise<VolumeStore> {
  try {
    const onStep = (step: Step): void => faultPoints.reach(storeFault(step));
    return await VolumeStore.open({ directory: poolDirectory, overcommitRatio, onStep });
  } catch (error) {
    throw startRefusalOf(error);
  }
}
