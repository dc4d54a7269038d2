import type { FaultPoints } from '@cairn/domain';

/** What handlers are set up with. */
export abstract class HandlerSettings {
  abstract readonly overcommitRatio: number;
  abstract readonly faultPoints: FaultPoints;
}
