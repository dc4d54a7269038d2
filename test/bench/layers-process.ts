import { randomFillSync } from 'node:crypto';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { VolumeImage, VolumeStore } from '../../libs/storage/src/index.js';
import { Reactors, type StandStill } from '../../libs/block-export/src/index.js';

// Serves one volume of so many layers, and does with it what the lines of its standard input say; see layers.ts.

/** What the process is started with. */
export interface LayersSpec {
  directory: string;
  sizeBytes: number;
  depth: number;
  /** Random blocks of 4 KiB in each layer over the first, which is full. */
  fragments: number;
}

const VOLUME = 'vol-0123456789abcdef';
const FILL_BYTES = 4 * 1024 * 1024;
const BLOCK_BYTES = 4096;

const spec = JSON.parse(process.argv[2]!) as LayersSpec;
const store = await VolumeStore.open({ directory: spec.directory, overcommitRatio: 1000 });
const reactors = await Reactors.start({ reactors: 1 });
let snapshots = 0;

const take = async (): Promise<StandStill> => {
  let stood: StandStill = { frozenMicros: 0, flushMicros: 0 };
  snapshots += 1;
  const snapshotId = `snap-${String(snapshots).padStart(16, '0')}`;
  await store.snapshots.take([{ snapshotId, volumeId: VOLUME }], {
    switchHeads: async (switches) => {
      stood = await reactors.switchHeads(switches);
    },
  });
  return stood;
};

const fragment = async (): Promise<void> => {
  const image = await VolumeImage.open(store.chain(VOLUME));
  for (let i = 0; i < spec.fragments; i += 1) {
    const block = Math.floor((Math.random() * spec.sizeBytes) / BLOCK_BYTES);
    await image.writeAt(block * BLOCK_BYTES, randomFillSync(Buffer.alloc(BLOCK_BYTES)));
  }
  await image.flush();
  await image.close();
};

await store.create({ volumeId: VOLUME, sizeBytes: spec.sizeBytes });
const base = await VolumeImage.open(store.chain(VOLUME));
for (let at = 0; at < spec.sizeBytes; at += FILL_BYTES)
  await base.writeAt(at, randomFillSync(Buffer.alloc(FILL_BYTES)));
await base.flush();
await base.close();
for (let layer = 1; layer < spec.depth; layer += 1) {
  await take();
  await fragment();
}
const chain = await store.attach(VOLUME, {
  barrier: () => reactors.barrier(VOLUME),
  chainChanged: (changed) => reactors.changeChain(changed),
});
const socketPath = join(spec.directory, 's.sock');
await reactors.addExport({
  id: VOLUME,
  filePath: chain.layers.at(-1)!.path,
  chain,
  socketPath,
  readOnly: false,
  numQueues: 1,
  cache: 'writeback',
  serial: VOLUME,
});

/** Answers one line with one line. */
const verbs: Record<string, (argument: string) => Promise<unknown>> = {
  snapshot: take,
  /** Gives up every snapshot that there is. */
  drop: async () => {
    for (const { id } of store.snapshots.list()) await store.snapshots.delete(id);
  },
  /** Folds what can be folded, at so many bytes a second; 0 = as fast as it goes. */
  coalesce: (bytesPerSecond) =>
    store.coalescer.run(bytesPerSecond === '0' ? {} : { bytesPerSecond: Number(bytesPerSecond) }),
};
process.once('SIGTERM', () => void reactors.stop().then(() => process.exit(0)));
process.stdout.write(`${socketPath}\n`);
for await (const line of createInterface({ input: process.stdin })) {
  const [verb = '', argument = ''] = line.split(' ');
  const began = performance.now();
  const answer = await verbs[verb]!(argument);
  process.stdout.write(`${JSON.stringify({ millis: performance.now() - began, answer })}\n`);
}
