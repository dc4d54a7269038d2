import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { MIB, newId } from '@cairn/domain';
import { FakeBlkDisk } from '@cairn/vhost-user/testing';
import { afterEach, describe, expect, it } from 'vitest';
import { type BackEndOptions, cpuMillis } from '../support/back-end.js';
import { startExport } from '../support/export-process.js';
import { LoneNode } from '../support/lone-node.js';
import { serveDisks } from '../support/served-disks.js';

const GUESTS = 4;
const IDLE_MS = 10_000;
/** A process that has just worked tidies its heap some seconds later, once: then it is looked at again. */
const LOOKS = 3;
/** The kernel counts in ticks of 10 ms. */
const ONE_TICK_MS = 10;
/** In ten seconds, by all threads of a process: Node.js has a few of its own, a timer of ours would be seen. */
const FEW_WAKES = 10;

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

/** Attaches a guest that uses its disk for a moment, and then only holds it. */
const attach = async (socketPath: string): Promise<void> => {
  const disk = await FakeBlkDisk.open(socketPath, {
    notify: 'call',
    memory: [{ gpa: 0, sizeBytes: MIB }],
    timeoutMs: 60_000,
  });
  closers.push(() => disk.close());
  for (let i = 0; i < 64; i += 1) await disk.write(i * 4096, Buffer.alloc(4096, i));
  await disk.flush();
};

interface Used {
  cpuMillis: number;
  wakes: number;
}

/** How often the threads of a process have been woken from sleep. */
const wakesOf = (pid: number): number =>
  readdirSync(`/proc/${pid}/task`)
    .map((thread) => readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8'))
    .reduce((sum, status) => sum + Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)![1]), 0);

/** What a process uses in ten seconds, in all its threads, once it has come to rest. */
const usedWhileIdle = async (pid: number): Promise<Used> => {
  const used = { cpuMillis: Infinity, wakes: Infinity };
  for (let look = 0; look < LOOKS && !isIdle(used); look += 1) {
    const [cpu, wakes] = [cpuMillis(pid), wakesOf(pid)];
    await setTimeout(IDLE_MS);
    used.cpuMillis = cpuMillis(pid) - cpu;
    used.wakes = wakesOf(pid) - wakes;
  }
  return used;
};
const isIdle = (used: Used): boolean => used.cpuMillis <= ONE_TICK_MS && used.wakes <= FEW_WAKES;

/** A `cairn export` with guests; its process. */
const exportWithGuests = async (args: readonly string[]): Promise<number> => {
  const start = (options: BackEndOptions) => startExport({ ...options, args });
  const served = await serveDisks(start, { sizeBytes: MIB, count: GUESTS });
  closers.push(() => served.close());
  for (const socket of served.sockets) await attach(socket);
  return served.backEnd.pid;
};

/** A data plane with guests that reports to nobody; its process. */
const nodeWithGuests = async (): Promise<number> => {
  const node = await LoneNode.start();
  closers.push(() => node.stop());
  for (let i = 0; i < GUESTS; i += 1) await attach(await node.attach(newId('vol'), { sizeBytes: MIB }));
  return node.app.pid;
};

describe('while their guests do nothing', () => {
  it('an export, one with rate limits and a data plane use no CPU', async () => {
    const pids = [
      await exportWithGuests([]),
      await exportWithGuests(['--iops', '10000', '--bps', '1G']),
      await nodeWithGuests(),
    ];
    const used = await Promise.all(pids.map(usedWhileIdle));
    expect(used.filter((one) => !isIdle(one))).toEqual([]);
  });
});
