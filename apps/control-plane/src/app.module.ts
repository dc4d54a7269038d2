import { DataTickets, type FaultPoints } from '@cairn/domain';
import { OperationNudger } from '@cairn/jobs';
import { PersistenceModule, type PersistenceOptions } from '@cairn/persistence';
import { Module, type DynamicModule } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { AttachmentsController } from './attachments/attachments.controller.js';
import { AttachmentsService } from './attachments/attachments.service.js';
import { HealthController } from './health/health.controller.js';
import { AuthenticateGuard } from './http/authenticate.guard.js';
import { ErrorFilter } from './http/error.filter.js';
import { JoinGuard, JoinToken } from './http/join.guard.js';
import { NodesController } from './nodes/nodes.controller.js';
import { FAULT_POINTS, OperationStarter } from './operations/operation.starter.js';
import { OperationsController } from './operations/operations.controller.js';
import { SnapshotDataController } from './snapshots/snapshot-data.controller.js';
import { SnapshotWritingController } from './snapshots/snapshot-writing.controller.js';
import { SnapshotWritingService } from './snapshots/snapshot-writing.service.js';
import { SnapshotsController } from './snapshots/snapshots.controller.js';
import { SnapshotsService } from './snapshots/snapshots.service.js';
import { ModificationsController } from './volumes/modifications.controller.js';
import { ModificationsService } from './volumes/modifications.service.js';
import { VolumesController } from './volumes/volumes.controller.js';
import { VolumesService } from './volumes/volumes.service.js';

/** What the API is built on. It opens and closes the database; the nudger is the caller's to close, after it. */
export interface Foundations {
  database: PersistenceOptions;
  nudger: OperationNudger;
  joinToken: string;
  faultPoints: FaultPoints;
}

/** The whole HTTP API over the given foundations. */
@Module({})
export class AppModule {
  /** Composes the API. */
  static over({ database, nudger, joinToken, faultPoints }: Foundations): DynamicModule {
    return {
      module: AppModule,
      imports: [PersistenceModule.forRoot(database)],
      controllers: [
        VolumesController,
        ModificationsController,
        AttachmentsController,
        SnapshotsController,
        SnapshotDataController,
        SnapshotWritingController,
        OperationsController,
        NodesController,
        HealthController,
      ],
      providers: [
        { provide: OperationNudger, useValue: nudger },
        { provide: JoinToken, useValue: new JoinToken(joinToken) },
        { provide: DataTickets, useValue: new DataTickets(joinToken) },
        { provide: FAULT_POINTS, useValue: faultPoints },
        { provide: APP_FILTER, useClass: ErrorFilter },
        AuthenticateGuard,
        JoinGuard,
        OperationStarter,
        VolumesService,
        ModificationsService,
        AttachmentsService,
        SnapshotsService,
        SnapshotWritingService,
      ],
    };
  }
}
