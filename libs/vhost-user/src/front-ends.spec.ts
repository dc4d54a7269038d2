import { closeSync } from 'node:fs';
import { FEATURE } from '@cairn/virtio';
import { bits } from '@cairn/virtio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PROTOCOL_FEATURE } from './testing/index.js';
import { DirtyBitmap } from './testing/dirty-bitmap.js';
import { u32, u64 } from './testing/payload.js';
import { PlayedFrontend } from './testing/played-frontend.js';
import { SessionRig } from './testing/session-rig.js';

// What the front-ends of the field send, in their order: read from their sources, versions as named.

const P = PROTOCOL_FEATURE;
const CONFIG_BYTES = 60; // struct virtio_blk_config as they know it
const RINGS = [0, 1];

let rig: SessionRig;
beforeEach(() => {
  rig = new SessionRig();
});
afterEach(() => {
  rig.close();
  expect(rig.faults).toEqual([undefined]);
});

/** What is offered of what a front-end knows. */
const agreed = (offer: Buffer, known: bigint): bigint => offer.readBigUInt64LE() & known;
const expectRunning = (index: number, nextAvail = 0) => {
  const turns = rig.backend.log.filter((line) => line === `start ${index}` || line === `stop ${index}`);
  expect(turns.at(-1)).toBe(`start ${index}`);
  expect(rig.backend.starts.get(index)).toMatchObject({ size: 8, nextAvail });
};

describe('QEMU 8.1 and later', () => {
  const KNOWN = bits(FEATURE.VERSION_1, FEATURE.BLK_FLUSH, FEATURE.VHOST_USER_PROTOCOL_FEATURES);
  const PROTOCOL = bits(
    ...[P.MQ, P.LOG_SHMFD, P.REPLY_ACK, P.CONFIG, P.INFLIGHT_SHMFD, P.CONFIGURE_MEM_SLOTS, P.STATUS],
  );
  const OK = { acknowledge: 1, driver: 2, driverOk: 4, featuresOk: 8 };
  let qemu: PlayedFrontend;
  let features: bigint;

  const addStatus = async (status: number) => {
    const before = (await qemu.ask('GET_STATUS')).readUInt32LE();
    await qemu.tell('SET_STATUS', u64(before | status));
  };
  const setFeatures = async () => {
    await qemu.tell('SET_FEATURES', u64(features));
    await addStatus(OK.featuresOk);
  };
  /** `vhost_dev_init`, and the configuration as the device is realized. */
  const connect = async () => {
    const offer = await qemu.ask('GET_FEATURES');
    const protocol = agreed(await qemu.ask('GET_PROTOCOL_FEATURES'), PROTOCOL);
    expect(protocol).toBe(PROTOCOL);
    await qemu.agreeTo(protocol);
    expect((await qemu.ask('GET_QUEUE_NUM')).readUInt32LE()).toBe(2);
    expect((await qemu.ask('GET_MAX_MEM_SLOTS')).readUInt32LE()).toBeGreaterThanOrEqual(8);
    await qemu.tell('SET_OWNER');
    features = agreed(offer, KNOWN);
    expect(await qemu.ask('GET_FEATURES')).toEqual(offer);
    for (const index of RINGS) {
      await qemu.ringFd('SET_VRING_CALL', index);
      await qemu.ringFd('SET_VRING_ERR', index);
    }
    await qemu.config(0, CONFIG_BYTES, 0);
  };
  const start = async (base: number, area?: { fd: number; payload: Buffer }) => {
    await setFeatures();
    const kept = area ?? (await qemu.inflightArea(2, 8));
    await qemu.tell('SET_INFLIGHT_FD', kept.payload, [kept.fd]);
    await setFeatures();
    for (const region of rig.ram.regions) await qemu.memRegion('ADD_MEM_REG', region);
    for (const index of RINGS) {
      await qemu.ringState('SET_VRING_NUM', index, 8);
      await qemu.ringState('SET_VRING_BASE', index, base);
      await qemu.ringAddresses(index);
      await qemu.ringFd('SET_VRING_KICK', index);
      await qemu.ringFd('SET_VRING_CALL', index);
    }
    for (const index of RINGS) await qemu.ringState('SET_VRING_ENABLE', index, 1);
    await addStatus(OK.acknowledge | OK.driver | OK.driverOk);
    for (const index of RINGS) await qemu.ringFd('SET_VRING_CALL', index);
    return kept;
  };
  const stop = async () => {
    for (const index of RINGS) await qemu.ringState('SET_VRING_ENABLE', index, 0);
    const bases: number[] = [];
    for (const index of RINGS) bases.push((await qemu.ask('GET_VRING_BASE', u32(index, 0))).readUInt32LE(4));
    for (const region of rig.ram.regions) await qemu.memRegion('REM_MEM_REG', region, []);
    await qemu.tell('SET_STATUS', u64(0));
    return bases;
  };

  beforeEach(() => {
    qemu = new PlayedFrontend(rig, ['ADD_MEM_REG', 'REM_MEM_REG', 'SET_MEM_TABLE', 'SET_CONFIG']);
  });

  it('starts, stops and starts again, with memory region by region and a status', async () => {
    await connect();
    const area = await start(0);
    for (const index of RINGS) expectRunning(index);
    expect(rig.backend.starts.get(1)!.inflight).toBeDefined();
    rig.backend.nextAvail = 1234;
    expect(await stop()).toEqual([1234, 1234]);
    await start(1234, area);
    for (const index of RINGS) expectRunning(index, 1234);
    closeSync(area.fd);
  });

  it('writes the cache setting while rings run', async () => {
    await connect();
    const area = await start(0);
    await qemu.tell('SET_CONFIG', Buffer.concat([u32(32, 1, 0), Buffer.of(0)]));
    expect(rig.backend.log.at(-1)).toBe('config 32 0');
    closeSync(area.fd);
  });
});

describe('Cloud Hypervisor 40 and later (rust-vmm)', () => {
  const KNOWN = bits(
    ...[FEATURE.VERSION_1, FEATURE.BLK_FLUSH, FEATURE.VHOST_USER_PROTOCOL_FEATURES, FEATURE.VHOST_LOG_ALL],
  );
  const PROTOCOL = bits(P.MQ, P.LOG_SHMFD, P.REPLY_ACK, P.CONFIG, P.INFLIGHT_SHMFD, P.CONFIGURE_MEM_SLOTS);
  /** Where it believes that the configuration space begins: behind the registers of virtio-mmio. */
  const CONFIG_OFFSET = 0x100;
  const WRITABLE = 1;
  const USED_GPA = 0x3000;
  let vmm: PlayedFrontend;
  let features: bigint;

  const setUp = async (area?: { fd: number; payload: Buffer }) => {
    await vmm.tell('SET_FEATURES', u64(features));
    await vmm.memTable();
    for (const index of RINGS) await vmm.ringState('SET_VRING_NUM', index, 8);
    const kept = area ?? (await vmm.inflightArea(2, 8));
    await vmm.tell('SET_INFLIGHT_FD', kept.payload, [kept.fd]);
    for (const index of RINGS) {
      await vmm.ringAddresses(index);
      await vmm.ringState('SET_VRING_BASE', index, 0);
      await vmm.ringFd('SET_VRING_CALL', index);
      await vmm.ringFd('SET_VRING_KICK', index);
    }
    for (const index of RINGS) await vmm.ringState('SET_VRING_ENABLE', index, 1);
    return kept;
  };
  const connect = async () => {
    await vmm.tell('SET_OWNER');
    features = agreed(await vmm.ask('GET_FEATURES'), KNOWN);
    const protocol = agreed(await vmm.ask('GET_PROTOCOL_FEATURES'), PROTOCOL);
    expect(protocol).toBe(PROTOCOL);
    await vmm.agreeTo(protocol);
    expect((await vmm.ask('GET_QUEUE_NUM')).readUInt32LE()).toBe(2);
  };

  beforeEach(() => {
    vmm = new PlayedFrontend(rig, 'every message');
  });

  it('reads the configuration from where it begins in virtio-mmio, and starts', async () => {
    await connect();
    const config = await vmm.config(CONFIG_OFFSET, CONFIG_BYTES, WRITABLE);
    expect(config).toEqual(Buffer.from(rig.backend.readConfig(0, CONFIG_BYTES)!));
    const area = await setUp();
    for (const index of RINGS) expectRunning(index);
    await vmm.tell('SET_CONFIG', Buffer.concat([u32(32, 1, WRITABLE), Buffer.of(0)]));
    expect(rig.backend.log.at(-1)).toBe('config 32 0');
    closeSync(area.fd);
  });

  it('pauses by disabling, is given more memory, and goes on after a reset of its guest', async () => {
    await connect();
    const area = await setUp();
    for (const value of [0, 1])
      for (const index of RINGS) await vmm.ringState('SET_VRING_ENABLE', index, value);
    for (const index of RINGS) expectRunning(index, rig.backend.nextAvail);
    const dimm = rig.ram.plug({ gpa: 0x2_0000_0000, sizeBytes: 0x1_0000 });
    await vmm.memRegion('ADD_MEM_REG', dimm);
    for (const index of RINGS) expect(rig.backend.starts.get(index)!.layout.runs).toHaveLength(3);
    for (const index of RINGS) await vmm.ringState('SET_VRING_ENABLE', index, 0);
    await setUp(area);
    for (const index of RINGS) expectRunning(index);
    closeSync(area.fd);
  });

  it('logs what is written from the moment that it migrates', async () => {
    await connect();
    const area = await setUp();
    const log = new DirtyBitmap(0x1_0001_0000);
    rig.front.stream.send(6, u64(log.sizeBytes, 0), { fds: [log.fd], flags: 9 });
    const { payload } = await rig.during(rig.front.receiveReply(6));
    expect(payload).toEqual(u64(0));
    await vmm.tell('SET_FEATURES', u64(features | bits(FEATURE.VHOST_LOG_ALL)));
    for (const index of RINGS) await vmm.ringAddresses(index, USED_GPA);
    for (const index of RINGS)
      expect(rig.backend.starts.get(index)!.log).toMatchObject({ usedGpa: USED_GPA });
    log.close();
    closeSync(area.fd);
  });
});

describe('Firecracker 1.5 and later', () => {
  const KNOWN = bits(FEATURE.VERSION_1, FEATURE.VHOST_USER_PROTOCOL_FEATURES, FEATURE.RING_EVENT_IDX);
  const WRITABLE = 1;

  it('starts its one ring with nothing but CONFIG agreed to', async () => {
    const vmm = new PlayedFrontend(rig, []);
    await vmm.tell('SET_OWNER');
    const features = agreed(await vmm.ask('GET_FEATURES'), KNOWN);
    await vmm.agreeTo(agreed(await vmm.ask('GET_PROTOCOL_FEATURES'), bits(P.CONFIG)));
    await vmm.config(0, CONFIG_BYTES, WRITABLE);
    // The guest's driver has chosen.
    await vmm.tell('SET_FEATURES', u64(features));
    await vmm.memTable();
    await vmm.ringState('SET_VRING_NUM', 0, 8);
    await vmm.ringAddresses(0);
    await vmm.ringState('SET_VRING_BASE', 0, 0);
    await vmm.ringFd('SET_VRING_CALL', 0);
    await vmm.ringFd('SET_VRING_KICK', 0);
    await vmm.ringState('SET_VRING_ENABLE', 0, 1);
    expectRunning(0);
    // Its API has it read the configuration again at any time.
    await vmm.config(0, CONFIG_BYTES, WRITABLE);
  });
});

describe('libblkio 1.3', () => {
  const KNOWN = bits(FEATURE.VERSION_1, FEATURE.BLK_FLUSH, FEATURE.VHOST_USER_PROTOCOL_FEATURES);
  const PROTOCOL = bits(P.MQ, P.REPLY_ACK, P.CONFIG, P.CONFIGURE_MEM_SLOTS);
  /** Its guest physical addresses are those of its own process. */
  const OWN_MEMORY = 0x5550_0000_0000;
  const APART = 0x101_0000;

  beforeEach(() => {
    rig.close();
    rig = new SessionRig([0, APART].map((offset) => ({ gpa: OWN_MEMORY + offset, sizeBytes: 0x1_0000 })));
    for (const { gpa, userAddress } of rig.ram.regions) expect(gpa).toBe(userAddress);
  });

  it('agrees to features first, brings memory region by region, and kicks before it enables', async () => {
    const library = new PlayedFrontend(rig, 'every message');
    await library.tell('SET_OWNER');
    const features = agreed(await library.ask('GET_FEATURES'), KNOWN);
    await library.tell('SET_FEATURES', u64(features));
    const protocol = agreed(await library.ask('GET_PROTOCOL_FEATURES'), PROTOCOL);
    expect(protocol).toBe(PROTOCOL);
    await library.agreeTo(protocol);
    expect((await library.ask('GET_QUEUE_NUM')).readUInt32LE()).toBe(2);
    expect((await library.ask('GET_MAX_MEM_SLOTS')).readUInt32LE()).toBeGreaterThanOrEqual(8);
    await library.config(0, CONFIG_BYTES, 0);
    const [buffers, rings] = rig.ram.regions;
    await library.memRegion('ADD_MEM_REG', rings!);
    await library.ringState('SET_VRING_NUM', 0, 8);
    await library.ringState('SET_VRING_BASE', 0, 0);
    await library.ringAddresses(0);
    await library.ringFd('SET_VRING_KICK', 0);
    await library.ringFd('SET_VRING_CALL', 0);
    await library.ringState('SET_VRING_ENABLE', 0, 1);
    expectRunning(0);
    // The caller maps and unmaps its buffers while the ring runs; each message carries the descriptor.
    await library.memRegion('ADD_MEM_REG', buffers!);
    expect(rig.backend.starts.get(0)!.layout.runs).toHaveLength(2);
    await library.memRegion('REM_MEM_REG', buffers!);
    expect(rig.backend.starts.get(0)!.layout.runs).toHaveLength(1);
    expectRunning(0, rig.backend.nextAvail);
  });
});
