import type { AddressInfo } from 'node:net';
import { ConsoleLogger, Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { AgentHeartbeat } from './agent/agent.heartbeat.js';
import { AppModule } from './app.module.js';
import type { DataPlaneConfig } from './config.js';
import { MetricsText } from './metrics/metrics.text.js';
import { NodeReport } from './node/node.report.js';
import { openNode, type OpenNode } from './node/node.js';
import { SnapshotData } from './snapshots/snapshot-data.js';
import { StartRefused } from './start-refused.js';

/** A data plane that serves. */
export interface RunningDataPlane {
  readonly url: string;
  /** Resolves if the thread that serves guests dies; the process is of no use then. */
  readonly failed: Promise<Error>;
  /** Ends verbs, then drains the rings, then lets go of the pool. */
  stop(): Promise<void>;
}

/** Starts everything: exports first, the agent API next, heartbeats last. Throws StartRefused. */
export async function startDataPlane(config: DataPlaneConfig, version: string): Promise<RunningDataPlane> {
  const logger = new ConsoleLogger({ json: config.log === 'json', colors: false, prefix: 'data-plane' });
  Logger.overrideLogger(logger);
  const node = await openNode(config);
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
    const app = await listen(config, node, report);
    // Nest tells about its own start at a level of its own; from here on we speak.
    logger.setLogLevels(['log', 'warn', 'error', 'fatal']);
    const url = urlOf(app, config.host);
    const heartbeat =
      config.heartbeat && new AgentHeartbeat(config.heartbeat, config.advertisedUrl ?? url, report);
    heartbeat?.start();
    const stop = async (): Promise<void> => {
      heartbeat?.stop();
      await app.close();
      await node.close();
    };
    return { url, failed: node.reactor.failed, stop };
  } catch (error) {
    await node.close();
    throw error;
  }
}

async function listen(
  config: DataPlaneConfig,
  node: OpenNode,
  report: NodeReport,
): Promise<NestExpressApplication> {
  const metrics = new MetricsText(node.reactor, node.store);
  const { agentToken } = config;
  const app = await NestFactory.create<NestExpressApplication>(
    AppModule.of({
      agentToken,
      registry: node.registry,
      snapshots: node.snapshots,
      coalescing: node.coalescing,
      usage: node.usage,
      data: new SnapshotData(node.store, config.heartbeat?.joinToken),
      report,
      metrics,
    }),
    { abortOnError: false, forceCloseConnections: false, logger: ['error', 'warn'] },
  );
  app.disable('x-powered-by');
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
  return app;
}

function urlOf(app: NestExpressApplication, host: string): string {
  const { port } = app.getHttpServer().address() as AddressInfo;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
