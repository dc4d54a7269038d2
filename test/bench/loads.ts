import { execFile, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Medium } from './back-ends.js';
import type { LoadResult, LoadSpec } from './load/load-run.js';
import { pinnedTo } from './pinning.js';
import { cpuMicros } from './process-cpu.js';

const LOAD_PROCESS = fileURLToPath(new URL('load/load-process.js', import.meta.url));
const GRACE_MS = 20_000;
const SAMPLE_MS = 20;

/** What a load asks for, apart from whom. */
export type Load = Pick<LoadSpec, 'rw' | 'blockBytes' | 'depth' | 'queues' | 'driver'>;

/** What both kinds of run tell. */
export type Figures = Pick<LoadResult, 'iops' | 'cpuMicrosPerIo' | 'p50Micros' | 'p99Micros'>;

/** Runs the load generator in a process of its own, pinned to its core. */
export const runLoad = async (spec: LoadSpec, core: number): Promise<LoadResult> => {
  const command = pinnedTo(core, [process.execPath, LOAD_PROCESS, JSON.stringify(spec)]);
  const timeout = (spec.rampSeconds + spec.seconds) * 1000 + GRACE_MS;
  const { stdout } = await promisify(execFile)(command[0]!, command.slice(1), { timeout });
  return JSON.parse(stdout) as LoadResult;
};

/**
 * The same load by fio straight on the file: io_uring, on the back-end's core, so that what a back-end adds shows.
 *
 * Its buffers are shared memory in pages of 4 KiB, as the guest's are.
 */
export const runFio = async (
  load: Load,
  medium: Medium & { file: string },
  { rampSeconds, seconds, core }: { rampSeconds: number; seconds: number; core: number },
): Promise<Figures> => {
  const depth = load.depth * load.queues;
  const [program, ...args] = pinnedTo(core, [
    'fio',
    '--name=bare',
    '--thread',
    '--ioengine=io_uring',
    `--filename=${medium.file}`,
    `--size=${medium.sizeBytes}`,
    `--rw=${load.rw}`,
    `--bs=${load.blockBytes}`,
    `--iodepth=${depth}`,
    `--iodepth_batch_submit=${Math.ceil(depth / 4)}`,
    `--iodepth_batch_complete_max=${depth}`,
    `--direct=${medium.direct ? 1 : 0}`,
    '--mem=mmapshared',
    '--invalidate=0',
    '--norandommap',
    '--time_based',
    `--runtime=${rampSeconds + seconds}`,
    // From submission to completion: a read of the page cache completes while it is submitted.
    '--clat_percentiles=0',
    '--lat_percentiles=1',
    '--output-format=json',
  ]);
  const child = spawn(program!, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  let cpu = 0;
  const sample = setInterval(() => {
    try {
      cpu = cpuMicros(child.pid!);
    } catch {
      // It has ended; the last sample stands.
    }
  }, SAMPLE_MS);
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve));
  clearInterval(sample);
  if (status !== 0) throw new Error(`fio ended with ${status}: ${output}`);
  const { jobs } = JSON.parse(output.slice(output.indexOf('{'))) as FioReport;
  const side = load.rw.endsWith('read') ? jobs[0]!.read : jobs[0]!.write;
  return {
    iops: side.iops,
    cpuMicrosPerIo: cpu / side.total_ios,
    p50Micros: (side.lat_ns.percentile?.['50.000000'] ?? 0) / 1000,
    p99Micros: (side.lat_ns.percentile?.['99.000000'] ?? 0) / 1000,
  };
};

/** The part of fio's report that is read. */
interface FioReport {
  jobs: { read: FioSide; write: FioSide }[];
}

interface FioSide {
  iops: number;
  total_ios: number;
  lat_ns: { percentile?: Record<string, number> };
}
