import { closeSync, constants, openSync } from 'node:fs';

/**
 * The first signal to stop: SIGINT, SIGTERM, or SIGHUP when the terminal has gone. A second one ends this process at once,
 * and with it everything it started. Any other SIGHUP, as of `kill` or a service manager, calls `reload`.
 */
export function nextSignal(reload: () => void): Promise<NodeJS.Signals> {
  const hadTerminal = hasTerminal();
  // What is printed after it has gone is for nobody.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
  return new Promise((resolve) => {
    let stopping = false;
    const stop = (signal: NodeJS.Signals): void => {
      if (stopping) process.exit(130);
      stopping = true;
      resolve(signal);
    };
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, stop);
    process.on('SIGHUP', (signal) => {
      if (!hadTerminal || hasTerminal()) reload();
      else if (!stopping) stop(signal);
    });
  });
}

/** Does this process have a terminal? One that was hung up is not there any more (tty(4)). */
function hasTerminal(): boolean {
  try {
    closeSync(openSync('/dev/tty', constants.O_RDONLY | constants.O_NOCTTY));
    return true;
  } catch {
    return false;
  }
}
