import { Command } from 'commander';
import { CliError } from '../cli-error.js';
import { DataDirectory } from './data-directory.js';
import { Stack } from './stack.js';
import { openUpControl, type Reload } from './up-control.js';
import { nextSignal } from './up-signals.js';

interface UpOptions {
  dataDir?: string;
  port?: string;
}

/** `cairn up`: the whole service on this machine. */
export function upCommand(): Command {
  return new Command('up')
    .description('run the whole service on this machine: database, control plane, worker and data plane')
    .option('--data-dir <directory>', 'where everything is kept (default: $CAIRN_DATA_DIR or .cairn)')
    .option(
      '--port <number>',
      'port of the API; the next free one is taken (default: $CAIRN_HTTP_PORT or 8700)',
    )
    .addHelpText(
      'after',
      `
With DATABASE_URL set, no PostgreSQL is started; with REDIS_URL set, the queue is in that Redis.
Other settings of the apps (CAIRN_CACHE, CAIRN_OVERCOMMIT_RATIO, …) are passed on; see README.md.
Ctrl-C stops everything in order. SIGHUP, or 'cairn reload', starts another data plane, which takes over from the one
that runs while guests write: to go over to a release that was installed in the place of the one before. Exit status: 0 stopped, 1 failed or refused to start.`,
    )
    .action(async ({ dataDir, port }: UpOptions) => {
      const dataDirectory = DataDirectory.resolve(dataDir);
      let reload: Reload = () => Promise.reject(new CliError('the stack is not up yet'));
      const stopped = nextSignal(() => {
        // The log tells how it goes.
        reload(() => undefined).catch((error: unknown) => {
          process.stderr.write(
            `cairn: cannot reload: ${error instanceof Error ? error.message : String(error)}\n`,
          );
        });
      });
      const starting = Stack.start({
        dataDirectory,
        print: (line) => process.stdout.write(`${line}\n`),
        httpPort: portOf('--port', port ?? process.env['CAIRN_HTTP_PORT'], 8700),
        agentPort: portOf('CAIRN_AGENT_PORT', process.env['CAIRN_AGENT_PORT'], 8701),
      });
      const stack = await starting;
      reload = (tell) => stack.reload(tell);
      const closeControl = await openUpControl(dataDirectory.control, reload);
      process.stdout.write(`\n${banner(stack, dataDirectory)}\n`);
      const reason = await Promise.race([stopped, stack.failed]);
      if (typeof reason === 'string') process.stdout.write(`\n${reason}: stopping\n`);
      closeControl();
      await stack.stop();
      if (reason instanceof CliError) throw reason;
    });
}

function banner(stack: Stack, { path, logs }: DataDirectory): string {
  const { value, file, isNew } = stack.apiKey;
  return [
    `  Cairn is up.`,
    `  API      ${stack.url}/v1   (documentation: ${stack.url}/docs)`,
    isNew ? `  API key  ${value}` : `  API key  made at first start`,
    `           kept in ${file}`,
    `  data     ${path}`,
    `  logs     ${logs}`,
    '',
  ].join('\n');
}

function portOf(name: string, text: string | undefined, fallback: number): number {
  if (text === undefined || text === '') return fallback;
  const port = Number(text);
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port;
  throw new CliError(`${name} is ${JSON.stringify(text)}`, 'Give a number from 0 to 65535.');
}
