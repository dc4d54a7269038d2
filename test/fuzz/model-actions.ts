import { truncateSync } from 'node:fs';
import { DirtyBitmap, parseBlkConfig, WRITEBACK_OFFSET, BLK_CONFIG_BYTES } from '@cairn/vhost-user/testing';
import { BLK_FEATURE, type RamRegion } from '@cairn/virtio/testing';
import { announceSize } from '../support/export-process.js';
import type { Random } from '../support/random.js';
import type { HostileArena } from './hostile-arena.js';
import type { ModelGuest } from './model-guest.js';

// What an honest guest, its front-end and its operator do between requests, and under them: rings stop and start,
// memory comes and goes, front-ends reconnect, devices are reset, the disk grows.

/** What an action may touch. */
export interface Stage {
  arena: HostileArena;
  guest: ModelGuest;
  /** What the disk must hold. */
  disk: { bytes: Buffer };
  /** Memory that was plugged in. */
  plugged: RamRegion[];
  /** Tables of chains that were given up lie about in guest memory: none of it can be taken away. */
  littered: boolean;
  /** What was done, for whoever has to find out why it failed. */
  history: string[];
}

const KiB = 1024;
const MAX_PLUGGED = 4;
const GROWTH_BYTES = 64 * KiB;
/** No guest of these has memory beyond. */
const MEMORY_END = 0x4_0000_0000;

type Action = (stage: Stage, random: Random) => Promise<void>;

/** Stops a ring under its requests, and starts it where it stopped. */
const cycleRing: Action = async ({ guest }, random) => {
  const ring = random.pick(guest.raw.rings);
  const base = await guest.raw.frontend.getVringBase(ring.index);
  guest.reap();
  // Nothing is in flight: what it did not take is still the driver's, and the ring goes on behind what came back.
  if (base !== ring.base)
    throw new Error(`ring ${ring.index} stopped at ${base}, its driver is at ${ring.base}`);
  await guest.raw.startRing(ring, { base });
  guest.restarted();
};

const disableRing: Action = async ({ guest }, random) => {
  const ring = random.pick(guest.raw.rings);
  await guest.raw.frontend.setVringEnable(ring.index, false);
  guest.reap();
  await guest.raw.frontend.setVringEnable(ring.index, true);
};

const replaceFds: Action = async ({ guest }, random) => {
  const { frontend, rings } = guest.raw;
  const ring = random.pick(rings);
  await frontend.setVringKick(ring.index, ring.kickFd);
  await frontend.setVringCall(ring.index, ring.callFd);
  await frontend.setVringErr(ring.index, ring.errFd);
};

/** Has the back-end look at a ring by itself for a while, without kicks. */
const withoutKicks: Action = async ({ guest }, random) => {
  const { frontend, rings } = guest.raw;
  const ring = random.pick(rings);
  await frontend.setVringKick(ring.index);
  await guest.settle(ring);
  await frontend.setVringKick(ring.index, ring.kickFd);
};

/** Resets the device under its requests: what it had taken is answered, the rest is forgotten. */
const resetDevice: Action = async (stage, random) => {
  const { guest } = stage;
  const { raw } = guest;
  if (random.chance(0.5)) await raw.frontend.resetDevice();
  else await raw.frontend.setStatus(0);
  for (const ring of raw.rings) guest.forget(ring);
  stage.littered = true;
  await raw.frontend.setFeatures(raw.features);
  for (const ring of raw.rings) await raw.startRing(ring);
  guest.restarted();
};

/** Ends the connection and comes again; without a record of what is in flight nothing may be. */
const reconnect: Action = async ({ guest }) => {
  if (!guest.raw.options.inflight) await guest.settle();
  await guest.raw.reconnect();
  guest.restarted();
};

const plugMemory: Action = async ({ guest, plugged }, random) => {
  const place = random.below(MAX_PLUGGED);
  const sizeBytes = KiB * random.pick([64, 256, 512]);
  const gpa = 0x2_0000_0000 + place * 0x1000_0000;
  if (plugged.some((region) => region.gpa === gpa)) return;
  plugged.push(await guest.raw.plug({ gpa, sizeBytes, mmapOffsetBytes: 4096 * random.below(3) }));
};

const unplugMemory: Action = async ({ guest, plugged, littered }, random) => {
  if (plugged.length === 0 || littered) return;
  const [region] = plugged.splice(random.below(plugged.length), 1);
  await guest.settle();
  await guest.raw.unplug(region!);
};

/** Tells of the same memory again, under requests. */
const repeatMemory: Action = async ({ guest }) => {
  if (!guest.raw.options.slots) await guest.raw.frontend.setMemTable(guest.raw.ram);
};

const toggleCache: Action = async ({ guest }, random) => {
  const { raw } = guest;
  const value = random.below(2);
  if (raw.has(BLK_FEATURE.CONFIG_WCE)) await raw.frontend.setConfig(WRITEBACK_OFFSET, Uint8Array.of(value));
};

const grow: Action = async ({ arena, guest, disk }) => {
  // Requests past the end of before must have failed.
  await guest.settle();
  const sizeBytes = disk.bytes.length + GROWTH_BYTES;
  const file = arena.served.files[0]!;
  truncateSync(file, sizeBytes);
  await announceSize(arena.control, sizeBytes, file);
  disk.bytes = Buffer.concat([disk.bytes, Buffer.alloc(GROWTH_BYTES)]);
  const { capacitySectors } = parseBlkConfig(await guest.raw.frontend.getConfig(0, BLK_CONFIG_BYTES));
  if (capacitySectors * 512 !== sizeBytes) throw new Error(`the disk shows ${capacitySectors} sectors`);
};

/** Begins to log what the device writes, as a migration does, or gives it up. */
const toggleLog: Action = async ({ arena, guest }) => {
  if (guest.raw.log) return guest.useLog(undefined);
  const log = new DirtyBitmap(MEMORY_END);
  arena.later(() => log.close());
  return guest.useLog(log);
};

const takeLog: Action = ({ guest }) => guest.takeLog();

const settle: Action = ({ guest }) => guest.settle();

/** How often each is taken, among the others. */
export const actions: readonly [weight: number, action: Action][] = [
  [6, cycleRing],
  [3, disableRing],
  [2, replaceFds],
  [1, withoutKicks],
  [3, resetDevice],
  [3, reconnect],
  [4, plugMemory],
  [3, unplugMemory],
  [2, repeatMemory],
  [2, toggleCache],
  [1, grow],
  [2, settle],
  [4, toggleLog],
  [3, takeLog],
];
const ALL_WEIGHTS = actions.reduce((sum, [weight]) => sum + weight, 0);

/** Does one of them. */
export const act = async (stage: Stage, random: Random): Promise<void> => {
  let at = random.below(ALL_WEIGHTS);
  for (const [weight, action] of actions) {
    if (at < weight) {
      stage.history.push(action.name);
      return action(stage, random);
    }
    at -= weight;
  }
  return undefined;
};
