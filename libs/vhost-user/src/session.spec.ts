import { closeSync, ftruncateSync, openSync } from 'node:fs';
import type { GuestRam } from '@cairn/virtio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Session } from './session.js';
import type { FakeFrontend } from './testing/index.js';
import type { NotingBackend } from './testing/noting-backend.js';
import { SessionRig, RIG_FEATURES as FEATURES, RIG_PROTOCOL as PROTOCOL } from './testing/session-rig.js';
import type { VhostUserError } from './vhost-user-error.js';

let rig: SessionRig;
let ram: GuestRam;
let front: FakeFrontend;
let backend: NotingBackend;
let session: Session;
let ends: readonly (VhostUserError | undefined)[];
beforeEach(() => {
  rig = new SessionRig();
  ({ ram, front, backend, session, ends } = rig);
});
afterEach(() => rig.close());

const hear = (): void => rig.hear();
const negotiate = (features = FEATURES, protocol = PROTOCOL) => rig.negotiate(features, protocol);
const running = () => rig.running(FEATURES, PROTOCOL);

describe('ending', () => {
  it('closes when the front-end goes, and not before its last request', async () => {
    await running();
    backend.busy = true;
    const view = backend.memoryOf(0).view(0, 16);
    front.close();
    hear();
    expect([ends.length, view.byteLength]).toEqual([0, 16]);
    backend.drain();
    expect(ends).toEqual([undefined]);
    expect(view.byteLength).toBe(0);
  });

  it('finds that the front-end has gone as soon as it hears again', async () => {
    await running();
    backend.busy = true;
    front.acknowledge = false;
    void front.setVringEnable(0, false);
    hear();
    front.close();
    hear();
    expect(ends).toEqual([]);
    backend.drain();
    expect(ends).toEqual([undefined]);
  });

  it('closes while the device thinks about a write to its configuration', async () => {
    await negotiate();
    backend.acceptConfig = undefined;
    front.acknowledge = false;
    void front.setConfig(32, Uint8Array.of(0));
    hear();
    session.close();
    expect(ends).toEqual([undefined]);
    backend.endConfig(false);
    expect(ends).toHaveLength(1);
  });

  it('drops who breaks the protocol with a reason, after the answer', async () => {
    await negotiate();
    front.stream.send(99);
    hear();
    expect(rig.faults).toEqual(['message-unknown']);
    expect(await front.closedByBackend(1000)).toBe(true);
  });

  it('knows that the front-end took memory away', async () => {
    await running();
    const kept = openSync(`/proc/self/fd/${ram.regions[1]!.fd}`, 'r+');
    ftruncateSync(kept, 0);
    closeSync(kept);
    expect(session.memoryFaulted).toBe(false);
    backend.memoryOf(0).writeByte(0x3000, 1, 1);
    expect(session.memoryFaulted).toBe(true);
  });
});

it('lets others have their turn when a front-end never stops talking', () => {
  const owner = Buffer.from('030000000100000000000000', 'hex');
  front.stream.sendBytes(Buffer.concat(Array.from({ length: 1000 }, () => owner)));
  front.stream.send(99);
  hear();
  expect(rig.more).toBe(1);
  expect(ends).toEqual([]);
  for (let turns = 0; turns < 1000 && ends.length === 0; turns += 1) hear();
  expect(rig.faults).toEqual(['message-unknown']);
  expect(rig.more).toBeGreaterThan(10);
});
