import { closeSync, readdirSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { bits } from '@cairn/virtio/testing';
import { FEATURE } from '@cairn/virtio';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FdBag, FdList, HandedReader, HandedStateError, type HandedValue } from './handed-state.js';
import { Session } from './session.js';
import { DirtyBitmap, MESSAGE, PROTOCOL_FEATURE } from './testing/index.js';
import { NotingBackend } from './testing/noting-backend.js';
import { RIG_FEATURES, RIG_PROTOCOL, SessionRig } from './testing/session-rig.js';
import { VhostUserError } from './vhost-user-error.js';

const openDescriptors = () => readdirSync('/proc/self/fd').length;

const FEATURES = RIG_FEATURES | bits(FEATURE.VHOST_LOG_ALL, FEATURE.BLK_FLUSH);
const PROTOCOL =
  RIG_PROTOCOL |
  bits(
    PROTOCOL_FEATURE.LOG_SHMFD,
    PROTOCOL_FEATURE.INFLIGHT_SHMFD,
    PROTOCOL_FEATURE.STATUS,
    PROTOCOL_FEATURE.BACKEND_REQ,
  );

/** A copy of each descriptor, as it comes out of a socket. */
const copied = (fds: readonly number[]): number[] => {
  const pair = new Int32Array(2);
  check('socketPair', native.socketPair(pair));
  const received = new Int32Array(1 + fds.length);
  check('send', native.send(pair[0]!, new Uint8Array(1), 0, 1, Int32Array.from(fds), fds.length));
  check('receive', native.receive(pair[1]!, new Uint8Array(1), 0, 1, received));
  for (const fd of pair) closeSync(fd);
  return [...received.subarray(1)];
};

/** Every place in a state, as the keys that lead to it. */
const placesIn = (value: HandedValue, path: (string | number)[] = []): (string | number)[][] => {
  if (typeof value !== 'object') return [path];
  const entries = Object.entries(value as Record<string, HandedValue>);
  return [
    ...(path.length > 0 ? [path] : []),
    ...entries.flatMap(([key, inner]) => placesIn(inner, [...path, key])),
  ];
};

/** The state with what is at a place replaced; undefined takes it away. */
const changed = (state: HandedValue, path: (string | number)[], value: unknown): HandedValue => {
  const copy = structuredClone(state) as Record<string, unknown>;
  let parent = copy;
  for (const key of path.slice(0, -1)) parent = parent[key] as Record<string, unknown>;
  if (value === undefined && Array.isArray(parent)) parent.pop();
  else if (value === undefined) delete parent[path.at(-1)!];
  else parent[path.at(-1)!] = value;
  return copy as HandedValue;
};

const at = (state: HandedValue, path: (string | number)[]): unknown =>
  path.reduce<unknown>((value, key) => (value as Record<string, unknown>)[key], state);

const isObject = (value: unknown): boolean => typeof value === 'object' && !Array.isArray(value);

let rig: SessionRig;
let log: DirtyBitmap;
let successors: Session[];
beforeEach(() => {
  rig = new SessionRig();
  log = new DirtyBitmap(0x1_0001_0000);
  successors = [];
});
afterEach(() => {
  for (const one of successors) one.close();
  log.close();
  rig.close();
});

/** A front-end that has said all that can be said. */
const talkative = async (): Promise<void> => {
  const { front } = rig;
  await rig.negotiate(FEATURES, PROTOCOL);
  await rig.during(front.setMemTable(rig.ram));
  await rig.during(front.setLogBase(log));
  const area = await rig.during(front.getInflightFd(2, 8));
  await rig.during(front.setInflightFd(area));
  area.close();
  await rig.during(front.openBackendChannel());
  await rig.during(front.setStatus(0x0f));
  await rig.run();
  await rig.during(front.setVringErr(0, rig.eventfds[2]));
  await rig.during(front.setVringAddr(0, { ...rig.addresses, flags: 1, log: 0x4000 }));
};

const told = (): { state: HandedValue; fds: number[] } => {
  const list = new FdList();
  const state = JSON.parse(JSON.stringify(rig.session.state(list))) as HandedValue;
  return { state, fds: list.fds };
};

const adopt = (
  state: HandedValue,
  fds: readonly number[],
): { session: Session; backend: NotingBackend; ends: unknown[] } => {
  const bag = new FdBag(copied(fds));
  const backend = new NotingBackend();
  const ends: unknown[] = [];
  try {
    const session = Session.adopt(new HandedReader(state, bag), backend, {
      onClosed: (reason) => ends.push(reason),
      onMore: () => undefined,
    });
    successors.push(session);
    return { session, backend, ends };
  } finally {
    bag.closeRest();
  }
};

/** Stands still, and has told. */
const standing = async (): Promise<{ state: HandedValue; fds: number[] }> => {
  await talkative();
  rig.session.suspend(() => undefined);
  return told();
};

describe('a session that is handed over', () => {
  it('goes on with everything that its front-end has said, over the same connection', async () => {
    await talkative();
    const before = rig.backend.starts.get(0)!;
    // A message of which the beginning has come.
    const question = Buffer.alloc(12);
    question.writeUInt32LE(MESSAGE.GET_STATUS, 0);
    question.writeUInt32LE(1, 4);
    rig.front.stream.sendBytes(question.subarray(0, 7));
    rig.hear();
    let still = false;
    rig.session.suspend(() => (still = true));
    expect(still).toBe(true);
    const { state, fds } = told();
    const { session, backend } = adopt(state, fds);
    rig.session.close();
    expect(backend.starts.size).toBe(0);

    session.resume();
    const after = backend.starts.get(0)!;
    expect(after).toMatchObject({
      size: before.size,
      nextAvail: rig.backend.nextAvail,
      addresses: before.addresses,
      log: { sizeBytes: log.sizeBytes, usedGpa: 0x4000 },
      inflight: { entries: 8 },
    });
    expect(after.layout.runs).toEqual(before.layout.runs);
    expect(after.layout.baseAddress).not.toBe(before.layout.baseAddress);
    expect(Object.values(after.fds).every((fd) => typeof fd === 'number')).toBe(true);
    rig.ram.setU32(0x1_0000_0000, 0xcafe);
    const seen = new Uint32Array(backend.memoryOf(0).view(0x1_0000_0000, 4));
    expect(seen[0]).toBe(0xcafe);
    expect(session.notifyConfigChange()).toBe(true);

    rig.front.stream.sendBytes(question.subarray(7));
    session.onReadable();
    const answer = await rig.front.stream.receive('the status', 1000);
    expect([answer.code, answer.payload[0]]).toEqual([MESSAGE.GET_STATUS, 0x0f]);
    rig.front.close();
    session.onReadable();
    backend.drain();
  });

  it('tells the same of what it adopted as was told to it', async () => {
    const { state, fds } = await standing();
    const { session } = adopt(state, fds);
    const again = new FdList();
    expect(session.state(again)).toEqual(state);
    expect(again.fds.length).toBe(fds.length);
  });

  it('hears nothing and starts nothing while it stands, and goes on when it is told to', async () => {
    await talkative();
    rig.backend.log.length = 0;
    rig.session.suspend(() => undefined);
    const enabling = rig.front.setVringEnable(0, true);
    rig.hear();
    expect(rig.backend.log).toEqual(['stop 0', 'drained 0']);
    rig.session.resume();
    expect(rig.backend.log.at(-1)).toBe('start 0');
    await rig.during(enabling);
  });

  it('answers what it was asked before it stands still', async () => {
    await talkative();
    rig.backend.busy = true;
    const enabling = rig.front.setVringEnable(0, false);
    rig.hear();
    let still = false;
    rig.session.suspend(() => (still = true));
    expect(still).toBe(false);
    rig.backend.drain();
    expect(still).toBe(true);
    await enabling;
    rig.backend.busy = false;
    rig.session.resume();
  });

  it('goes on when it is told to before its rings have drained', async () => {
    await talkative();
    rig.backend.busy = true;
    let still = false;
    rig.session.suspend(() => (still = true));
    rig.session.resume();
    rig.backend.drain();
    expect(still).toBe(false);
    expect(rig.backend.log.at(-1)).toBe('start 0');
    rig.backend.busy = false;
  });

  it('refuses a state that lacks anything, has anything more, or has another kind of thing anywhere', async () => {
    const { state, fds } = await standing();
    const may = new Set(['backendFd', 'logFd', 'log', 'inflight', 'addresses', 'usedLogGpa']);
    const optional = (path: (string | number)[]): boolean =>
      ['kickFd', 'callFd', 'errFd'].includes(String(path.at(-1))) || may.has(String(path.at(-1)));
    const before = openDescriptors();
    let refused = 0;
    const refuse = (wrong: HandedValue, what: string): void => {
      let error: unknown;
      try {
        adopt(wrong, fds);
      } catch (thrown) {
        error = thrown;
      }
      const known = error instanceof HandedStateError || error instanceof VhostUserError;
      expect([what, known, String(error)]).toEqual([what, true, expect.any(String)]);
      refused += 1;
    };
    for (const path of placesIn(state)) {
      const place = path.join('.');
      if (!optional(path) && path.at(-2) !== 'regions')
        refuse(changed(state, path, undefined), `without ${place}`);
      refuse(changed(state, path, null), `null at ${place}`);
      refuse(changed(state, path, [[1]]), `a list at ${place}`);
      if (isObject(at(state, path))) refuse(changed(state, [...path, 'more'], 1), `more in ${place}`);
    }
    for (const path of placesIn(state).filter(([last]) => typeof last === 'string'))
      refuse(changed(state, path, -1), `-1 at ${path.join('.')}`);
    expect(refused).toBeGreaterThan(200);
    expect(openDescriptors()).toBe(before);
  });

  it.each([
    ['a ring of a size that is none', ['rings', 0, 'size'], 7],
    ['features that were not offered', ['features', 'high'], 0x400],
    ['protocol features that were not offered', ['protocolFeatures'], 0x8000_0000],
    ['a region past the end of its file', ['regions', 0, 'sizeBytes'], 0x4000_0000],
    ['an in-flight area past the end of its file', ['areas', 'inflight', 'sizeBytes'], 0x4000_0000],
    ['more bytes than a message has', ['connection', 'received'], 'A'.repeat(400)],
    ['a descriptor twice', ['rings', 0, 'kickFd'], 0],
    ['a kick that is no eventfd', ['rings', 0, 'kickFd'], 'memory'],
  ])('refuses %s', async (_what, path, value) => {
    const { state, fds } = await standing();
    const before = openDescriptors();
    const region = (state as { regions: { fd: number }[] }).regions[1]!.fd;
    const extra = [...fds, fds[region]!];
    const put = value === 'memory' ? fds.length : value;
    expect(() => adopt(changed(state, path, put), extra)).toThrow();
    expect(openDescriptors()).toBe(before);
  });
});
