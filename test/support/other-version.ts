import { rename } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';

/**
 * Stands at the socket where a running data plane is asked to hand over, and has whoever asks speak another version.
 * Returns what gives the socket back.
 */
export const speakAnotherVersion = async (
  stateDirectory: string,
  version: number,
): Promise<() => Promise<void>> => {
  const path = join(stateDirectory, 'handover.sock');
  const behind = join(stateDirectory, 'handover.behind');
  await rename(path, behind);
  const server = createServer((successor) => {
    const predecessor = createConnection(behind);
    successor.setEncoding('utf8').on('data', (said: string) => {
      predecessor.write(said.replace(/"version":\d+/, `"version":${version}`));
    });
    predecessor.pipe(successor);
    for (const [one, other] of [
      [successor, predecessor],
      [predecessor, successor],
    ] as const)
      one.on('error', () => undefined).on('close', () => other.destroy());
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return async () => {
    await new Promise((resolve) => server.close(resolve));
    await rename(behind, path);
  };
};
