import { check, native } from '@cairn/native';
import type { MemoryLayout } from '@cairn/vhost-user';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ViewCache } from './view-cache.js';

const SPAN = 2 ** 32;
const PAGE = 4096;

describe('a thread’s views over guest memory', () => {
  let layouts: MemoryLayout[];

  beforeEach(() => {
    layouts = [0, 1].map(() => {
      const baseAddress = check('reserve', native.reserve(SPAN));
      const fd = check('memfd', native.memfd('guest', PAGE));
      check('mapFixed', native.mapFixed(baseAddress, PAGE, fd, 0));
      return { baseAddress, runs: [{ gpa: 0, sizeBytes: PAGE }] };
    });
  });
  afterEach(() => layouts.forEach(({ baseAddress }) => native.unreserve(baseAddress, SPAN)));

  it('are shared by the rings of one front-end, and end with the last of them', () => {
    const cache = new ViewCache();
    const views = cache.acquire(layouts[0]!);
    expect(cache.acquire({ ...layouts[0]! })).toBe(views);
    const view = views.memory.view(0, 16);
    cache.release(layouts[0]!);
    expect(view.byteLength).toBe(16);
    cache.release(layouts[0]!);
    expect(view.byteLength).toBe(0);
    expect(cache.acquire(layouts[0]!)).not.toBe(views);
    cache.release(layouts[0]!);
  });

  it('are never those of another guest, whose session lives on another thread', () => {
    const cache = new ViewCache();
    const [one, other] = layouts.map((layout) => cache.acquire(layout));
    one!.memory.writeByte(5, 0, 1);
    const view = other!.memory.view(0, 16);
    expect(new Uint8Array(view)[5]).toBe(0);
    for (const layout of layouts) cache.release(layout);
  });

  it('are not those of another guest whose memory begins as much further up as it is mapped further up', () => {
    const cache = new ViewCache();
    const further = { ...layouts[0]!, runs: [{ gpa: SPAN, sizeBytes: PAGE }] };
    const [one, other] = [layouts[0]!, further].map((layout) => cache.acquire(layout));
    expect(one).not.toBe(other);
    for (const layout of [layouts[0]!, further]) cache.release(layout);
  });
});
