import { Injectable } from '@nestjs/common';
import type { Operation, OperationKind, Reason } from '@cairn/domain';
import type { Repositories } from '@cairn/persistence';
import { AttachVolumeHandler } from '../handlers/attach-volume.handler.js';
import { CreateVolumeHandler } from '../handlers/create-volume.handler.js';
import { CompleteSnapshotHandler } from '../handlers/complete-snapshot.handler.js';
import { CreateSnapshotHandler } from '../handlers/create-snapshot.handler.js';
import { DeleteSnapshotHandler } from '../handlers/delete-snapshot.handler.js';
import { DeleteVolumeHandler } from '../handlers/delete-volume.handler.js';
import { DetachVolumeHandler } from '../handlers/detach-volume.handler.js';
import { ResizeVolumeHandler } from '../handlers/resize-volume.handler.js';
import { RevertVolumeHandler } from '../handlers/revert-volume.handler.js';
import { StartSnapshotHandler } from '../handlers/start-snapshot.handler.js';

/** An operation of one kind. */
export type OperationOfKind<K extends OperationKind> = Extract<Operation, { kind: K }>;

/**
 * Moves the volume, the attachment and the snapshots, in the transaction that ends the operation.
 *
 * In this order: the API locks the volume, then the attachment, then snapshots, then the operation, and so must we.
 */
export type Settlement = (repositories: Repositories) => Promise<void>;

/** What giving up comes to: first the rows, then the node. */
export interface Abandonment {
  settle: Settlement;
  /**
   * Takes away what the node has of it, as far as it can; does not throw.
   *
   * Called once the settlement has committed, and not at all when it did not or a crash comes between.
   * A worker whose lease ran out unnoticed would otherwise destroy what another has finished.
   */
  cleanUp?: () => Promise<void>;
}

/**
 * The effect of one kind of operation.
 *
 * Both methods may run again after a crash at any point, and on two workers at once when a lease was
 * lost; they leave rows alone except for placement and `busy`, and give the moves back as a settlement.
 */
export interface OperationHandler<K extends OperationKind> {
  /** Brings the effect about. Throws DomainError; `retryable` decides what happens next. */
  perform(operation: OperationOfKind<K>): Promise<Settlement>;
  /** Says how to end an operation that will not be tried again. Changes nothing itself. */
  abandon(operation: OperationOfKind<K>, reason: Reason): Promise<Abandonment>;
}

type HandlerTable = { readonly [K in OperationKind]: OperationHandler<K> };

/** Which handler does which kind: a new kind does not compile until it has one. */
@Injectable()
export class OperationHandlers {
  private readonly table: HandlerTable;

  constructor(
    createVolume: CreateVolumeHandler,
    deleteVolume: DeleteVolumeHandler,
    attachVolume: AttachVolumeHandler,
    detachVolume: DetachVolumeHandler,
    resizeVolume: ResizeVolumeHandler,
    revertVolume: RevertVolumeHandler,
    createSnapshot: CreateSnapshotHandler,
    startSnapshot: StartSnapshotHandler,
    completeSnapshot: CompleteSnapshotHandler,
    deleteSnapshot: DeleteSnapshotHandler,
  ) {
    this.table = {
      'create-volume': createVolume,
      'delete-volume': deleteVolume,
      'attach-volume': attachVolume,
      'detach-volume': detachVolume,
      'resize-volume': resizeVolume,
      'revert-volume': revertVolume,
      'create-snapshot': createSnapshot,
      'start-snapshot': startSnapshot,
      'complete-snapshot': completeSnapshot,
      'delete-snapshot': deleteSnapshot,
    };
  }

  /** See {@link OperationHandler.perform}. */
  perform<K extends OperationKind>(operation: OperationOfKind<K>): Promise<Settlement> {
    return this.handlerOf(operation).perform(operation);
  }

  /** See {@link OperationHandler.abandon}. */
  abandon<K extends OperationKind>(operation: OperationOfKind<K>, reason: Reason): Promise<Abandonment> {
    return this.handlerOf(operation).abandon(operation, reason);
  }

  private handlerOf<K extends OperationKind>(operation: OperationOfKind<K>): OperationHandler<K> {
    const kind: K = operation.kind;
    return this.table[kind];
  }
}
