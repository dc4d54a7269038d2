import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import type { Wanted } from './cells.js';

/** What can be measured. */
export const SUBJECTS = [
  'matrix',
  'idle',
  'scavenges',
  'metrics',
  'snapshots',
  'layers',
  'live-update',
] as const;
export type Subject = (typeof SUBJECTS)[number];

/** Everything the command line says. */
export interface BenchOptions {
  subject: Subject;
  full: boolean;
  wanted: Wanted;
  peers: readonly string[];
  rounds: number;
  rampSeconds: number;
  seconds: number;
  sizeBytes: number;
  directory: string;
  exports: number;
  extents: number;
}

/** Names of `--peers`. */
export const PEERS = ['cairn', 'qsd', 'bare-loop', 'fio'];

export const benchHelp = `Usage: npm run bench [-- <subject> [options]]

Measures Cairn's vhost-user-blk back-end on this machine, in alternating runs: the back-end on one core, the load on
another. Prints Markdown. Only ratios of one run mean anything; see docs/benchmarks.md.

Subjects:
  matrix       (default) cairn export against qemu-storage-daemon, a bare loop in C, and fio on the bare file
  idle         many idle volumes in one process: memory, attach time, CPU, and one busy volume among them
  scavenges    garbage collections of the back-end under a steady load
  metrics      what counting and timing each request costs
  snapshots    snapshots and clones of 1 GiB and of 1 TiB in a million pieces, against qemu-img; the extent map
  layers       volumes with parents: reads by depth, the stall of a snapshot, folding beside a load
  live-update  how long a guest's disk stands still while one data plane takes over from another

Options of matrix; a list is separated by commas:
  --full             every cell (about an hour), not only those that the project promises something about
  --medium <list>    page-cache, tmpfs, direct, null
  --rw <list>        randread, randwrite, read, write
  --depth <list>     requests in flight in each queue: 1, 32, 128
  --queues <list>    1, 4
  --driver <list>    poll (spins on the used ring), sleep (waits for the call, as a guest does)
                     these five choose from all cells; any of them implies --full
  --peers <list>     ${PEERS.join(', ')}; default all

Options of all subjects:
  --rounds <n>       times each is measured; medians are shown (3)
  --seconds <s>      time of one measurement (1)
  --ramp <s>         time before it that does not count (0.5)
  --size <MiB>       size of the volume (512)
  --directory <path> where the disk's files go (${tmpdir()})
  --exports <n>      volumes of 'idle' (1000)
  --extents <n>      pieces of the large volume of 'snapshots' (1000000)
  --help

Needs qemu-storage-daemon (Debian: qemu-system-common), qemu-img (qemu-utils), fio, and a C compiler; installs what is missing.
`;

/** Reads the command line; undefined when it asks for help. Throws a TypeError that says what is wrong. */
export const parseOptions = (args: readonly string[]): BenchOptions | undefined => {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      full: { type: 'boolean', default: false },
      medium: { type: 'string', default: '' },
      rw: { type: 'string', default: '' },
      depth: { type: 'string', default: '' },
      queues: { type: 'string', default: '' },
      driver: { type: 'string', default: '' },
      peers: { type: 'string', default: PEERS.join(',') },
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '1' },
      ramp: { type: 'string', default: '0.5' },
      size: { type: 'string', default: '512' },
      directory: { type: 'string', default: tmpdir() },
      exports: { type: 'string', default: '1000' },
      extents: { type: 'string', default: '1000000' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return undefined;
  const [named = 'matrix', ...rest] = positionals;
  const subject = SUBJECTS.find((known) => known === named);
  if (!subject || rest.length > 0) throw new TypeError(`unknown subject '${positionals.join(' ')}'`);
  const wanted = {
    media: list(values.medium),
    rw: list(values.rw),
    depths: list(values.depth).map(Number),
    queues: list(values.queues).map(Number),
    drivers: list(values.driver),
  };
  const peers = list(values.peers);
  const unknown = peers.find((peer) => !PEERS.includes(peer));
  if (unknown !== undefined) throw new TypeError(`unknown peer '${unknown}'`);
  return {
    subject,
    full: values.full || Object.values(wanted).some((choice) => choice.length > 0),
    wanted,
    peers,
    rounds: positive('rounds', values.rounds),
    seconds: positive('seconds', values.seconds),
    rampSeconds: positive('ramp', values.ramp),
    sizeBytes: positive('size', values.size) * 2 ** 20,
    directory: values.directory,
    exports: positive('exports', values.exports),
    extents: positive('extents', values.extents),
  };
};

const list = (text: string): string[] => text.split(',').filter((part) => part !== '');

const positive = (name: string, text: string): number => {
  const value = Number(text);
  if (!(value > 0)) throw new TypeError(`--${name} must be a number above 0, not '${text}'`);
  return value;
};
