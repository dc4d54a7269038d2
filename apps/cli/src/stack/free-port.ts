import { createServer } from 'node:net';
import { CliError } from '../cli-error.js';

/** The wanted port if it is free, else the next free one; 0 gives any free port. */
export async function freePort(host: string, wanted: number): Promise<number> {
  const last = wanted === 0 ? 0 : Math.min(wanted + 200, 65_535);
  for (let port = wanted; port <= last; port++) {
    const free = await tryListen(host, port);
    if (free !== undefined) return free;
  }
  throw new CliError(`no free port from ${wanted} to ${last} on ${host}`, 'Name another one.');
}

/** The port that could be listened on, or `undefined` when it is taken. */
function tryListen(host: string, port: number): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE' || error.code === 'EACCES') resolve(undefined);
      else
        reject(new CliError(`cannot listen on ${host}:${port}: ${error.message}`, 'Check the host address.'));
    });
    server.listen(port, host, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' ? address?.port : undefined));
    });
  });
}
