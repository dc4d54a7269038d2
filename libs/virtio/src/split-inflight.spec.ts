import { describe, expect, it } from 'vitest';
import { PackedInflight } from './packed-inflight.js';
import { SplitInflight, splitInflightBytes } from './split-inflight.js';
import { VirtqueueError } from './virtqueue-error.js';

const faultOf = (action: () => unknown): string | undefined => {
  try {
    action();
    return undefined;
  } catch (error) {
    if (error instanceof VirtqueueError) return error.fault;
    throw error;
  }
};

/** The bytes of a region as hex, 16 a row. */
const rowsOf = (buffer: ArrayBuffer): string[] => Buffer.from(buffer).toString('hex').match(/.{32}/g) ?? [];
const row = (...fields: string[]): string => fields.join('');
const ZEROES = '0'.repeat(32);

describe('the layout of a split record (vhost-user, QueueRegionSplit)', () => {
  const create = (entries = 4) => {
    const buffer = new ArrayBuffer(splitInflightBytes(entries));
    const open = () => new SplitInflight({ buffer, offsetBytes: 0, entries });
    return { buffer, open, bytes: new DataView(buffer) };
  };

  it('takes what libvhost-user and DPDK reserve for a queue', () => {
    // ALIGN_UP(sizeof(entry) * size + …, 64) in both.
    expect([1, 2, 3, 4, 128, 256].map(splitInflightBytes)).toEqual([64, 64, 64, 128, 2112, 4160]);
  });

  it('is bytes as the structure says, little-endian', () => {
    const { buffer, open } = create();
    const inflight = open();
    expect(inflight.resume(4, 0x1234)).toBeUndefined();
    inflight.take(2);
    inflight.take(0);
    inflight.take(3);
    inflight.complete(3);
    inflight.complete(2);
    inflight.publishing();
    expect(rowsOf(buffer)).toEqual([
      row('0000000000000000', '0100', '0400', '0200', '3412'),
      row('01', '0000000000', '0000', '0100000000000000'),
      ZEROES,
      row('01', '0000000000', '0300', '0000000000000000'),
      row('01', '0000000000', '0000', '0200000000000000'),
      ZEROES,
      ZEROES,
      ZEROES,
    ]);
    inflight.published(0x1236);
    expect(rowsOf(buffer).slice(0, 5)).toEqual([
      row('0000000000000000', '0100', '0400', '0200', '3612'),
      row('01', '0000000000', '0000', '0100000000000000'),
      ZEROES,
      row('00', '0000000000', '0300', '0000000000000000'),
      row('00', '0000000000', '0000', '0200000000000000'),
    ]);
  });

  it('resumes in the order of the counters, and goes on counting above them', () => {
    const { bytes, open } = create();
    open().resume(4, 0xfffe);
    for (const [head, low, high] of [
      [0, 7, 1],
      [2, 0xffff_ffff, 0],
      [3, 8, 1],
    ] as const) {
      bytes.setUint8(16 + 16 * head, 1);
      bytes.setUint32(16 + 16 * head + 8, low, true);
      bytes.setUint32(16 + 16 * head + 12, high, true);
    }
    const next = open();
    expect(next.resume(4, 0xfffe)).toEqual({ heads: Uint16Array.of(2, 0, 3), nextAvail: 1 });
    next.take(1);
    expect([bytes.getUint32(40, true), bytes.getUint32(44, true)]).toEqual([9, 1]);
  });

  it('starts anew when the ring did: no batch is larger than the ring', () => {
    const { bytes, open } = create();
    const first = open();
    first.resume(4, 1000);
    first.take(1);
    expect(open().resume(4, 0)).toBeUndefined();
    expect([bytes.getUint8(32), bytes.getUint16(14, true)]).toEqual([0, 0]);
  });

  it.each([
    ['another version', 8, 2],
    ['another number of entries', 10, 5],
    ['a last batch outside the region', 12, 4, 1],
    ['a counter that we never write', 16 + 14, 0x10],
  ])('refuses %s', (_, at, value, usedIdx = 0) => {
    const { bytes, open } = create();
    const first = open();
    first.resume(4, 0);
    first.take(0);
    bytes.setUint16(at, value, true);
    expect(faultOf(() => open().resume(4, usedIdx))).toBe('inflight-invalid');
  });

  it('refuses a head outside the ring, a ring larger than the region and a region larger than its buffer', () => {
    const { buffer, bytes, open } = create();
    open().resume(4, 0);
    bytes.setUint8(16 + 16 * 3, 1);
    expect(faultOf(() => open().resume(2, 0))).toBe('inflight-invalid');
    expect(faultOf(() => open().resume(8, 0))).toBe('inflight-invalid');
    const beyond = { buffer, offsetBytes: 64, entries: 4 };
    expect(faultOf(() => new SplitInflight(beyond))).toBe('inflight-invalid');
    expect(faultOf(() => new PackedInflight(beyond))).toBe('inflight-invalid');
  });
});
