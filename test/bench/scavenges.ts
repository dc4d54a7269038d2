import { setTimeout } from 'node:timers/promises';
import { cairn, startPeer } from './back-ends.js';
import { cell, loadTitle } from './cells.js';
import { runLoad } from './loads.js';
import type { BenchContext } from './matrix.js';
import { markdown } from './table.js';

/** The load begins well before and ends well after the time that is looked at. */
const BEFORE_MS = 3000;
const LOOK_MS = 3000;
const AFTER_MS = 1000;

const CELLS = [
  cell('page-cache', { depth: 32 }),
  cell('page-cache', { depth: 32, queues: 4, driver: 'sleep' }),
  cell('tmpfs', { depth: 32, rw: 'randwrite' }),
  cell('null', { depth: 128 }),
];

/** Garbage collections of a back-end in all its threads, under a load that has been going on for a while. */
export const measureScavenges = async ({ volumes, cores, onProgress }: BenchContext): Promise<string> => {
  // V8 writes its trace with stdio, which would keep it until the end when it goes into a pipe.
  const peer = cairn('cairn', { before: ['stdbuf', '-oL'], nodeFlags: ['--trace-gc'] });
  const rows: string[][] = [];
  for (const { medium, load } of CELLS) {
    const options = { directory: volumes.sockets, queues: load.queues, core: cores.backEnd };
    const backEnd = await startPeer(peer, volumes.get(medium), options);
    try {
      const times = { rampSeconds: BEFORE_MS / 1000, seconds: (LOOK_MS + AFTER_MS) / 1000 };
      const running = runLoad({ ...load, ...times, socket: backEnd.socket }, cores.load);
      await setTimeout(BEFORE_MS);
      const before = backEnd.output().length;
      await setTimeout(LOOK_MS);
      const seen = collectionsIn(backEnd.output().slice(before));
      const { iops } = await running;
      const all = collectionsIn(backEnd.output());
      const ios = Math.round((iops * LOOK_MS) / 1e6);
      rows.push([`${medium}, ${loadTitle(load)}`, `${ios} k`, `${seen.length}`, `${all.length}`]);
      onProgress(rows.at(-1)!.join(' | '));
    } finally {
      await backEnd.stop();
    }
  }
  return markdown([['load', 'I/Os', 'collections meanwhile', 'since its start'], ...rows]);
};

/** Lines such as `[123:0x7f…]    45 ms: Scavenge 5.1 (6.0) -> 4.9 (7.0) MB, …`. */
const collectionsIn = (output: string): string[] =>
  output.split('\n').filter((line) => /ms: (Scavenge|Mark-Compact)/.test(line));
