import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Cores } from './pinning.js';
import { cpus, loadavg, release, totalmem } from 'node:os';

const GIB = 2 ** 30;

/** The machine in a few lines of Markdown: what a figure must not be read without. */
export const describeMachine = (directory: string, cores: Cores): string => {
  const [cpu] = cpus();
  const disk = firstLineOf('findmnt', ['-n', '-o', 'FSTYPE,SOURCE', '-T', directory]);
  const lines = [
    `${cpus().length} cores of ${cpu?.model.trim() ?? 'unknown'}, ${Math.round(totalmem() / GIB)} GiB${virtual()}`,
    `Linux ${release()}, Node.js ${process.versions.node}, ${firstLineOf('qemu-storage-daemon', ['--version'])}, ${firstLineOf('fio', ['--version'])}`,
    `file system of the disk and of the page cache: ${disk}`,
    `back-end on core ${cores.backEnd}, load on core ${cores.load}`,
    'guest memory: pages of 4 KiB for all',
    `load average at the beginning: ${loadavg()
      .map((load) => load.toFixed(2))
      .join(' ')}`,
  ];
  return lines.map((line) => `- ${line}\n`).join('');
};

const virtual = (): string => {
  const flags = /^flags\s*:.*$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[0] ?? '';
  return flags.includes(' hypervisor') ? ', a virtual machine' : '';
};

const firstLineOf = (program: string, args: readonly string[]): string => {
  if (spawnSync(program, args, { stdio: 'ignore' }).status !== 0) return `no ${program}`;
  return execFileSync(program, args, { encoding: 'utf8' }).split('\n')[0]!.trim().replace(/ +/g, ' ');
};
