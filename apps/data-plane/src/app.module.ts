import { Module, type DynamicModule } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { AgentController } from './agent/agent.controller.js';
import { AgentFilter } from './agent/agent.filter.js';
import { HealthController } from './agent/health.controller.js';
import { DataController } from './agent/data.controller.js';
import { SnapshotsController } from './agent/snapshots.controller.js';
import { AgentToken } from './agent/agent-token.js';
import { ExportRegistry } from './exports/export.registry.js';
import { MetricsController } from './metrics/metrics.controller.js';
import { MetricsText } from './metrics/metrics.text.js';
import { NodeReport } from './node/node.report.js';
import { Coalescing } from './snapshots/coalescing.js';
import { NodeSnapshots } from './snapshots/node-snapshots.js';
import { SnapshotData } from './snapshots/snapshot-data.js';
import { SnapshotWriting } from './snapshots/snapshot-writing.js';
import { UsageMeter } from './snapshots/usage-meter.js';

/** What the HTTP side is built over. */
export interface AppParts {
  readonly agentToken: string;
  readonly registry: ExportRegistry;
  readonly snapshots: NodeSnapshots;
  readonly coalescing: Coalescing;
  readonly usage: UsageMeter;
  readonly data: SnapshotData;
  readonly writing: SnapshotWriting;
  readonly report: NodeReport;
  readonly metrics: MetricsText;
}

/** The agent API of a node that is already open. */
@Module({})
export class AppModule {
  /** Wires the controllers to an open node. */
  static of({
    agentToken,
    registry,
    snapshots,
    coalescing,
    usage,
    data,
    writing,
    report,
    metrics,
  }: AppParts): DynamicModule {
    return {
      module: AppModule,
      controllers: [
        AgentController,
        SnapshotsController,
        DataController,
        HealthController,
        MetricsController,
      ],
      providers: [
        { provide: APP_FILTER, useClass: AgentFilter },
        { provide: AgentToken, useValue: new AgentToken(agentToken) },
        { provide: ExportRegistry, useValue: registry },
        { provide: NodeSnapshots, useValue: snapshots },
        { provide: Coalescing, useValue: coalescing },
        { provide: UsageMeter, useValue: usage },
        { provide: SnapshotData, useValue: data },
        { provide: SnapshotWriting, useValue: writing },
        { provide: NodeReport, useValue: report },
        { provide: MetricsText, useValue: metrics },
      ],
    };
  }
}
