import { VIRTQUEUE_FAULTS } from '@cairn/virtio';
import { describe, expect, it } from 'vitest';
import { byName, errnoError, nameIndex, REQUEST_ERRORS } from './failure-names.js';
import { emptyTotal, ShardMetrics } from './shard-metrics.js';

describe('the names of failures', () => {
  const all = [...REQUEST_ERRORS, ...VIRTQUEUE_FAULTS];

  it('have a place each, and all of them fit into the metrics', () => {
    const places = all.map(nameIndex);
    expect(new Set(places).size).toBe(all.length);
    expect(Math.max(...places)).toBeLessThan(emptyTotal().names.length);
  });

  it('are told apart: what became of requests, and what guests broke', () => {
    const metrics = new ShardMetrics(new SharedArrayBuffer(ShardMetrics.BYTES), 0);
    for (const name of all) metrics.countName(nameIndex(name));
    metrics.countName(nameIndex('ENOSPC'));
    const total = emptyTotal();
    metrics.addTo(total);
    const { errors, faults } = byName(total.names);
    const once = (names: readonly string[]) => Object.fromEntries(names.map((name) => [name, 1]));
    expect(errors).toEqual({ ...once(REQUEST_ERRORS), ENOSPC: 2 });
    expect(faults).toEqual(once(VIRTQUEUE_FAULTS));
  });

  it('are left out where nothing was counted', () => {
    expect(byName(emptyTotal().names)).toEqual({ errors: {}, faults: {} });
  });

  it('keep the kernel errors that mean something of their own, and lump the others', () => {
    expect(['EIO', 'ENOSPC', 'EFBIG', 'EDQUOT'].map(errnoError)).toEqual([
      'EIO',
      'ENOSPC',
      'EFBIG',
      'EDQUOT',
    ]);
    expect(['EXDEV', 'ENOMEM', ''].map(errnoError)).toEqual(['other-errno', 'other-errno', 'other-errno']);
  });
});
