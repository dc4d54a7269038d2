import { setTimeout as sleep } from 'node:timers/promises';
import { ConsoleLogger, Logger } from '@nestjs/common';
import { Reactors } from '@cairn/block-export';
import { armFaultPoints, isId, type VolumeId } from '@cairn/domain';
import { STEPS } from '@cairn/storage';
import type { DataPlaneConfig } from './config.js';
import { Control, type ControlOptions } from './control.js';
import { HandoverOffer } from './handover/handover.offer.js';
import { Predecessor } from './handover/handover.predecessor.js';
import { storeFault } from './node/node.js';

/** How long a stop waits for requests that the disk has not completed. */
const drainTimeoutMs = 10_000;

/** A data plane that serves, until it is stopped or a successor has taken over. */
export class DataPlane {
  /** Resolves when a successor serves everything; the process is of no use then. */
  readonly handedOver: Promise<void>;
  private readonly logger = new Logger(DataPlane.name);
  private readonly offer: HandoverOffer;
  private isHandedOver = false;

  private constructor(
    private readonly options: ControlOptions,
    private control: Control,
  ) {
    let noteHandedOver: () => void = () => undefined;
    this.handedOver = new Promise((resolve) => (noteHandedOver = resolve));
    const { config, reactors, faultPoints } = options;
    this.offer = new HandoverOffer(
      config.stateDirectory,
      {
        reactors,
        quiesce: () => this.quiesce(),
        takeBack: async (lockFd) => {
          this.control = await Control.open({ ...options, lockFd });
        },
        handedOver: async () => {
          // What was kept; the successor opens it when this process has ended, however that goes.
          await reactors.stop({ drainTimeoutMs }).catch((error: unknown) => {
            this.logger.error(`what was not handed over has not ended well: ${String(error)}`);
          });
          this.isHandedOver = true;
          noteHandedOver();
        },
      },
      faultPoints,
    );
  }

  /** Starts everything, taking over from a data plane that runs with the same state directory. Throws StartRefused. */
  static async start(config: DataPlaneConfig, version: string): Promise<DataPlane> {
    const logger = new ConsoleLogger({ json: config.log === 'json', colors: false, prefix: 'data-plane' });
    Logger.overrideLogger(logger);
    const kill = (): void => void process.kill(process.pid, 'SIGKILL');
    const faultPoints = armFaultPoints(process.env, kill, STEPS.map(storeFault));
    const reactors = await Reactors.start({
      reactors: config.reactors,
      pollMicros: config.pollMicros,
      onNotice: (notice) => logger.warn(notice),
    });
    try {
      const predecessor = await Predecessor.find(config.stateDirectory, faultPoints);
      const options = { config, version, reactors, faultPoints };
      const control = await Control.open({ ...options, lockFd: predecessor?.lockFd }, predecessor);
      const dataPlane = new DataPlane(options, control);
      await dataPlane.offer.listen();
      predecessor?.finish();
      return dataPlane;
    } catch (error) {
      // A predecessor may have what these threads know of.
      await reactors.abandon();
      throw error;
    }
  }

  /** Where the agent API is. */
  get url(): string {
    return this.control.url;
  }

  /** Resolves if a thread that serves guests dies; the process is of no use then. */
  get failed(): Promise<Error> {
    return this.options.reactors.failed;
  }

  /**
   * Ends verbs, then drains the rings, then lets go of the pool. While a front-end is connected it first serves on, for
   * as long as the settings say, for a successor to take over; `hurry` ends that.
   */
  async stop(hurry: AbortSignal): Promise<void> {
    const { config, reactors } = this.options;
    const statuses = await reactors.statuses();
    if (statuses.some(({ connected }) => connected)) {
      const waited = sleep(config.handoverWaitMs, undefined, { signal: hurry }).catch(() => undefined);
      await Promise.race([waited, this.handedOver]);
    }
    await this.offer.close();
    if (this.isHandedOver) return;
    await this.control.close();
    // The pool's lock goes with the process, when nothing is in flight any more.
    await reactors.stop({ drainTimeoutMs });
  }

  private async quiesce(): Promise<{ lockFd: number; served: VolumeId[] }> {
    const lockFd = await this.control.close();
    const statuses = await this.options.reactors.statuses();
    return { lockFd, served: statuses.flatMap(({ id }) => (isId('vol', id) ? [id] : [])) };
  }
}
