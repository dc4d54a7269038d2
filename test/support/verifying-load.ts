import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { cacheDirectory, type Guest } from '@cairn/qemu';

const SOURCE = fileURLToPath(new URL('./verifying-load.c', import.meta.url));

const BLOCK_BYTES = 4096;
const MAGIC = 0x6e726143;
/** Words of 32 bits of a block's stamp. */
const AT = { magic: 0, checksum: 1, number: 2, sequence: 3, sequenceHigh: 4 };

const LOG = '/tmp/load.log';
const TABLE = '/tmp/load.table';

/** In a guest that has a lot to do, or that is being moved, a command takes its time. */
const PATIENTLY = { timeoutMs: 180_000 };

export interface LoadOptions {
  /** For instance /dev/vda. */
  device: string;
  /** Blocks of 4 KiB, from the beginning of the disk. */
  blocks: number;
  /** Each has one request in flight. */
  threads: number;
  seed: number;
}

/** The load's own count, since it began. */
export interface LoadCounts {
  requests: number;
  reads: number;
  writes: number;
  flushes: number;
  /** How long the slowest request took in the guest's time. */
  longest_ms: number;
}

/** The static program of verifying-load.c; compiled once and kept with what is kept for guests. */
export const verifyingLoadProgram = (): string => {
  const digest = createHash('sha256').update(readFileSync(SOURCE)).digest('hex').slice(0, 16);
  const program = join(cacheDirectory(), 'guest-programs', digest, 'verifying-load');
  if (existsSync(program)) return program;
  mkdirSync(dirname(program), { recursive: true });
  const unfinished = `${program}.${process.pid}`;
  const options = ['-O2', '-static', '-pthread', '-Wall', '-Wextra', '-Werror'];
  execFileSync(process.env['CC'] ?? 'cc', [...options, '-o', unfinished, SOURCE], { encoding: 'utf8' });
  renameSync(unfinished, program);
  return program;
};

/** A load that runs in a guest and knows what each block must hold; see verifying-load.c. */
export class VerifyingLoad {
  private constructor(
    /** Where it runs; another one after a migration. */
    public guest: Guest,
    private readonly blocks: number,
  ) {}

  /** Starts it; the guest must have the program. */
  static async start(guest: Guest, { device, blocks, threads, seed }: LoadOptions): Promise<VerifyingLoad> {
    const program = `/sbin/verifying-load ${device} ${blocks} ${threads} ${seed} ${TABLE}`;
    await guest.check(`setsid ${program} > ${LOG} 2>&1 & echo $! > /tmp/load.pid`, PATIENTLY);
    return new VerifyingLoad(guest, blocks);
  }

  /** What it has done so far, to the second. Throws with its last lines when it has failed. */
  async counts(): Promise<LoadCounts> {
    const last = await this.guest.check(`tail -n 3 ${LOG}`, PATIENTLY);
    if (/^error:/m.test(last)) throw new Error(`the load in the guest failed:\n${last}`);
    const counts: LoadCounts = { requests: 0, reads: 0, writes: 0, flushes: 0, longest_ms: 0 };
    const line = last.trim().split('\n').at(-1)!;
    for (const key of Object.keys(counts) as (keyof LoadCounts)[])
      counts[key] = Number(new RegExp(`\\b${key}=(\\d+)`).exec(line)?.[1] ?? 0);
    return counts;
  }

  /** Waits until it has done so many more requests than now; throws when it has failed or stands still. */
  async advance(requests: number, timeoutMs = 120_000): Promise<LoadCounts> {
    const deadline = Date.now() + timeoutMs;
    const start = await this.counts();
    for (let now = start; ; now = await this.counts()) {
      if (now.requests - start.requests >= requests) return now;
      if (Date.now() > deadline)
        throw new Error(`the load did ${now.requests - start.requests} requests in ${timeoutMs} ms`);
      await sleep(200);
    }
  }

  /** Ends it, after it has read and verified every block once more. The sequence that each block must have. */
  async finish(): Promise<{ counts: LoadCounts; table: BigUint64Array }> {
    await this.guest.check('kill -TERM $(cat /tmp/load.pid)');
    // `error` also ends the wait: a thread that hangs in the kernel keeps the process for ever.
    await this.guest.check(`until grep -qE '^(verified|error:)' ${LOG}; do sleep 0.1; done`, PATIENTLY);
    const counts = await this.counts();
    const bytes = Buffer.from(await this.guest.check(`base64 ${TABLE}`, PATIENTLY), 'base64');
    if (bytes.length !== this.blocks * 8) throw new Error(`a table of ${bytes.length} bytes`);
    return {
      counts,
      table: BigUint64Array.from({ length: this.blocks }, (_, i) => bytes.readBigUInt64LE(i * 8)),
    };
  }
}

/** Compares a volume's bytes with what the load says that they must be; what is wrong, block by block. */
export const differences = (content: Buffer, table: BigUint64Array): string[] => {
  const wrong: string[] = [];
  table.forEach((sequence, block) => {
    const bytes = content.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    if (sequence === 0n) {
      if (bytes.some((byte) => byte !== 0)) wrong.push(`block ${block} was never written and is not zero`);
      return;
    }
    const word = (at: number) => bytes.readUInt32LE(at * 4);
    const found = (BigInt(word(AT.sequenceHigh)) << 32n) | BigInt(word(AT.sequence));
    if (word(AT.magic) !== MAGIC || word(AT.checksum) !== checksumOf(bytes))
      wrong.push(`block ${block} is torn`);
    else if (word(AT.number) !== block) wrong.push(`block ${block} is block ${word(AT.number)}`);
    else if (found !== sequence) wrong.push(`block ${block} has sequence ${found}, not ${sequence}`);
  });
  return wrong;
};

/** FNV-1a over words of 32 bits, the checksum's own taken for 0. */
const checksumOf = (block: Buffer): number => {
  let sum = 2166136261;
  for (let at = 0; at < BLOCK_BYTES; at += 4)
    sum = Math.imul(sum ^ (at === AT.checksum * 4 ? 0 : block.readUInt32LE(at)), 16777619);
  return sum >>> 0;
};
