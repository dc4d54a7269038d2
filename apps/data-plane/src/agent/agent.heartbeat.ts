import { Logger } from '@nestjs/common';
import type { Heartbeat } from '@cairn/domain';
import type { HeartbeatConfig } from '../config.js';
import type { NodeReport } from '../node/node.report.js';

/** A control plane that takes longer than this is as good as down. */
const timeoutMs = 5000;

/**
 * Tells the control plane, every interval, that the node lives and what room it has.
 *
 * Nothing waits for it and nothing it meets ends the process: a control plane that is down is logged
 * once when the outage begins and once when it ends.
 */
export class AgentHeartbeat {
  private readonly logger = new Logger(AgentHeartbeat.name);
  private readonly stopping = new AbortController();
  private timer: NodeJS.Timeout | undefined;
  private isOut = false;

  constructor(
    private readonly config: HeartbeatConfig,
    private readonly agentUrl: string,
    private readonly report: Pick<NodeReport, 'describe'>,
  ) {}

  /** Sends the first heartbeat at once; returns before it is sent. */
  start(): void {
    void this.beatForever();
  }

  /** Sends nothing more. */
  stop(): void {
    this.stopping.abort();
    clearTimeout(this.timer);
  }

  private async beatForever(): Promise<void> {
    await this.beat();
    if (this.stopping.signal.aborted) return;
    this.timer = setTimeout(() => void this.beatForever(), this.config.intervalMs);
  }

  private async beat(): Promise<void> {
    try {
      const trouble = await this.send();
      this.noteOutage(trouble);
    } catch (error) {
      const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
      this.noteOutage(cause instanceof Error ? cause.message : String(cause));
    }
  }

  /** The trouble the control plane answered with, or `undefined` when it took the heartbeat. */
  private async send(): Promise<string | undefined> {
    const { id, name, version, pools, exports } = await this.report.describe();
    const heartbeat: Heartbeat = {
      id,
      name,
      agentUrl: this.agentUrl,
      version,
      exports: exports.total,
      connectedExports: exports.connected,
      pools: pools.map((pool) => ({
        id: pool.id,
        directory: pool.directory,
        totalBytes: pool.totalBytes,
        freeBytes: pool.freeBytes,
        provisionedBytes: pool.provisionedBytes,
        volumes: pool.volumes,
        lowSpace: pool.lowSpace,
      })),
    };
    const { id: nodeId, ...body } = heartbeat;
    const response = await fetch(new URL(`/v1/nodes/${nodeId}/heartbeat`, this.config.controlPlaneUrl), {
      method: 'PUT',
      headers: { authorization: `Bearer ${this.config.joinToken}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: AbortSignal.any([AbortSignal.timeout(timeoutMs), this.stopping.signal]),
    });
    const answer = await response.text();
    return response.ok ? undefined : `HTTP ${response.status} ${answer.slice(0, 300)}`;
  }

  private noteOutage(trouble: string | undefined): void {
    if (this.stopping.signal.aborted || (trouble !== undefined) === this.isOut) return;
    this.isOut = trouble !== undefined;
    if (trouble === undefined) this.logger.log('the control plane takes heartbeats again');
    else this.logger.warn(`the control plane does not take heartbeats (${trouble}); exports are served on`);
  }
}
