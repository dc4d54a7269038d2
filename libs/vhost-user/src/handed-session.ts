import { FeatureSet } from '@cairn/virtio';
import type { FrontEndMemory } from './front-end-memory.js';
import type { FdList, HandedReader, HandedValue } from './handed-state.js';
import { MAX_MEMORY_SLOTS } from './messages.js';
import type { RingSet } from './ring-set.js';
import type { SharedAreas } from './shared-areas.js';
import { VhostUserError } from './vhost-user-error.js';

/** What a session has of its front-end besides the connection. */
export interface SessionParts {
  memory: FrontEndMemory;
  areas: SharedAreas;
  rings: RingSet;
}

/** What a front-end has told of itself. */
export interface Told {
  protocolFeatures: number;
  status: number;
  backendFd: number | undefined;
  logFd: number | undefined;
}

const U32 = 0xffffffff;
const MAX_RINGS = 256; // SET_VRING_KICK names a ring in 8 bits

/** What a successor needs to go on with a front-end whose rings stand still. */
export const stateOfParts = (
  { memory, areas, rings }: SessionParts,
  { protocolFeatures, status, backendFd, logFd }: Told,
  list: FdList,
): Record<string, HandedValue> => ({
  features: { low: rings.features.low, high: rings.features.high },
  protocolFeatures,
  status,
  regions: memory.state(list),
  areas: areas.state(list),
  rings: rings.state(list),
  ...list.entry('backendFd', backendFd),
  ...list.entry('logFd', logFd),
});

/**
 * Reads all that `stateOfParts` wrote but its two descriptors, which the caller has taken. No ring is started.
 *
 * Throws HandedStateError or VhostUserError; whoever has the parts closes them.
 */
export const adoptParts = (
  reader: HandedReader,
  { memory, areas, rings }: SessionParts,
  offered: FeatureSet,
): { protocolFeatures: number; status: number } => {
  const words = reader.object('features');
  const features = FeatureSet.fromWords(
    words.integer('low', { max: U32 }),
    words.integer('high', { max: U32 }),
  );
  words.end();
  if (!features.isSubsetOf(offered)) {
    throw new VhostUserError('features-not-offered', { low: features.low, high: features.high });
  }
  rings.features = features;
  memory.adopt(reader.list('regions', MAX_MEMORY_SLOTS));
  areas.adopt(reader.object('areas'));
  rings.adopt(reader.list('rings', MAX_RINGS));
  const told = {
    protocolFeatures: reader.integer('protocolFeatures', { max: U32 }),
    status: reader.integer('status', { max: 0xff }),
  };
  reader.end();
  return told;
};
