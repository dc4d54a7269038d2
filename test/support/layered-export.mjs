// Serves chains of layers in a process of its own: node layered-export.mjs BLOCK-EXPORT OPTIONS. OPTIONS is JSON: the files
// that describe the chains with their sockets, and what BackEndOptions has. Prints `ready`, ends with 0 on SIGTERM.
import { readFileSync } from 'node:fs';

const [library, text] = process.argv.slice(2);
const { disks, numQueues = 1, readOnly = false, cache = 'writeback', serial, reactors } = JSON.parse(text);
const { Reactors } = await import(library);

const served = await Reactors.start({ reactors });
for (const [index, { file, socket }] of disks.entries()) {
  const chain = JSON.parse(readFileSync(file, 'utf8'));
  await served.addExport({
    id: `disk-${index}`,
    filePath: chain.layers.at(-1).path,
    chain,
    socketPath: socket,
    readOnly,
    numQueues,
    cache,
    serial: serial ?? `disk-${index}`,
  });
}
process.once('SIGTERM', () => void served.stop().then(() => process.exit(0)));
process.stdout.write('ready\n');
