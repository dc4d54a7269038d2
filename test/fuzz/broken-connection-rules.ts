import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { constants } from 'node:os';
import { setImmediate } from 'node:timers/promises';
import { check, native } from '@cairn/native';
import { FLAG, MESSAGE, PROTOCOL_FEATURE, regionBytes } from '@cairn/vhost-user/testing';
import { bits, RING_FEATURE } from '@cairn/virtio/testing';
import type { Random } from '../support/random.js';
import type { BrokenRule } from './broken-rule.js';
import { tolerate } from './hostile-arena.js';
import type { ModelGuest } from './model-guest.js';
import type { RawRing } from './raw-ring.js';
import { inflightBytes, u32, u64 } from './wire-bytes.js';

// What a front-end may do wrong.

/** One message, sent without waiting for what comes of it. */
const message = (
  name: string,
  fault: string,
  send: (guest: ModelGuest, random: Random, ring: RawRing) => void | Promise<void>,
  concerns?: BrokenRule['concerns'],
): BrokenRule => ({
  name,
  fault,
  costs: 'connection',
  break: (guest, ring, random) => send(guest, random, ring),
  ...(concerns && { concerns }),
});

const withFd = (make: () => number, use: (fd: number) => void): void => {
  const fd = make();
  try {
    use(fd);
  } finally {
    closeSync(fd);
  }
};
const memfd = (sizeBytes: number) => () => check('memfd', native.memfd('hostile', sizeBytes));

/** Rules whose breach costs the connection. */
export const connectionRules: readonly BrokenRule[] = [
  message('an unknown message', 'message-unknown', ({ raw }, random) => {
    raw.frontend.stream.send(random.pick([0, 19, 22, 26, 35, 41, 99, 0xffff_ffff]), u64(0));
  }),
  message('a message of another version', 'version-unsupported', ({ raw }, random) => {
    raw.frontend.stream.send(MESSAGE.GET_FEATURES, undefined, { flags: random.pick([0, 2, 3, 0xffff_fffc]) });
  }),
  message('a payload that is no payload of its message', 'payload-size-invalid', ({ raw }, random) => {
    const [code, sizes] = random.pick<[number, number[]]>([
      [MESSAGE.GET_FEATURES, [1, 8, 0xffff_ffff]],
      [MESSAGE.SET_FEATURES, [0, 7, 9, 4096]],
      [MESSAGE.SET_VRING_ADDR, [0, 39, 41]],
      [MESSAGE.SET_MEM_TABLE, [0, 7, 8 + 32 * 9, 0x8000_0000]],
      [MESSAGE.GET_CONFIG, [0, 11, 12 + 257]],
    ]);
    raw.frontend.stream.send(code, undefined, { sizeBytes: random.pick(sizes) });
  }),
  message('a memory table of another length than it says', 'payload-size-invalid', ({ raw }, random) => {
    const payload = Buffer.concat([u32(random.pick([0, 3, 8, 9, 0xffff_ffff]), 0), Buffer.alloc(64)]);
    raw.frontend.stream.send(MESSAGE.SET_MEM_TABLE, payload);
  }),
  message('a message that is cut off', 'message-truncated', ({ raw }, random) => {
    const whole = Buffer.concat([u32(MESSAGE.SET_VRING_NUM, FLAG.VERSION, 8), u32(0, 64)]);
    raw.frontend.stream.sendBytes(whole.subarray(0, 1 + random.below(whole.length - 1)));
    raw.frontend.close();
  }),
  message('descriptors that nobody asked for', 'descriptor-count-invalid', ({ raw }, random) => {
    withFd(memfd(4096), (fd) => {
      const fds = Array.from({ length: 1 + random.below(16) }, () => fd);
      raw.frontend.stream.send(random.pick([MESSAGE.GET_FEATURES, MESSAGE.SET_OWNER]), undefined, { fds });
    });
  }),
  message('a kick that is a file', 'descriptor-type-invalid', ({ raw }, random, ring) => {
    const code = random.pick([MESSAGE.SET_VRING_KICK, MESSAGE.SET_VRING_CALL, MESSAGE.SET_VRING_ERR]);
    const make = random.chance(0.5) ? memfd(8) : () => openSync('/dev/null', 'r+');
    withFd(make, (fd) => raw.frontend.stream.send(code, u64(ring.index), { fds: [fd] }));
  }),
  message('a kick without its descriptor', 'descriptor-count-invalid', ({ raw }, _, ring) => {
    raw.frontend.stream.send(MESSAGE.SET_VRING_KICK, u64(ring.index));
  }),
  message('features that were not offered', 'features-not-offered', ({ raw }, random) => {
    raw.frontend.stream.send(MESSAGE.SET_FEATURES, u64(raw.features | bits(random.pick([0, 3, 24, 33, 63]))));
  }),
  message('features changed under running rings', 'vring-running', ({ raw }) => {
    raw.frontend.stream.send(MESSAGE.SET_FEATURES, u64(raw.features ^ bits(RING_FEATURE.EVENT_IDX)));
  }),
  message('protocol features that were not offered', 'protocol-features-not-offered', ({ raw }, random) => {
    raw.frontend.stream.send(
      MESSAGE.SET_PROTOCOL_FEATURES,
      u64(1n << BigInt(random.pick([2, 4, 8, 17, 63]))),
    );
  }),
  message('a message of a feature that was given up', 'message-not-negotiated', ({ raw }) => {
    raw.frontend.stream.send(MESSAGE.SET_PROTOCOL_FEATURES, u64(bits(PROTOCOL_FEATURE.MQ)));
    raw.frontend.stream.send(MESSAGE.GET_STATUS);
  }),
  message('a ring that there is not', 'vring-index-invalid', ({ raw }, random) => {
    const code = random.pick([MESSAGE.SET_VRING_NUM, MESSAGE.SET_VRING_BASE, MESSAGE.SET_VRING_ENABLE]);
    raw.frontend.stream.send(code, u32(random.pick([2, 255, 256, 0x7fff_ffff, 0xffff_ffff]), 1));
  }),
  message('a running ring of another size', 'vring-running', ({ raw }, _, ring) => {
    raw.frontend.stream.send(MESSAGE.SET_VRING_NUM, u32(ring.index, 2 * ring.driver.size));
  }),
  message('a ring of no possible size', 'vring-size-invalid', async ({ raw }, random, ring) => {
    await raw.frontend.getVringBase(ring.index);
    const sizes = [0, 32769, 65536, 0xffff_ffff, ...(raw.options.packed ? [] : [3, 12, 100])];
    raw.frontend.stream.send(MESSAGE.SET_VRING_NUM, u32(ring.index, random.pick(sizes)));
  }),
  message('a ring in no memory', 'vring-address-unmapped', async ({ raw }, random, ring) => {
    await raw.frontend.getVringBase(ring.index);
    const place = raw.addressesOf(ring);
    const spoilt = { ...place, [random.pick(['desc', 'avail', 'used'])]: random.pick([0, 4096, 2 ** 40]) };
    await tolerate(raw.startRing(ring, { place: spoilt }));
  }),
  message('ring addresses past 2^53', 'number-too-large', ({ raw }, random, ring) => {
    const addresses = [0n, 0n, 0n, 0n];
    addresses[random.below(3)] = random.pick([2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]);
    raw.frontend.stream.send(MESSAGE.SET_VRING_ADDR, Buffer.concat([u32(ring.index, 0), u64(...addresses)]));
  }),
  message('memory regions that overlap', 'memory-regions-overlap', ({ raw }, random) => {
    const region = { gpa: 0, sizeBytes: 8192, userAddress: 0x7000_0000, mmapOffsetBytes: 0 };
    const other = random.chance(0.5)
      ? { gpa: 4096, userAddress: 0x7100_0000 }
      : { gpa: 1 << 20, userAddress: 0x7000_1000 };
    const payload = Buffer.concat([u32(2, 0), regionBytes(region), regionBytes({ ...region, ...other })]);
    withFd(memfd(8192), (fd) => {
      raw.frontend.stream.send(MESSAGE.SET_MEM_TABLE, payload, { fds: [fd, fd] });
    });
  }),
  message('a memory region past the end of its file', 'memory-region-invalid', ({ raw }, random) => {
    const [sizeBytes, mmapOffsetBytes] = random.pick([
      [8192, 0],
      [4096, 4096],
      [2 ** 40, 0],
      [0, 0],
      [2048, 512],
    ] as const);
    const region = { gpa: 0, sizeBytes, userAddress: 0x7000_0000, mmapOffsetBytes };
    withFd(memfd(4096), (fd) => {
      const payload = Buffer.concat([u32(1, 0), regionBytes(region)]);
      raw.frontend.stream.send(MESSAGE.SET_MEM_TABLE, payload, { fds: [fd] });
    });
  }),
  message('a memory region that was never there taken away', 'memory-region-invalid', ({ raw }, random) => {
    const region = { ...raw.ram.regions[0]!, userAddress: 4096 * random.below(1000) };
    raw.frontend.stream.send(MESSAGE.REM_MEM_REG, Buffer.concat([u64(0), regionBytes(region)]));
  }),
  message('a configuration that is the device’s alone', 'config-invalid', ({ raw }, random) => {
    const bytes = Buffer.alloc(1 + random.below(8));
    const offset = random.pick([0, 20, 31, 33, 250, 0xffff_ffff]);
    raw.frontend.stream.send(MESSAGE.SET_CONFIG, Buffer.concat([u32(offset, bytes.length, 0), bytes]));
  }),
  message('an in-flight area under running rings', 'vring-running', ({ raw }) => {
    withFd(memfd(1 << 16), (fd) => {
      const payload = inflightBytes(1 << 16, 0, raw.rings.length, 64);
      raw.frontend.stream.send(MESSAGE.SET_INFLIGHT_FD, payload, { fds: [fd] });
    });
  }),
  message('an in-flight area that is too small', 'memory-region-invalid', async ({ raw }, random) => {
    for (const { index } of raw.rings) await raw.frontend.getVringBase(index);
    withFd(memfd(4096), (fd) => {
      const payload = random.pick([
        inflightBytes(4096, 0, 2, 1024),
        inflightBytes(8192, 0, 1, 4),
        inflightBytes(4096, 4096, 1, 4),
        inflightBytes(4096, 0, 3, 4),
        inflightBytes(4096, 0, 0, 4),
        inflightBytes(4096, 0, 1, 0),
      ]);
      raw.frontend.stream.send(MESSAGE.SET_INFLIGHT_FD, payload, { fds: [fd] });
    });
  }),
  message('answers that are never read', 'reply-not-taken', async ({ raw }) => {
    const many = Buffer.concat(Array.from({ length: 100 }, () => u32(MESSAGE.GET_FEATURES, FLAG.VERSION, 0)));
    const none = new Int32Array(0);
    const { EAGAIN } = constants.errno;
    // Until the back-end has closed; what does not fit now is sent later.
    for (
      let at = 0, sent = 0;
      sent >= 0 || sent === -EAGAIN;
      at = sent > 0 ? (at + sent) % many.length : at
    ) {
      sent = native.send(raw.frontend.stream.fd, many, at, many.length - at, none, 0);
      if (sent < 0) await setImmediate();
    }
  }),
  {
    name: 'memory that is cut off under a request',
    fault: 'memory-truncated',
    costs: 'connection',
    break: async (guest, ring) => {
      const { raw } = guest;
      await guest.settle();
      await guest.roomFor(ring, 3);
      const region = await raw.plug({ gpa: 0x3_0000_0000, sizeBytes: 0x1000 });
      const header = raw.ram.allocate(16, 16, raw.ram.regions.indexOf(region));
      const status = raw.ram.allocate(1, 1, 1);
      const request = raw.submit(
        ring.index,
        [
          { gpa: header, lengthBytes: 16, writable: false },
          { gpa: status, lengthBytes: 1, writable: true },
        ],
        { show: false },
      );
      ftruncateSync(region.fd, 0);
      ring.publish();
      ring.kick();
      await raw.frontend.closedByBackend();
      // Nobody offers that request again, as its header is gone.
      raw.release(request);
      raw.abandon();
      for (const each of raw.rings) each.reset();
      raw.forgetInflight();
      raw.ram.unplug(region);
    },
  },
];
