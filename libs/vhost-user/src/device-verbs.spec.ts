import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { FEATURE } from '@cairn/virtio';
import { bits } from '@cairn/virtio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Session } from './session.js';
import { type FakeFrontend, FLAG, MESSAGE, PROTOCOL_FEATURE, Refused } from './testing/index.js';
import type { NotingBackend } from './testing/noting-backend.js';
import {
  SessionRig,
  RIG_FEATURES as FEATURES,
  RIG_PROTOCOL_MORE as PROTOCOL,
} from './testing/session-rig.js';
import type { VhostUserError } from './vhost-user-error.js';

const CHANNEL = bits(PROTOCOL_FEATURE.BACKEND_REQ);

let rig: SessionRig;
let eventfds: readonly number[];
let front: FakeFrontend;
let backend: NotingBackend;
let session: Session;
let ends: readonly (VhostUserError | undefined)[];
beforeEach(() => {
  rig = new SessionRig();
  ({ eventfds, front, backend, session, ends } = rig);
});
afterEach(() => rig.close());

const during = <T>(work: Promise<T>): Promise<T> => rig.during(work);
const hear = (): void => rig.hear();
const negotiate = (features = FEATURES, protocol = PROTOCOL) => rig.negotiate(features, protocol);
const running = () => rig.running(FEATURES, PROTOCOL);

describe('negotiating', () => {
  it('offers the features of its device', async () => {
    expect(await during(front.getFeatures())).toBe(
      FEATURES | bits(FEATURE.BLK_FLUSH) | bits(FEATURE.VHOST_LOG_ALL),
    );
    expect(await during(front.getProtocolFeatures())).toBe(PROTOCOL | CHANNEL);
  });

  it('passes on what was agreed to, once', async () => {
    await negotiate();
    await during(front.setFeatures(FEATURES));
    expect(backend.log).toEqual(['features 1:40000000']);
  });

  it('refuses a feature that was not offered, saying so before it goes', async () => {
    await during(front.setProtocolFeatures(PROTOCOL));
    await expect(during(front.setFeatures(FEATURES | bits(FEATURE.BLK_RO)))).rejects.toThrow(Refused);
    expect(rig.faults).toEqual(['features-not-offered']);
    expect(backend.log).toEqual([]);
  });

  it.each([bits(2), bits(31), bits(32), bits(63)])('refuses protocol features %x', (extra) => {
    void front.setProtocolFeatures(PROTOCOL | extra);
    hear();
    expect(rig.faults).toEqual(['protocol-features-not-offered']);
  });

  it('refuses a message whose protocol feature was not agreed to', () => {
    void front.setProtocolFeatures(bits(PROTOCOL_FEATURE.REPLY_ACK));
    front.stream.send(MESSAGE.GET_QUEUE_NUM);
    hear();
    expect(rig.faults).toEqual(['message-not-negotiated']);
  });

  it('refuses other features while a ring runs', async () => {
    await running();
    await expect(during(front.setFeatures(FEATURES | bits(FEATURE.BLK_FLUSH)))).rejects.toThrow(Refused);
    expect(rig.faults).toEqual(['vring-running']);
  });

  it('tells how many queues there are', async () => {
    await negotiate();
    expect(await during(front.getQueueNum())).toBe(2);
  });

  it('acknowledges only when asked to, and only once it was agreed on (REPLY_ACK)', async () => {
    const ask = { flags: FLAG.VERSION | FLAG.NEED_REPLY };
    front.stream.send(MESSAGE.SET_OWNER, undefined, ask);
    hear();
    expect(front.stream.poll()).toBeUndefined();
    await negotiate();
    front.stream.send(MESSAGE.SET_OWNER);
    hear();
    expect(front.stream.poll()).toBeUndefined();
    front.stream.send(MESSAGE.SET_OWNER, undefined, ask);
    hear();
    expect(front.stream.poll()?.payload.readBigUInt64LE()).toBe(0n);
  });

  it('gives the configuration space, and an empty payload where there is none', async () => {
    await negotiate();
    expect([...(await during(front.getConfig(24, 4)))]).toEqual([24, 24, 24, 24]);
    await expect(during(front.getConfig(60, 4))).rejects.toThrow(Refused);
    expect(ends).toEqual([]);
  });

  it('passes a write to the configuration space on, and drops who writes what it may not', async () => {
    await negotiate();
    await during(front.setConfig(32, Uint8Array.of(0)));
    expect(backend.log.at(-1)).toBe('config 32 0');
    backend.acceptConfig = false;
    await expect(during(front.setConfig(0, Uint8Array.of(1)))).rejects.toThrow(Refused);
    expect(rig.faults).toEqual(['config-invalid']);
  });
});

describe('resetting the device', () => {
  it('RESET_DEVICE stops and disables every ring, and makes the device as it was (vhost-user, RESET_DEVICE)', async () => {
    await running();
    await during(front.resetDevice());
    expect(backend.log).toEqual(['stop 0', 'drained 0', 'reset']);
    // Memory and descriptors stay; features, base and being enabled do not.
    await during(front.setFeatures(FEATURES));
    expect(backend.log).not.toContain('start 0');
    await during(front.setVringBase(0, 0));
    await during(front.setVringKick(0, eventfds[0]));
    expect(backend.log).not.toContain('start 0');
    await during(front.setVringEnable(0, true));
    expect(backend.log.at(-1)).toBe('start 0');
    expect(backend.starts.get(0)).toMatchObject({ size: 8, nextAvail: 0 });
  });

  it('waits for what is in flight, and hears nothing meanwhile', async () => {
    await running();
    backend.busy = true;
    front.acknowledge = false;
    void front.resetDevice();
    const features = front.getFeatures();
    hear();
    expect(backend.log).toEqual(['stop 0']);
    backend.drain();
    await during(features);
    expect(backend.log).toEqual(['stop 0', 'drained 0', 'reset']);
  });

  it('keeps any other status than 0 for GET_STATUS (vhost-user, SET_STATUS)', async () => {
    await running();
    expect(await during(front.getStatus())).toBe(0);
    await during(front.setStatus(0x0f));
    expect(await during(front.getStatus())).toBe(0x0f);
    expect(backend.log).toEqual([]);
  });

  it('SET_STATUS 0 stops and disables the rings, and forgets neither base nor device (QEMU 7.2)', async () => {
    await running();
    backend.nextAvail = 1234;
    await during(front.setStatus(0));
    expect(await during(front.getStatus())).toBe(0);
    await during(front.setVringEnable(0, false));
    expect(await during(front.getVringBase(0))).toBe(1234);
    expect(backend.log).toEqual(['stop 0', 'drained 0']);
    // The guest goes on: with the features of before, where the rings stopped.
    await during(front.setFeatures(FEATURES));
    await during(front.setVringBase(0, 1234));
    await during(front.setVringKick(0, eventfds[0]));
    expect(backend.log).not.toContain('start 0');
    await during(front.setVringEnable(0, true));
    expect(backend.starts.get(0)).toMatchObject({ size: 8, nextAvail: 1234 });
  });
});

describe('telling that the configuration has changed', () => {
  it('does so on the channel that the front-end gave', async () => {
    await negotiate(FEATURES, PROTOCOL | CHANNEL);
    expect(session.notifyConfigChange()).toBe(false);
    await during(front.openBackendChannel());
    expect(session.notifyConfigChange()).toBe(true);
    await front.nextConfigChange(1000);
  });

  it('does not wait for a front-end that never reads, even when that makes the channel block', async () => {
    await negotiate(FEATURES, PROTOCOL | CHANNEL);
    const pair = new Int32Array(2);
    check('socketPair', native.socketPair(pair));
    front.stream.send(MESSAGE.SET_BACKEND_REQ_FD, undefined, { fds: [pair[1]!] });
    hear();
    native.setNonblocking(pair[1]!, 0);
    let told = 0;
    while (session.notifyConfigChange()) told += 1;
    expect(told).toBeGreaterThan(1);
    closeSync(pair[0]!);
    closeSync(pair[1]!);
  });

  it('refuses a channel without a descriptor', async () => {
    await negotiate(FEATURES, PROTOCOL | CHANNEL);
    front.stream.send(MESSAGE.SET_BACKEND_REQ_FD);
    hear();
    expect(rig.faults).toEqual(['descriptor-count-invalid']);
  });
});
