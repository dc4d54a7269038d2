import { closeSync, openSync, readdirSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Connection } from './connection.js';
import { FLAG, MESSAGE, MessageStream } from './testing/index.js';

const openDescriptors = () => readdirSync('/proc/self/fd').length;

describe('a front-end’s socket', () => {
  let before: number;
  let front: MessageStream;
  let connection: Connection;

  beforeEach(() => {
    before = openDescriptors();
    const pair = new Int32Array(2);
    check('socketPair', native.socketPair(pair));
    front = new MessageStream(pair[0]!);
    native.setNonblocking(pair[1]!, 1);
    connection = new Connection(pair[1]!);
  });
  afterEach(() => {
    front.close();
    connection.close();
    // Whatever came, and whatever was refused: nothing stays open.
    expect(openDescriptors()).toBe(before);
  });

  const next = () => {
    const got = connection.next();
    if (got === undefined || got === 'closed') throw new Error(`no message but ${got}`);
    return got;
  };
  const sendWithFds = (code: number, payload: Uint8Array, count: number) => {
    const fds = Array.from({ length: count }, () => openSync('/dev/null', 'r'));
    front.send(code, payload, { fds });
    fds.forEach((fd) => closeSync(fd));
  };

  it('gives nothing while nothing has come', () => {
    expect(connection.next()).toBeUndefined();
  });

  it('gives a message with its rule, payload and flags', () => {
    front.send(MESSAGE.SET_VRING_NUM, Uint8Array.of(1, 0, 0, 0, 2, 0, 0, 0), {
      flags: FLAG.VERSION | FLAG.NEED_REPLY,
    });
    const { message, rule } = next();
    expect(rule.name).toBe('SET_VRING_NUM');
    expect(message).toMatchObject({ code: MESSAGE.SET_VRING_NUM, flags: 9, fds: [] });
    expect([message.u32(0), message.u32(4)]).toEqual([1, 2]);
  });

  it('puts a message together that comes byte by byte', () => {
    const whole = Buffer.from('0800000001000000080000000100000000020000', 'hex');
    for (let at = 0; at < whole.length - 1; at += 1) {
      front.sendBytes(whole.subarray(at, at + 1));
      expect(connection.next()).toBeUndefined();
    }
    front.sendBytes(whole.subarray(-1));
    expect(next().message.u32(4)).toBe(0x200);
  });

  it('takes messages apart that come at once', () => {
    const owner = Buffer.from('030000000100000000000000', 'hex');
    front.sendBytes(Buffer.concat([owner, owner, owner.subarray(0, 5)]));
    expect(next().message.code).toBe(MESSAGE.SET_OWNER);
    expect(next().message.code).toBe(MESSAGE.SET_OWNER);
    expect(connection.next()).toBeUndefined();
    front.sendBytes(owner.subarray(5));
    expect(next().message.code).toBe(MESSAGE.SET_OWNER);
  });

  it('keeps the payload of a message while the next one arrives', () => {
    front.send(MESSAGE.SET_VRING_NUM, Uint8Array.of(1, 0, 0, 0, 2, 0, 0, 0));
    const { message } = next();
    front.send(MESSAGE.SET_VRING_NUM, new Uint8Array(8).fill(9));
    next();
    expect(message.u32(4)).toBe(2);
  });

  it('hands the descriptors over with their message', () => {
    sendWithFds(MESSAGE.SET_VRING_KICK, new Uint8Array(8), 1);
    const { message } = next();
    expect(message.fds).toHaveLength(1);
    closeSync(message.fds[0]!);
  });

  it('closes descriptors of a message that never became whole', () => {
    const fd = openSync('/dev/null', 'r');
    front.sendBytes(Buffer.from('0c0000000100', 'hex'), [fd]);
    closeSync(fd);
    expect(connection.next()).toBeUndefined();
  });

  it('ends cleanly between messages, and not inside one', () => {
    front.close();
    expect(connection.next()).toBe('closed');
  });

  it('refuses an end inside a message', () => {
    front.sendBytes(Buffer.from('0c000000', 'hex'));
    front.close();
    expect(() => connection.next()).toThrow('message-truncated');
  });

  it.each([0, 2, 3, 0xfffffffc])('refuses a header whose flags are %i: the version is not 1', (flags) => {
    front.send(MESSAGE.SET_OWNER, undefined, { flags });
    expect(() => connection.next()).toThrow('version-unsupported');
  });

  it.each([0, 19, 20, 22, 23, 26, 33, 35, 41, 99, 0x80000000, 0xffffffff])('refuses message %i', (code) => {
    front.send(code);
    expect(() => connection.next()).toThrow('message-unknown');
  });

  it.each([
    { name: 'a payload where there is none', code: MESSAGE.SET_OWNER, sizeBytes: 1 },
    { name: 'too short a payload', code: MESSAGE.SET_FEATURES, sizeBytes: 7 },
    { name: 'too long a payload', code: MESSAGE.SET_FEATURES, sizeBytes: 9 },
    { name: 'more than eight regions', code: MESSAGE.SET_MEM_TABLE, sizeBytes: 8 + 9 * 32 },
    { name: 'more of the configuration space than there is', code: MESSAGE.GET_CONFIG, sizeBytes: 12 + 257 },
    { name: 'a payload of 2 GiB', code: MESSAGE.GET_CONFIG, sizeBytes: 0x80000000 },
    { name: 'a payload of 4 GiB', code: MESSAGE.SET_MEM_TABLE, sizeBytes: 0xffffffff },
  ])('refuses $name before a byte of it has come', ({ code, sizeBytes }) => {
    front.send(code, undefined, { sizeBytes });
    expect(() => connection.next()).toThrow('payload-size-invalid');
  });

  it.each([
    { name: 'a descriptor where there is none', code: MESSAGE.SET_OWNER, payloadBytes: 0, count: 1 },
    { name: 'two descriptors where there is one', code: MESSAGE.SET_VRING_CALL, payloadBytes: 8, count: 2 },
    { name: 'nine descriptors for eight regions', code: MESSAGE.SET_MEM_TABLE, payloadBytes: 8, count: 9 },
  ])('refuses $name', ({ code, payloadBytes, count }) => {
    sendWithFds(code, new Uint8Array(payloadBytes), count);
    expect(() => connection.next()).toThrow('descriptor-count-invalid');
  });

  it('refuses more descriptors than any message has, at once or one by one', () => {
    sendWithFds(MESSAGE.SET_MEM_TABLE, new Uint8Array(8), 17);
    expect(() => connection.next()).toThrow('receive-failed');
  });

  it('counts descriptors that come with each byte of one message', () => {
    const header = Buffer.from('050000000100000028000000', 'hex');
    const part = (bytes: Uint8Array) => {
      const fds = Array.from({ length: 5 }, () => openSync('/dev/null', 'r'));
      front.sendBytes(bytes, fds);
      fds.forEach((fd) => closeSync(fd));
    };
    for (let at = 0; at < 4; at += 1) part(header.subarray(at, at + 1));
    expect(() => connection.next()).toThrow('descriptor-count-invalid');
  });

  it('sends a reply with the reply flag', async () => {
    connection.reply(MESSAGE.GET_FEATURES, new Uint8Array(8).fill(1));
    expect(await front.receive('the reply', 1000)).toMatchObject({ code: 1, flags: 5, fds: [] });
  });

  it('gives up on a front-end that does not read its replies', () => {
    expect(() => {
      for (let sent = 0; sent < 100_000; sent += 1) connection.reply(MESSAGE.GET_FEATURES, new Uint8Array(8));
    }).toThrow('reply-not-taken');
  });

  it('gives up on a front-end that has gone', () => {
    front.close();
    expect(() => connection.reply(MESSAGE.GET_FEATURES, new Uint8Array(8))).toThrow('reply-not-taken');
  });
});
