import type { Reactors } from '@cairn/block-export';
import type { FaultPoints } from '@cairn/domain';
import type { VolumeStore } from '@cairn/storage';
import type { Predecessor as WholePredecessor } from '../handover/handover.predecessor.js';
import type { VolumeStates } from './volume-states.js';

/** The part of the volume store that verbs use. */
export type VolumePool = Pick<
  VolumeStore,
  | 'create'
  | 'clones'
  | 'find'
  | 'grow'
  | 'list'
  | 'delete'
  | 'attach'
  | 'detach'
  | 'allocatedBytes'
  | 'capacity'
  | 'poolId'
>;

/** The part of the reactor that verbs use. */
export type ExportReactor = Pick<
  Reactors,
  | 'addExport'
  | 'removeExport'
  | 'limitExport'
  | 'resizeExport'
  | 'resumeExport'
  | 'releaseExport'
  | 'switchHeads'
  | 'changeChain'
  | 'barrier'
  | 'status'
  | 'statuses'
>;

/** The part of a predecessor that a registry uses. */
export type Predecessor = Pick<WholePredecessor, 'take' | 'gone'>;

/** What a registry works with. */
export interface ExportRegistryParts {
  readonly pool: VolumePool;
  readonly reactor: ExportReactor;
  readonly states: VolumeStates;
  readonly settings: ExportSettings;
  readonly faultPoints?: FaultPoints;
}

/** Where sockets go and how files are opened. */
export interface ExportSettings {
  readonly socketDirectory: string;
  readonly cache: 'direct' | 'writeback';
}
