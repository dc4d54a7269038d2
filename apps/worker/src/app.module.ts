import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { Module, type DynamicModule } from '@nestjs/common';
import { armFaultPoints } from '@cairn/domain';
import { chooseQueueBackend } from '@cairn/jobs';
import { PersistenceModule } from '@cairn/persistence';
import type { WorkerConfig } from './config.js';
import { AttachVolumeHandler } from './handlers/attach-volume.handler.js';
import { CreateVolumeHandler } from './handlers/create-volume.handler.js';
import { CompleteSnapshotHandler } from './handlers/complete-snapshot.handler.js';
import { CreateSnapshotHandler } from './handlers/create-snapshot.handler.js';
import { DeleteSnapshotHandler } from './handlers/delete-snapshot.handler.js';
import { DeleteVolumeHandler } from './handlers/delete-volume.handler.js';
import { DetachVolumeHandler } from './handlers/detach-volume.handler.js';
import { ResizeVolumeHandler } from './handlers/resize-volume.handler.js';
import { RevertVolumeHandler } from './handlers/revert-volume.handler.js';
import { StartSnapshotHandler } from './handlers/start-snapshot.handler.js';
import { HandlerSettings } from './handlers/handler.settings.js';
import { AgentSettings, NodeAgents } from './nodes/node.agents.js';
import { InventorySettings, NodeInventory } from './nodes/node.inventory.js';
import { NodeMonitor } from './nodes/node.monitor.js';
import { OperationHandlers } from './operations/operation.handlers.js';
import { OperationProcessor, ProcessorSettings } from './operations/operation.processor.js';
import { OperationRunner, RunnerSettings } from './operations/operation.runner.js';
import { OperationSweeper, SweeperSettings } from './operations/operation.sweeper.js';
import { Retention } from './operations/retention.js';

/** The worker and its database. */
@Module({})
export class AppModule {
  /** Wires everything; nothing runs until the processor, the sweeper and the others are started. */
  static of(config: WorkerConfig): DynamicModule {
    const { agentToken, agentTimeoutMs, overcommitRatio, concurrency, leaseMs, sweepMs } = config;
    const faultPoints = armFaultPoints(process.env, () => process.kill(process.pid, 'SIGKILL'));
    const workerId = `${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`;
    const queue = chooseQueueBackend({
      ...(config.redisUrl === undefined ? {} : { redisUrl: config.redisUrl }),
      databaseUrl: config.databaseUrl,
      prefix: config.queuePrefix,
    });
    const settings = [
      {
        provide: AgentSettings,
        useValue: { token: agentToken, timeoutMs: agentTimeoutMs } satisfies AgentSettings,
      },
      {
        provide: InventorySettings,
        useValue: { inventoryMs: config.inventoryMs } satisfies InventorySettings,
      },
      { provide: HandlerSettings, useValue: { overcommitRatio, faultPoints } satisfies HandlerSettings },
      { provide: RunnerSettings, useValue: { workerId, leaseMs, faultPoints } satisfies RunnerSettings },
      { provide: SweeperSettings, useValue: { sweepMs, concurrency } satisfies SweeperSettings },
      { provide: ProcessorSettings, useValue: { queue, concurrency } satisfies ProcessorSettings },
    ];
    const persistence = PersistenceModule.forRoot({
      url: config.databaseUrl,
      applicationName: 'cairn-worker',
      // One connection an operation, and some for the sweep, the renewals and the monitor.
      poolSize: concurrency + 4,
      waitMs: config.databaseWaitMs,
    });
    return {
      module: AppModule,
      imports: [persistence],
      providers: [
        ...settings,
        NodeAgents,
        CreateVolumeHandler,
        DeleteVolumeHandler,
        AttachVolumeHandler,
        DetachVolumeHandler,
        ResizeVolumeHandler,
        RevertVolumeHandler,
        CreateSnapshotHandler,
        StartSnapshotHandler,
        CompleteSnapshotHandler,
        DeleteSnapshotHandler,
        OperationHandlers,
        OperationRunner,
        OperationProcessor,
        OperationSweeper,
        NodeMonitor,
        NodeInventory,
        Retention,
      ],
    };
  }
}
