import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { follow, type StartBackEnd } from './back-end.js';

const PROGRAM = 'qemu-storage-daemon';

/** Whether QEMU's own back-end is installed. */
export const hasStorageDaemon = (): boolean => spawnSync(PROGRAM, ['--version']).status === 0;

/** Starts QEMU's back-end, the independent one that the fake front-end itself is checked against. */
export const startStorageDaemon: StartBackEnd = async ({ disks, numQueues = 1, readOnly = false, cache }) => {
  const args = disks.flatMap(({ file, socket }, i) => [
    '--blockdev',
    `driver=file,node-name=f${i},filename=${file},read-only=${readOnly ? 'on' : 'off'},cache.direct=${cache === 'direct' ? 'on' : 'off'}`,
    '--export',
    `type=vhost-user-blk,id=e${i},node-name=f${i},addr.type=unix,addr.path=${socket},` +
      `writable=${readOnly ? 'off' : 'on'},num-queues=${numQueues}`,
  ]);
  const child = spawn(PROGRAM, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const followed = follow(child);
  while (!disks.every(({ socket }) => existsSync(socket))) {
    if (!followed.isRunning()) throw new Error(`${PROGRAM} ended: ${followed.log()}`);
    await setTimeout(10);
  }
  return { pid: child.pid!, disks, ...followed };
};
