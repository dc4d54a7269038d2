import { describe, expect, it } from 'vitest';
import { HEADER_FLAG, Message, PROTOCOL_FEATURE, encode, u64Payload } from './messages.js';
import { REQUEST } from './message-table.js';
import { MESSAGE, PROTOCOL_FEATURE as KNOWN_PROTOCOL_FEATURE } from './testing/index.js';

const bytes = (hex: string) => Uint8Array.from(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
const hexOf = (data: Uint8Array) => Buffer.from(data).toString('hex');
const message = (hex: string, fds: number[] = []) => new Message(5, 1, bytes(hex), fds);

describe('a vhost-user message', () => {
  it('has the codes and protocol features of the specification', () => {
    expect(MESSAGE).toMatchObject(REQUEST);
    expect(KNOWN_PROTOCOL_FEATURE).toMatchObject(PROTOCOL_FEATURE);
  });

  it('is encoded as header and payload, version 1, little-endian', () => {
    expect(hexOf(encode(24, HEADER_FLAG.REPLY, bytes('aabbcc')))).toBe('180000000500000003000000aabbcc');
    expect(hexOf(encode(2, 0, new Uint8Array()))).toBe('020000000100000000000000');
  });

  it('carries a 64-bit number as two words', () => {
    expect(hexOf(u64Payload(0xfffffffe, 0x80000001))).toBe('feffffff01000080');
    expect(hexOf(u64Payload(1))).toBe('0100000000000000');
  });

  it('gives 64-bit numbers up to 2^53 - 1 and refuses those that could not be exact', () => {
    expect(message('ffffffff ffff1f00').u64(0)).toBe(Number.MAX_SAFE_INTEGER);
    expect(() => message('00000000 00002000').u64(0)).toThrow('number-too-large');
    expect(() => message('ffffffff ffffffff').u64(0)).toThrow('number-too-large');
  });

  it('gives the regions of SET_MEM_TABLE', () => {
    const region = '0000000001000000 0000200000000000 00f0ffff557f0000 0010000000000000';
    expect(message(`01000000 00000000 ${region}`).regions()).toEqual([
      { gpa: 2 ** 32, sizeBytes: 0x20_0000, userAddress: 0x7f55_ffff_f000, mmapOffsetBytes: 0x1000 },
    ]);
    expect(message('00000000 00000000').regions()).toEqual([]);
  });

  it('refuses a table whose count does not fit its payload', () => {
    const region = '00'.repeat(32);
    for (const hex of [
      `00000000 00000000 ${region}`,
      `02000000 00000000 ${region}`,
      `09000000 00000000 ${region.repeat(9)}`,
      `ffffffff 00000000 ${region}`,
      `01000000 00000000`,
    ])
      expect(() => message(hex).regions()).toThrow('payload-size-invalid');
  });

  it('gives the ring addresses of SET_VRING_ADDR: descriptors, used, avail, log', () => {
    const payload = '03000000 01000000 0010000000000000 0020000000000000 0030000000000000 0040000000000000';
    const addresses = { index: 3, descriptors: 0x1000, used: 0x2000, avail: 0x3000 };
    expect(message(payload).vringAddress()).toEqual({ ...addresses, usedLogGpa: 0x4000 });
    // Without VHOST_VRING_F_LOG the log address means nothing.
    const unlogged = payload.replace(' 01000000', ' 00000000');
    expect(message(unlogged).vringAddress()).toEqual({ ...addresses, usedLogGpa: undefined });
  });

  it('gives a ring and its descriptor, or the ring alone when bit 8 says that none comes', () => {
    expect(message('0700000000000000', [42]).vringFile()).toEqual({ index: 7, fd: 42 });
    expect(message('ff01000000000000').vringFile()).toEqual({ index: 255, fd: undefined });
  });

  it('refuses a ring descriptor that is missing or too many', () => {
    expect(() => message('0700000000000000').vringFile()).toThrow('descriptor-count-invalid');
    expect(() => message('0701000000000000', [42]).vringFile()).toThrow('descriptor-count-invalid');
    expect(() => message('0700000000000000', [42, 43]).vringFile()).toThrow('descriptor-count-invalid');
  });

  it('gives a part of the configuration space, and refuses one of another size than it says', () => {
    expect(message('20000000 01000000 00000000 00').config()).toEqual({
      offset: 32,
      size: 1,
      data: Uint8Array.of(0),
    });
    expect(() => message('20000000 02000000 00000000 00').config()).toThrow('payload-size-invalid');
    expect(() => message('20000000 ffffffff 00000000 00').config()).toThrow('payload-size-invalid');
  });
});
