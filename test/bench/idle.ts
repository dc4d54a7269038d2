import { closeSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { cairnOf, type RunningBackEnd, startPeer } from './back-ends.js';
import { cell, loadTitle } from './cells.js';
import { runLoad } from './loads.js';
import { type BenchContext, median } from './matrix.js';
import { cpuMicros } from './process-cpu.js';
import { markdown } from './table.js';

const VOLUME_BYTES = 2 ** 30;
const BLOCK_BYTES = 4096;
/** Time for a heap to come to rest. */
const SETTLE_MS = 3000;
const IDLE_MS = 10_000;
/** The last attachments of which the median is shown. */
const LAST = 21;
/** Little, because this side fills its guests' memory: that must not be what is timed. */
const GUEST_MEMORY = [{ gpa: 0, sizeBytes: 512 * 1024 }];
const KIB = 1024;

/** Many idle volumes in one process: what each costs, and what they cost a busy one among them. */
export const measureIdle = async (
  { volumes, pace, cores, onProgress }: BenchContext,
  count: number,
): Promise<string> => {
  const directory = volumes.sockets;
  const many = Array.from({ length: count }, (_, index) => idleVolume(directory, index));
  const start = (idle: readonly IdleVolume[]): Promise<RunningBackEnd> =>
    startPeer(cairnOf(idle), volumes.make('page-cache'), { directory, core: cores.backEnd });

  onProgress('one idle volume beside the busy one');
  const one = [idleVolume(directory, count)];
  const alone = await start(one);
  const guests: FakeBlkDisk[] = [];
  try {
    const [first] = await attachAll(one, guests);
    const memoryOfOne = await settledMemory(alone.pid);
    onProgress(`${count} idle volumes beside the busy one`);
    const crowded = await start(many);
    try {
      const attachMillis = await attachAll(many, guests);
      const memoryOfAll = await settledMemory(crowded.pid);
      const cpuBefore = cpuMicros(crowded.pid);
      await setTimeout(IDLE_MS);
      const cpu = cpuMicros(crowded.pid) - cpuBefore;
      const perVolume = (memoryOfAll - memoryOfOne) / (count - 1);
      const rows = [
        ['memory of a process with one idle volume', `${Math.round(memoryOfOne / KIB)} KiB`],
        ['memory of each further idle attached volume', `${(perVolume / KIB).toFixed(1)} KiB`],
        ['attach and first read, alone in its process', `${first!.toFixed(1)} ms`],
        [`the same, median of the first ${LAST}`, `${median(attachMillis.slice(0, LAST)).toFixed(1)} ms`],
        [
          `the same, median of the last ${LAST} of ${count}`,
          `${median(attachMillis.slice(-LAST)).toFixed(1)} ms`,
        ],
        [`CPU while all are idle, in ${IDLE_MS / 1000} s`, `${(cpu / IDLE_MS / 10).toFixed(2)} %`],
      ];
      onProgress('the busy volume, among them and alone, in turn');
      const { load } = cell('page-cache', {});
      const runs = { among: [] as number[], alone: [] as number[] };
      for (let round = 0; round < pace.rounds; round += 1) {
        const times = { rampSeconds: pace.rampSeconds, seconds: pace.seconds };
        const run = async ({ socket }: RunningBackEnd): Promise<number> =>
          (await runLoad({ ...load, ...times, socket }, cores.load)).iops;
        runs.among.push(await run(crowded));
        runs.alone.push(await run(alone));
      }
      const ratio = median(runs.among) / median(runs.alone);
      rows.push([
        `${loadTitle(load)}, among ${count} idle : alone`,
        `${(median(runs.among) / 1000).toFixed(0)} k : ${(median(runs.alone) / 1000).toFixed(0)} k = ${ratio.toFixed(2)} ×`,
      ]);
      return markdown([['', `${count} idle volumes`], ...rows]);
    } finally {
      for (const guest of guests) guest.close();
      await crowded.stop();
    }
  } finally {
    await alone.stop();
  }
};

/** A volume that nobody uses. */
export interface IdleVolume {
  file: string;
  socket: string;
}

const idleVolume = (directory: string, index: number): IdleVolume => {
  const volume = {
    file: join(directory, `idle-${index}.img`),
    socket: join(directory, `idle-${index}.sock`),
  };
  const fd = openSync(volume.file, 'wx', 0o600);
  ftruncateSync(fd, VOLUME_BYTES);
  closeSync(fd);
  return volume;
};

/** Attaches a guest to each, keeps it, and says how long each took until its first read was done, in milliseconds. */
const attachAll = async (idle: readonly IdleVolume[], guests: FakeBlkDisk[]): Promise<number[]> => {
  const millis: number[] = [];
  for (const { socket } of idle) {
    const began = performance.now();
    const guest = await FakeBlkDisk.open(socket, { notify: 'call', memory: GUEST_MEMORY });
    guests.push(guest);
    await guest.read(0, BLOCK_BYTES);
    millis.push(performance.now() - began);
  }
  return millis;
};

const settledMemory = async (pid: number): Promise<number> => {
  await setTimeout(SETTLE_MS);
  return memoryBytes(pid);
};

/** Resident memory of a process in bytes, shared pages in proportion, without what it maps of guests. */
const memoryBytes = (pid: number): number => {
  let counted = true;
  let kib = 0;
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'utf8').split('\n')) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) counted = !line.includes('/memfd:');
    else if (counted && line.startsWith('Pss:')) kib += Number(/\d+/.exec(line)![0]);
  }
  return kib * KIB;
};
