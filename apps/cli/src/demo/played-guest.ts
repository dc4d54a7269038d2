import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { ApiClient } from '../api/api-client.js';
import { CliError } from '../cli-error.js';
import { dataBytes, type TourGuest } from './tour.js';

/** In the clone this was built in; the demo is not part of an installation. */
const program = fileURLToPath(new URL('../../../../../scripts/played-guest.mjs', import.meta.url));

/**
 * A guest of the demo where there is no QEMU: another process drives the disk through the project's own front-end.
 *
 * It ends when this process does, as its standard input ends then.
 */
export class PlayedGuest implements TourGuest {
  readonly formatting = 'write a label (no kernel, no file system)';
  readonly writing = `write ${dataBytes / 2 ** 20} MiB, flush, checksum`;
  private readonly child: ChildProcess;
  private readonly answers: AsyncIterableIterator<string>;
  private readonly lines: Interface;
  private attachmentId = '';

  constructor(
    private readonly api: ApiClient,
    private readonly name: string,
  ) {
    if (!existsSync(program))
      throw new CliError(`${program} does not exist`, 'Run "npm run demo" in a clone.');
    this.child = spawn(process.execPath, [program], { stdio: ['pipe', 'pipe', 'inherit'] });
    if (!this.child.stdout) throw new CliError('the played guest has no output');
    this.lines = createInterface({ input: this.child.stdout });
    this.answers = this.lines[Symbol.asyncIterator]();
  }

  async plug(volumeId: string): Promise<void> {
    const { attachment, operation } = await this.api.attach(volumeId, { instanceId: this.name });
    await this.api.finish(operation);
    this.attachmentId = attachment.id;
    const { connection } = await this.api.getAttachment(volumeId, attachment.id);
    await this.ask('plug', { socketPath: connection?.socketPath });
  }

  async unplug(volumeId: string): Promise<void> {
    await this.ask('unplug');
    await this.api.finish((await this.api.detach(volumeId, this.attachmentId)).operation);
  }

  async readSerial(): Promise<string> {
    return String(await this.ask('serial'));
  }

  async format(): Promise<void> {
    await this.ask('format');
  }

  async write(): Promise<string> {
    return String(await this.ask('write', { bytes: dataBytes }));
  }

  /** Nothing is mounted, so there is nothing to let go of. */
  async release(): Promise<void> {}

  async checksum(): Promise<string> {
    return String(await this.ask('checksum', { bytes: dataBytes }));
  }

  /** Its front-end has no cache. */
  reread(): Promise<string> {
    return this.checksum();
  }

  /** Ends the process. */
  async stop(): Promise<void> {
    this.lines.close();
    this.child.stdin?.end();
    this.child.kill('SIGKILL');
  }

  private async ask(verb: string, args: Record<string, unknown> = {}): Promise<unknown> {
    this.child.stdin?.write(`${JSON.stringify({ verb, ...args })}\n`);
    const { value: line, done } = await this.answers.next();
    if (done) throw new CliError(`the played guest ended at "${verb}"`);
    const answer = JSON.parse(line) as { value?: unknown; error?: string };
    if (answer.error !== undefined) throw new CliError(`the played guest: ${answer.error}`);
    return answer.value;
  }
}
