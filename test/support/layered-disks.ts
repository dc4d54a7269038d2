import { spawn } from 'node:child_process';
import { closeSync, constants, ftruncateSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { native } from '@cairn/native';
import {
  BLOCK_BYTES,
  type ChainLayer,
  ExtentMap,
  ExtentRuns,
  type VolumeChain,
  ZEROED,
  zeroMapPosition,
} from '@cairn/storage';
import { follow, scratchDirectory, type BackEndOptions, type StartBackEnd } from './back-end.js';
import { BLOCK_EXPORT } from './built-reactors.js';
import { Random } from './random.js';
import type { ServedDisks } from './served-disks.js';

const PROGRAM = fileURLToPath(new URL('layered-export.mjs', import.meta.url));
const ZERO_MAP_AT = 2 ** 40;
const PUNCH_KEEP_SIZE = 3;

/** Starts a process that serves chains; the disks' files describe them. */
export const startLayered =
  (reactors = 1): StartBackEnd =>
  async (options) => {
    const args = [PROGRAM, BLOCK_EXPORT.href, JSON.stringify({ ...options, reactors })];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const followed = follow(child);
    await new Promise<void>((resolve, reject) => {
      child.stdout.once('data', () => resolve());
      void followed.exit.then((code) => reject(new Error(`it ended with ${code}: ${followed.log()}`)));
    });
    return { pid: child.pid!, disks: options.disks, ...followed };
  };

/** Makes volumes of so many layers each, with fragments of data and of zeroes in every layer, and serves them. */
export const serveLayered = async (
  start: StartBackEnd,
  options: Omit<BackEndOptions, 'disks'> & { sizeBytes: number; depth: number; seed?: number },
): Promise<ServedDisks> => {
  const { sizeBytes, depth, seed = depth, ...rest } = options;
  const directory = scratchDirectory();
  const chain = makeChain(directory.path, sizeBytes, depth, new Random(seed));
  const file = join(directory.path, 'chain.json');
  writeFileSync(file, JSON.stringify(chain));
  const disks = [{ file, socket: join(directory.path, 'disk.sock') }];
  const served: ServedDisks = {
    backEnd: await start({ disks, ...rest }),
    sockets: disks.map(({ socket }) => socket),
    files: chain.layers.map(({ path }) => path),
    content: () => contentOf(chain),
    restart: async () => {
      served.backEnd = await start({ disks, ...rest });
    },
    close: async () => {
      await served.backEnd.kill();
      directory.remove();
    },
  };
  return served;
};

const makeChain = (directory: string, sizeBytes: number, depth: number, random: Random): VolumeChain => {
  const layers = Array.from({ length: depth }, (_, index): ChainLayer => {
    const path = join(directory, `layer-${index}.img`);
    const zeroMapOffsetBytes = index === 0 ? undefined : ZERO_MAP_AT;
    const fd = openSync(path, 'wx', 0o600);
    ftruncateSync(fd, sizeBytes);
    const blocks = sizeBytes / BLOCK_BYTES;
    for (let piece = 0; piece < blocks / 16; piece += 1) {
      const block = random.below(blocks);
      const count = Math.min(1 + random.below(6), blocks - block);
      const offset = block * BLOCK_BYTES;
      if (random.chance(0.7))
        writeSync(fd, random.bytes(count * BLOCK_BYTES), 0, count * BLOCK_BYTES, offset);
      else {
        native.allocate(fd, PUNCH_KEEP_SIZE, offset, count * BLOCK_BYTES);
        if (index > 0)
          writeSync(fd, Buffer.alloc(count, ZEROED), 0, count, zeroMapPosition(ZERO_MAP_AT, offset));
      }
    }
    closeSync(fd);
    return { id: `layer-${index}`, path, sizeBytes, zeroMapOffsetBytes };
  });
  return { volumeId: 'vol', sizeBytes, layers };
};

/** What the chain reads as, by another way than the back-end's: through the page cache, a run at a time. */
const contentOf = (chain: VolumeChain): Buffer => {
  const out = Buffer.alloc(chain.sizeBytes);
  const fds = chain.layers.map(({ path }) => openSync(path, constants.O_RDONLY));
  try {
    const layers = chain.layers.map((layer, index) => ({ ...layer, fd: fds[index]! }));
    const map = new ExtentMap({ layers, sizeBytes: chain.sizeBytes });
    const runs = new ExtentRuns(chain.sizeBytes / BLOCK_BYTES);
    map.resolve(0, chain.sizeBytes, runs);
    for (let run = 0, at = 0; run < runs.count; run += 1) {
      const length = runs.lengths[run]!;
      const slot = runs.slots[run]!;
      if (slot > 0) readSync(fds[slot - 1]!, out, at, length, at);
      at += length;
    }
    return out;
  } finally {
    for (const fd of fds) closeSync(fd);
  }
};
