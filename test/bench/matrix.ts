import { type Medium, type Peer, type RunningBackEnd, startPeer } from './back-ends.js';
import type { Cell, MediumName } from './cells.js';
import { type Figures, runFio, runLoad } from './loads.js';
import type { Cores } from './pinning.js';
import type { Volumes } from './volumes.js';

/** How long and how often. */
export interface Pace {
  rounds: number;
  rampSeconds: number;
  seconds: number;
}

/** What every measurement needs. */
export interface BenchContext {
  volumes: Volumes;
  pace: Pace;
  cores: Cores;
  onProgress: (text: string) => void;
}

/** The figures of one cell, by the name of who was measured; each a median of all rounds. */
export interface CellResult {
  cell: Cell;
  figures: Map<string, Figures>;
}

/** Name of the column of fio on the bare file. */
export const FIO = 'fio, bare file';

/**
 * Measures every cell: all peers in turn, and that several times, so that what the machine does besides hits all alike.
 *
 * The peers of one medium all run meanwhile; an idle one costs nothing.
 */
export const runMatrix = async (
  cells: readonly Cell[],
  peers: readonly Peer[],
  options: BenchContext & { fio: boolean },
): Promise<CellResult[]> => {
  const results: CellResult[] = [];
  const media = [...new Set(cells.map(({ medium }) => medium))];
  for (const name of media) {
    const mine = cells.filter(({ medium }) => medium === name);
    const medium = options.volumes.get(name);
    const directory = options.volumes.sockets;
    const queues = Math.max(...mine.map(({ load }) => load.queues));
    const running: [Peer, RunningBackEnd][] = [];
    try {
      for (const peer of peers) {
        const taken = peer.locksFile === true && running.some(([other]) => other.locksFile);
        const own = taken ? options.volumes.make(name) : medium;
        running.push([peer, await startPeer(peer, own, { directory, queues, core: options.cores.backEnd })]);
      }
      for (const cell of mine) results.push(await measureCell(cell, medium, running, options));
    } finally {
      for (const [, backEnd] of running) await backEnd.stop();
    }
  }
  return results;
};

const measureCell = async (
  cell: Cell,
  medium: Medium,
  running: readonly [Peer, RunningBackEnd][],
  { pace, cores, fio, onProgress }: BenchContext & { fio: boolean },
): Promise<CellResult> => {
  const { rampSeconds, seconds } = pace;
  const runs = new Map<string, Figures[]>();
  const add = (name: string, figures: Figures): void => {
    runs.set(name, [...(runs.get(name) ?? []), figures]);
  };
  for (let round = 0; round < pace.rounds; round += 1) {
    for (const [peer, { pid, socket }] of running) {
      if (cell.load.queues > 1 && peer.oneQueue) continue;
      add(
        peer.name,
        await runLoad({ ...cell.load, socket, backEndPid: pid, rampSeconds, seconds }, cores.load),
      );
    }
    const { file } = medium;
    if (fio && file !== undefined)
      add(FIO, await runFio(cell.load, { ...medium, file }, { ...pace, core: cores.backEnd }));
  }
  const figures = new Map([...runs].map(([name, all]) => [name, medianOf(all)]));
  onProgress(progressOf(cell, figures));
  return { cell, figures };
};

const medianOf = (all: readonly Figures[]): Figures => ({
  iops: median(all.map(({ iops }) => iops)),
  cpuMicrosPerIo: median(all.map(({ cpuMicrosPerIo }) => cpuMicrosPerIo)),
  p50Micros: median(all.map(({ p50Micros }) => p50Micros)),
  p99Micros: median(all.map(({ p99Micros }) => p99Micros)),
});

/** The middle value; of an even number the lower of the two. */
export const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)]!;

const progressOf = (
  { medium, load }: { medium: MediumName; load: Cell['load'] },
  figures: Map<string, Figures>,
) =>
  `${medium} ${load.rw} ${load.blockBytes / 1024}k depth ${load.depth} × ${load.queues} ${load.driver}: ` +
  [...figures]
    .map(([name, f]) => `${name} ${(f.iops / 1000).toFixed(0)}k ${f.cpuMicrosPerIo.toFixed(2)}µs`)
    .join(', ');
