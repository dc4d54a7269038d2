import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** What a fake monitor was told. */
export interface ReceivedCommand {
  execute: string;
  arguments?: Record<string, unknown>;
  id: number;
}

/** Answers one command with `return` or `error`, or not at all with `undefined`. */
export type Answer = (
  args: Record<string, unknown>,
  monitor: FakeMonitor,
) => object | undefined | Promise<object | undefined>;

const qemuGreeting =
  '{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}\n';

/** A QMP server with scripted answers, for testing what talks to QEMU without one. */
export class FakeMonitor {
  readonly received: ReceivedCommand[] = [];
  private client: Socket | undefined;

  private constructor(
    readonly path: string,
    private readonly server: Server,
  ) {}

  /** Listens on a socket in a directory of its own. */
  static async start(
    answers: Record<string, Answer>,
    { greeting = qemuGreeting }: { greeting?: string } = {},
  ): Promise<FakeMonitor> {
    const path = join(mkdtempSync(join(tmpdir(), 'cairn-qmp-')), 'qmp');
    const server = createServer();
    const monitor = new FakeMonitor(path, server);
    server.on('connection', (socket) => {
      monitor.client = socket;
      socket.on('error', () => undefined);
      socket.write(greeting);
      let text = '';
      socket.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
        const lines = text.split('\n');
        text = lines.pop() ?? '';
        for (const line of lines) void monitor.answer(JSON.parse(line) as ReceivedCommand, answers);
      });
    });
    await new Promise<void>((resolve) => {
      server.listen(path, resolve);
    });
    return monitor;
  }

  /** Sends an event to the client. */
  emit(event: string, data: Record<string, unknown>): void {
    this.client?.write(`${JSON.stringify({ event, data })}\n`);
  }

  /** Cuts the connection. */
  drop(): void {
    this.client?.destroy();
  }

  /** Stops listening and removes the directory. */
  close(): void {
    this.drop();
    this.server.close();
    rmSync(dirname(this.path), { recursive: true, force: true });
  }

  private async answer(command: ReceivedCommand, answers: Record<string, Answer>): Promise<void> {
    this.received.push(command);
    const script = command.execute === 'qmp_capabilities' ? () => ({ return: {} }) : answers[command.execute];
    const answer = script
      ? await script(command.arguments ?? {}, this)
      : { error: { class: 'CommandNotFound', desc: `The command ${command.execute} has not been found` } };
    if (answer) this.client?.write(`${JSON.stringify({ ...answer, id: command.id })}\n`);
  }
}
