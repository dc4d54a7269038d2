import { readdirSync } from 'node:fs';
import type { ReactorStatus } from '@cairn/block-export';
import type { PoolCapacity } from '@cairn/storage';
import type { Family, Sample } from './exposition.js';

const MICROS_PER_SECOND = 1_000_000;
const REACTOR = ['reactor'] as const;

/** The pool with its name, and whether less is free than the node was told to warn of. */
export type NamedPool = PoolCapacity & { readonly poolId: string; readonly lowSpace: boolean };

const ofReactor =
  (value: (status: ReactorStatus) => number) =>
  (status: ReactorStatus): Sample<number>[] => [[[String(status.reactor)], value(status)]];

/** What is told of each reactor thread. */
export const reactorFamilies: readonly Family<ReactorStatus>[] = [
  {
    name: 'cairn_reactor_rings',
    type: 'gauge',
    labels: REACTOR,
    help: 'Virtqueues that the thread serves.',
    samples: ofReactor(({ rings }) => rings),
  },
  {
    name: 'cairn_reactor_cpu_seconds_total',
    type: 'counter',
    labels: REACTOR,
    help: 'CPU time of the thread, in steps of the clock of the kernel (10 ms).',
    samples: ofReactor(({ cpuSeconds }) => cpuSeconds),
  },
  {
    name: 'cairn_reactor_sleeps_total',
    type: 'counter',
    labels: REACTOR,
    help: 'Times that the thread slept until something happened.',
    samples: ofReactor(({ sleeps }) => sleeps),
  },
  {
    name: 'cairn_reactor_polls_total',
    type: 'counter',
    labels: ['reactor', 'outcome'],
    help: 'Times that the thread looked on instead of sleeping: it met a request, or it was in vain.',
    samples: ({ reactor, pollsMet, pollsInVain }) => [
      [[String(reactor), 'met'], pollsMet],
      [[String(reactor), 'vain'], pollsInVain],
    ],
  },
  {
    name: 'cairn_reactor_shortages_total',
    type: 'counter',
    labels: REACTOR,
    help: 'Times that a front-end had to wait for want of descriptors or memory on the host.',
    samples: ofReactor(({ shortages }) => shortages),
  },
];

const ofPool =
  (field: keyof PoolCapacity) =>
  (pool: NamedPool): Sample<number>[] => [[[pool.poolId], pool[field]]];

/** What is told of the pool. */
export const poolFamilies: readonly Family<NamedPool>[] = [
  {
    name: 'cairn_pool_total_bytes',
    type: 'gauge',
    labels: ['pool'],
    help: "The size of the pool's file system.",
    samples: ofPool('totalBytes'),
  },
  {
    name: 'cairn_pool_free_bytes',
    type: 'gauge',
    labels: ['pool'],
    help: "What is free on the pool's file system.",
    samples: ofPool('freeBytes'),
  },
  {
    name: 'cairn_pool_provisioned_bytes',
    type: 'gauge',
    labels: ['pool'],
    help: 'What the volumes of the pool may come to.',
    samples: ofPool('provisionedBytes'),
  },
  {
    name: 'cairn_pool_low_space',
    type: 'gauge',
    labels: ['pool'],
    help: 'Whether less is free than CAIRN_LOW_SPACE_PERCENT.',
    samples: ({ poolId, lowSpace }) => [[[poolId], Number(lowSpace)]],
  },
];

/** What is told of this process, under the names that Prometheus clients have agreed on. */
export const processFamilies: readonly Family<NodeJS.Process>[] = [
  {
    name: 'process_cpu_seconds_total',
    type: 'counter',
    labels: [],
    help: 'CPU time of the process in user and system mode.',
    samples: (process) => {
      const { user, system } = process.cpuUsage();
      return [[[], (user + system) / MICROS_PER_SECOND]];
    },
  },
  {
    name: 'process_resident_memory_bytes',
    type: 'gauge',
    labels: [],
    help: "Resident memory of the process, with what it has touched of its guests' memory.",
    samples: (process) => [[[], process.memoryUsage.rss()]],
  },
  {
    name: 'process_open_fds',
    type: 'gauge',
    labels: [],
    help: 'Descriptors that the process has open.',
    samples: () => [[[], readdirSync('/proc/self/fd').length]],
  },
  {
    name: 'process_start_time_seconds',
    type: 'gauge',
    labels: [],
    help: 'When the process was started, in seconds since 1970.',
    samples: () => [[[], performance.timeOrigin / 1000]],
  },
];
