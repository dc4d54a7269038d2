import { pollUntil, TimedOut } from '@cairn/vhost-user/testing';
import { BLK_FEATURE, BLK_STATUS, BLK_TYPE, bits, RING_FEATURE } from '@cairn/virtio/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../support/random.js';
import type { BrokenRule } from './broken-rule.js';
import { brokenRules } from './broken-rules.js';
import { DISK_BYTES, HostileArena, QUEUES } from './hostile-arena.js';
import { act, type Stage } from './model-actions.js';
import { ModelGuest } from './model-guest.js';
import { type PlanContext, randomPlan } from './model-request.js';
import type { RawGuestOptions } from './raw-guest.js';
import type { RawRing } from './raw-ring.js';

// The fuzzer with a model. A guest makes valid requests of every kind, its front-end does what front-ends do, and each
// answer and in the end the whole disk are compared with a plain array of bytes. Once in most runs it breaks one rule,
// by name: that must stop the ring or end the connection that broke it, counted under the right name, and nothing else:
// the guest's other ring, the next connection and the innocent on the same thread go on with the right data.
//
// CAIRN_FUZZ_SECONDS goes on for that long from CAIRN_FUZZ_SEED (default 1) on. A failure names its seed, which repeats
// it alone: CAIRN_FUZZ_SEED=… CAIRN_FUZZ_SEEDS=1.

const SECONDS = Number(process.env['CAIRN_FUZZ_SECONDS'] ?? 0);
const FIRST_SEED = Number(process.env['CAIRN_FUZZ_SEED'] ?? 1);
const CI_SEEDS = Number(process.env['CAIRN_FUZZ_SEEDS'] ?? 60);
const SERIAL = 'fuzzed-by-model';

const optionsOf = (random: Random): RawGuestOptions => {
  const packed = random.chance(0.5);
  const leftOut = [
    [RING_FEATURE.INDIRECT_DESC, 0.3],
    [RING_FEATURE.EVENT_IDX, 0.4],
    [BLK_FEATURE.CONFIG_WCE, 0.2],
    [BLK_FEATURE.FLUSH, 0.1],
  ] as const;
  return {
    packed,
    numQueues: random.chance(0.8) ? QUEUES : 1,
    queueSize: packed ? 4 + random.below(120) : 4 << random.below(6),
    without: bits(...leftOut.filter(([, probability]) => random.chance(probability)).map(([bit]) => bit)),
    inflight: random.chance(0.5),
    slots: random.chance(0.5),
    timeoutMs: 20_000,
  };
};

/** Names with what each has grown by. */
const growth = (before: Record<string, number>, after: Record<string, number>): Record<string, number> =>
  Object.fromEntries(
    Object.entries(after)
      .map(([name, count]) => [name, count - (before[name] ?? 0)] as const)
      .filter(([, count]) => count > 0),
  );

/** Waits until the ring has been stopped for an error. */
const stopped = (ring: RawRing): Promise<true> =>
  pollUntil('the error', () => ring.sawError() || undefined, { timeoutMs: 10_000, fd: () => ring.errFd });

describe('the fuzzer with a model', () => {
  const arenas: HostileArena[] = [];
  const disks = new Map<HostileArena, { bytes: Buffer }>();
  const seen = new Map<string, number>();
  let answered = 0;

  beforeAll(async () => {
    for (const cache of ['direct', 'writeback'] as const) {
      const arena = await HostileArena.start({ cache, args: ['--serial', SERIAL] });
      arenas.push(arena);
      disks.set(arena, { bytes: arena.served.content(0) });
    }
  });
  afterAll(async () => {
    for (const arena of arenas) await arena.close();
  });

  const requests = async ({ guest }: Stage, context: PlanContext, count: number, random: Random) => {
    for (let index = 0; index < count; index += 1)
      await guest.begin(randomPlan(random, context), random.pick(guest.raw.rings), random);
  };

  /** Breaks a rule and checks what comes of it; then the guest is as good as new. */
  const breakRule = async (stage: Stage, rule: BrokenRule, random: Random): Promise<void> => {
    const { arena, guest } = stage;
    const { raw } = guest;
    const ring = random.pick(raw.rings);
    const { faultsByName: before } = await arena.report();
    ring.sawError();
    await rule.break(guest, ring, random);
    if (rule.costs === 'ring') {
      await stopped(ring);
      // The rings beside it answer all that they have and more.
      for (const other of raw.rings) {
        if (other === ring) continue;
        await guest.settle(other);
        const plan = { request: { type: BLK_TYPE.FLUSH }, writes: false, status: BLK_STATUS.OK };
        await guest.begin(plan, other, random);
        await guest.settle(other);
      }
      await raw.frontend.getVringBase(ring.index);
      guest.forget(ring);
      await raw.startRing(ring);
    } else {
      if (raw.frontend.stream.isClosed())
        await expect.poll(async () => (await arena.report()).connected).toBe(false);
      else if (!(await raw.frontend.closedByBackend(10_000))) throw new TimedOut('the end of the connection');
      // What it had taken came back before the end; the rest is offered anew.
      guest.reap();
      await raw.reconnect();
    }
    guest.restarted();
    stage.littered = true;
    expect(growth(before, (await arena.report()).faultsByName)).toEqual({ [rule.fault]: 1 });
    await arena.checkInnocent();
    seen.set(rule.name, (seen.get(rule.name) ?? 0) + 1);
  };

  const run = async (seed: number, history: string[]): Promise<void> => {
    const random = new Random(seed);
    const arena = random.pick(arenas);
    const disk = disks.get(arena)!;
    const options = optionsOf(random);
    history.push(
      JSON.stringify(options, (_, value: unknown) => (typeof value === 'bigint' ? `${value}` : value)),
    );
    const raw = await arena.guest(options);
    const guest = new ModelGuest(raw, { depth: 1 + random.below(24), calls: random.chance(0.5) });
    const stage: Stage = { arena, guest, disk, plugged: [], littered: false, history };
    const context: PlanContext = { disk, reachBytes: DISK_BYTES, serial: SERIAL };
    const before = await arena.report();

    for (let step = 2 + random.below(8); step > 0; step -= 1) {
      await requests(stage, context, random.below(16), random);
      await act(stage, random);
    }
    let broken: BrokenRule | undefined;
    if (random.chance(0.7)) {
      broken = random.pick(brokenRules.filter(({ concerns }) => concerns?.(guest) ?? true));
      history.push(broken.name);
      await breakRule(stage, broken, random);
      await requests(stage, context, 12, random);
    }
    await guest.settle();

    const { faultsByName, errorsByName } = await arena.report();
    expect(growth(before.errorsByName, errorsByName)).toEqual(guest.errors);
    expect(growth(before.faultsByName, faultsByName)).toEqual(broken ? { [broken.fault]: 1 } : {});
    await arena.verify();
    const held = arena.served.content(0);
    if (!held.equals(disk.bytes)) throw new Error('the file holds other bytes than it must');
    answered += guest.answered;
  };

  const named = async (seed: number): Promise<void> => {
    const history: string[] = [];
    try {
      await run(seed, history);
    } catch (error) {
      const repeat = `CAIRN_FUZZ_SEED=${seed} CAIRN_FUZZ_SEEDS=1`;
      const faults = await Promise.all(arenas.map((arena) => arena.lastFault()));
      throw new Error(`${repeat} (${history.join(', ')}): ${String(error)}; ${faults.join(', ')}`, {
        cause: error,
      });
    }
  };

  it(`finds nothing with the seeds ${FIRST_SEED} to ${FIRST_SEED + CI_SEEDS - 1}`, async () => {
    for (let seed = FIRST_SEED; seed < FIRST_SEED + CI_SEEDS; seed += 1) await named(seed);
  });

  it.runIf(SECONDS > 0)(
    `finds nothing in ${SECONDS} seconds`,
    async () => {
      const end = performance.now() + SECONDS * 1000;
      let seed = FIRST_SEED + CI_SEEDS;
      for (; performance.now() < end; seed += 1) await named(seed);
      const missing = brokenRules.map(({ name }) => name).filter((name) => !seen.has(name));
      console.log(
        `${seed - FIRST_SEED} seeds, ${answered} requests checked, ${brokenRules.length - missing.length} of ` +
          `${brokenRules.length} rules broken${missing.length === 0 ? '' : `; not: ${missing.join(', ')}`}`,
      );
    },
    (SECONDS + 120) * 1000,
  );
});
