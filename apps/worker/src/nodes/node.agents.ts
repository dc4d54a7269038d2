import { Injectable } from '@nestjs/common';
import { AgentClient, AgentError, type AgentErrorCode } from '@cairn/agent';
import { DomainError, type ErrorCode, type NodeId } from '@cairn/domain';
import { UnitOfWork } from '@cairn/persistence';

/** How agents are called. */
export abstract class AgentSettings {
  abstract readonly token: string;
  abstract readonly timeoutMs: number;
}

const domainCode = {
  'invalid-argument': 'agent-refused',
  unauthorized: 'node-unavailable',
  'route-not-found': 'agent-refused',
  'volume-not-found': 'agent-refused',
  'volume-deleted': 'agent-refused',
  'volume-size-mismatch': 'volume-size-mismatch',
  'volume-exported': 'export-busy',
  'volume-busy': 'volume-busy',
  'snapshot-not-found': 'agent-refused',
  'snapshot-exists': 'agent-refused',
  'snapshot-busy': 'snapshot-busy',
  'checksum-mismatch': 'checksum-mismatch',
  'stale-generation': 'stale-generation',
  'export-not-found': 'agent-refused',
  'export-busy': 'export-busy',
  'export-failed': 'pool-unavailable',
  'pool-full': 'pool-full',
  'storage-failed': 'pool-unavailable',
  stopping: 'node-unavailable',
  internal: 'node-unavailable',
  unreachable: 'agent-unreachable',
  timeout: 'agent-unreachable',
  'bad-response': 'agent-unreachable',
} as const satisfies Record<AgentErrorCode, ErrorCode>;

/** The way from an operation to the agent of a node. */
@Injectable()
export class NodeAgents {
  constructor(
    private readonly unitOfWork: UnitOfWork,
    private readonly settings: AgentSettings,
  ) {}

  /**
   * Makes one call to the node's agent, at the address of its latest heartbeat.
   *
   * Throws DomainError, retryable as the agent's own error is. Of `agent-unreachable` the caller must
   * think that the verb may have been done.
   */
  async call<Value>(nodeId: NodeId, verb: (agent: AgentClient) => Promise<Value>): Promise<Value> {
    const { name, agentUrl } = await this.unitOfWork.read(({ nodes }) => nodes.get(nodeId));
    const { token, timeoutMs } = this.settings;
    try {
      return await verb(new AgentClient({ baseUrl: agentUrl, token, timeoutMs }));
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
      throw new DomainError(
        domainCode[error.code],
        { message: `Node ${name} (${nodeId}): ${error.message}`, retryable: error.retryable },
        { cause: error },
      );
    }
  }
}
