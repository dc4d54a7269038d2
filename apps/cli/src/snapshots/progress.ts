import { formatBytes } from '@cairn/domain';

const intervalMs = 200;

/** A line on the terminal that tells how far something is; nothing where standard error is not one. */
export class Progress {
  private doneBytes = 0;
  private sentBytes = 0;
  private shownAt = 0;

  constructor(
    private readonly what: string,
    private readonly totalBytes: number,
    private readonly out: { isTTY?: boolean; write(text: string): unknown } = process.stderr,
  ) {}

  get percent(): number {
    return this.totalBytes === 0 ? 100 : Math.floor((this.doneBytes / this.totalBytes) * 100);
  }

  /** So many bytes are done; `sent`: they had to be carried, and not only looked at. */
  add(bytes: number, sent: boolean): void {
    this.doneBytes += bytes;
    if (sent) this.sentBytes += bytes;
    const now = Date.now();
    if (this.out.isTTY !== true || now - this.shownAt < intervalMs) return;
    this.shownAt = now;
    this.show('\r');
  }

  /** The line as it stays. */
  end(): void {
    if (this.out.isTTY === true) this.show('\n');
  }

  private show(end: string): void {
    this.out.write(`\r${this.what}: ${this.percent} %, ${formatBytes(this.sentBytes)} carried${end}`);
  }
}
