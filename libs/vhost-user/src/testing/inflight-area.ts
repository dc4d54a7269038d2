import { closeSync } from 'node:fs';

/** The area in which a back-end keeps what it has in flight; the front-end holds it while back-ends come and go. */
export class InflightArea {
  constructor(
    readonly fd: number,
    readonly sizeBytes: number,
    readonly offsetBytes: number,
    readonly numQueues: number,
    readonly queueSize: number,
  ) {}

  close(): void {
    closeSync(this.fd);
  }
}
