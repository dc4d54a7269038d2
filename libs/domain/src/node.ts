import type { NodeId, PoolId } from './ids.js';
import type { TransitionTable } from './state-machine.js';

export const nodeStates = ['ready', 'down'] as const;
export type NodeState = (typeof nodeStates)[number];
export const nodeEvents = ['heartbeat', 'silent'] as const;
export type NodeEvent = (typeof nodeEvents)[number];

/** Node liveness as the control world sees it. A pair that is not listed is illegal. */
export const nodeTransitions: TransitionTable<NodeState, NodeEvent> = {
  ready: { heartbeat: 'ready', silent: 'down' },
  down: { heartbeat: 'ready' },
};

/** A node that has not been heard of for this long is `down`: seven missed heartbeats of two seconds. */
export const NODE_SILENCE_MS = 15_000;

/** A directory in which a node keeps volumes. */
export interface Pool {
  id: PoolId;
  nodeId: NodeId;
  directory: string;
  totalBytes: number;
  freeBytes: number;
  /** The sum of the sizes promised to volumes, which thin provisioning lets exceed `totalBytes`. */
  provisionedBytes: number;
  volumes: number;
  /** Since when its node has called it low on space; absent while there is enough. */
  lowSpaceSince?: Date;
}

/** What a node says about one of its pools. */
export interface PoolReport extends Omit<Pool, 'nodeId' | 'lowSpaceSince'> {
  /** Less is free than the node was told to warn of. */
  lowSpace: boolean;
}

/** A pool that has become low on space, or is not any more. */
export interface SpaceChange extends PoolReport {
  /** Now low, or `enough` again. */
  became: 'low' | 'enough';
}

/** A host that serves volumes. */
export interface Node {
  id: NodeId;
  name: string;
  agentUrl: string;
  version: string;
  state: NodeState;
  /** Exports the node serves, and how many of them have a guest connected. */
  exports: number;
  connectedExports: number;
  lastHeartbeatAt: Date;
  createdAt: Date;
  pools: Pool[];
}

/** What a node says about itself every heartbeat. */
export interface Heartbeat {
  id: NodeId;
  name: string;
  agentUrl: string;
  version: string;
  exports: number;
  connectedExports: number;
  pools: PoolReport[];
}
