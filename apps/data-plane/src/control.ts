import type { AddressInfo } from 'node:net';
import { Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { Reactors } from '@cairn/block-export';
import type { FaultPoints } from '@cairn/domain';
import { AgentHeartbeat } from './agent/agent.heartbeat.js';
import { AppModule } from './app.module.js';
import type { DataPlaneConfig } from './config.js';
import type { Predecessor } from './handover/handover.predecessor.js';
import { MetricsText } from './metrics/metrics.text.js';
import { NodeReport } from './node/node.report.js';
import { openNode, type OpenNode } from './node/node.js';
import { SnapshotData } from './snapshots/snapshot-data.js';
import { StartRefused } from './start-refused.js';

/** What a control is opened with. */
export interface ControlOptions {
  readonly config: DataPlaneConfig;
  readonly version: string;
  readonly reactors: Reactors;
  readonly faultPoints: FaultPoints;
  /** The pool's lock, when this process has it already. */
  readonly lockFd?: number | undefined;
}

/**
 * Everything of the data plane that takes orders and reports: pool, registry, agent API, heartbeats. The reactors serve
 * guests without it, too.
 */
export class Control {
  private constructor(
    readonly url: string,
    private readonly node: OpenNode,
    private readonly app: NestExpressApplication,
    private readonly heartbeat: AgentHeartbeat | undefined,
  ) {}

  /**
   * Has the agent's address first, so that it is known to be free before any guest is concerned; then serves every
   * export, those that a predecessor has by taking them over. Requests wait until that is done.
   *
   * Throws StartRefused.
   */
  static async open(options: ControlOptions, predecessor?: Predecessor): Promise<Control> {
    const { config, version, reactors } = options;
    const node = await openNode(config, reactors, options);
    let app: NestExpressApplication | undefined;
    try {
      const report = new NodeReport({
        nodeId: node.nodeId,
        poolId: node.poolId,
        nodeName: config.nodeName,
        version,
        poolDirectory: config.poolDirectory,
        pool: node.store,
        lowSpacePercent: config.lowSpacePercent,
        registry: node.registry,
      });
      let admit: () => void = () => undefined;
      const restored = new Promise<void>((resolve) => (admit = resolve));
      app = await listen(config, { node, reactors, report, restored });
      await node.registry.restore(predecessor);
      node.start();
      admit();
      const url = urlOf(app, config.host);
      const heartbeat =
        config.heartbeat && new AgentHeartbeat(config.heartbeat, config.advertisedUrl ?? url, report);
      heartbeat?.start();
      return new Control(url, node, app, heartbeat);
    } catch (error) {
      await app?.close();
      await node.store.close();
      throw error;
    }
  }

  /** Ends verbs and heartbeats; tells the pool's lock, which the caller has from now on. */
  async close(): Promise<number> {
    this.heartbeat?.stop();
    await this.app.close();
    return this.node.close();
  }
}

interface Served {
  node: OpenNode;
  reactors: Reactors;
  report: NodeReport;
  /** Requests are answered when it resolves. */
  restored: Promise<void>;
}

async function listen(
  config: DataPlaneConfig,
  { node, reactors, report, restored }: Served,
): Promise<NestExpressApplication> {
  const metrics = new MetricsText(reactors, node.store, config.lowSpacePercent);
  const { agentToken } = config;
  const app = await NestFactory.create<NestExpressApplication>(
    AppModule.of({
      agentToken,
      registry: node.registry,
      snapshots: node.snapshots,
      coalescing: node.coalescing,
      usage: node.usage,
      data: new SnapshotData(node.store, config.heartbeat?.joinToken),
      writing: node.writing,
      report,
      metrics,
    }),
    { abortOnError: false, forceCloseConnections: false, logger: ['error', 'warn'] },
  );
  app.disable('x-powered-by');
  app.use(async (_request: unknown, _response: unknown, next: () => void) => {
    await restored;
    next();
  });
  try {
    await app.listen(config.port, config.host);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new StartRefused(
      `the agent API cannot listen on ${config.host}:${config.port} (${why})`,
      'stop what uses the address, or change CAIRN_AGENT_HOST and CAIRN_AGENT_PORT',
      { cause: error },
    );
  }
  // Nest tells about its own start at a level of its own; from here on we speak.
  Logger.overrideLogger(['log', 'warn', 'error', 'fatal']);
  return app;
}

function urlOf(app: NestExpressApplication, host: string): string {
  const { port } = app.getHttpServer().address() as AddressInfo;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
