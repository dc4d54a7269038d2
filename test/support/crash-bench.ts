import { randomBytes } from 'node:crypto';
import type { FaultPointName } from '@cairn/domain';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { expect } from 'vitest';
import type { AppProcess } from './app-process.js';
import { sql } from './databases.js';
import { emptyNode, eventually, type Stack } from './stack.js';

/** The rows of an operation that must not change once it has ended. */
type Ending = Record<string, unknown>;

/** Kills processes of a stack at named steps and looks at what is left. */
export class CrashBench {
  private readonly endings = new Map<string, Ending>();

  constructor(private readonly stack: Stack) {}

  /** Lets the app kill itself at the step, makes it get there, and starts it again unharmed. */
  async dieAt<Started>(
    app: AppProcess,
    fault: FaultPointName,
    act: () => Promise<Started>,
  ): Promise<Started> {
    return this.dieAtEach(app, [fault], act);
  }

  /** Like `dieAt` with one step after the other: each new life of the app dies further on, and the last one lives. */
  async dieAtEach<Started>(
    app: AppProcess,
    steps: readonly FaultPointName[],
    act: () => Promise<Started>,
  ): Promise<Started> {
    const [step, ...further] = steps;
    if (step === undefined) throw new Error('there is no step to die at');
    await app.stop();
    await app.start({ CAIRN_FAULT_POINT: step });
    const started = await act();
    expect(await app.exited()).toEqual({ code: null, signal: 'SIGKILL' });
    for (const next of further) {
      const { signal } = await app.startAndEnd({ CAIRN_FAULT_POINT: next });
      expect([next, signal]).toEqual([next, 'SIGKILL']);
    }
    await app.start();
    return started;
  }

  /** Waits for the operation's success and remembers how it ended. */
  async succeeds(operation: { readonly id: string }): Promise<void> {
    expect((await this.stack.api.succeeded(operation)).progress).toBe(100);
    this.endings.set(operation.id, await this.endingOf(operation.id));
  }

  /** Writes through the socket and reads back: the export serves the volume, whatever happened before. */
  async serves(socketPath: string | undefined): Promise<void> {
    if (socketPath === undefined) throw new Error('the attachment has no connection');
    const disk = await FakeBlkDisk.open(socketPath);
    const block = randomBytes(4096);
    await disk.write(8192, block);
    expect(Buffer.from(await disk.read(8192, 4096)).equals(block)).toBe(true);
    await disk.detach();
  }

  /** Nothing on the node, nothing unfinished or live in the rows, and nothing that ended twice. */
  async expectSettled(): Promise<void> {
    // What nobody needs any more may be on its way out in the background.
    await eventually('an empty node', async () => {
      expect(await this.stack.nodeContents()).toEqual(emptyNode);
      return true;
    });
    const [rows] = await sql(
      this.stack.databaseUrl,
      `SELECT (SELECT count(*)::int FROM operations WHERE state IN ('pending', 'running')) AS operations,
              (SELECT count(*)::int FROM attachments WHERE state NOT IN ('detached', 'error')) AS attachments,
              (SELECT count(*)::int FROM snapshots WHERE state <> 'deleted') AS snapshots,
              (SELECT count(*)::int FROM volumes WHERE state <> 'deleted') AS volumes`,
    );
    expect(rows).toEqual({ operations: 0, attachments: 0, snapshots: 0, volumes: 0 });
    for (const [id, ending] of this.endings) expect(await this.endingOf(id), id).toEqual(ending);
  }

  private async endingOf(id: string): Promise<Ending> {
    const columns = 'state, attempts, finished_at, updated_at';
    const [row] = await sql(this.stack.databaseUrl, `SELECT ${columns} FROM operations WHERE id = $1`, [id]);
    if (row === undefined) throw new Error(`there is no operation ${id}`);
    return row;
  }
}
