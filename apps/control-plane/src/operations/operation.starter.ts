import { isFinished, type FaultPoints, type Operation } from '@cairn/domain';
import { OperationNudger } from '@cairn/jobs';
import { Inject, Injectable } from '@nestjs/common';

/** Injection token of the armed fault points. */
export const FAULT_POINTS = Symbol('FAULT_POINTS');

/** Takes over after the transaction that wrote an operation down. */
@Injectable()
export class OperationStarter {
  constructor(
    private readonly nudger: OperationNudger,
    @Inject(FAULT_POINTS) private readonly faultPoints: FaultPoints,
  ) {}

  /** Nudges an unfinished operation. Never throws: without the nudge the sweep finds it. */
  async start(operation: Operation): Promise<void> {
    if (isFinished(operation.state)) return;
    this.faultPoints.reach('control-plane.after-commit-before-nudge');
    await this.nudger.nudge(operation);
  }
}
