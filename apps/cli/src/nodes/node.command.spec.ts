import { describe, expect, it } from 'vitest';
import { describeNode } from './node.command.js';

describe('cairn node list', () => {
  it('has a line for a node and one for each pool, and says which pool is low on space', () => {
    const pool = {
      id: 'pool-1',
      directory: '/pool',
      totalBytes: 2 ** 40,
      freeBytes: 2 ** 35,
      provisionedBytes: 2 ** 41,
      volumes: 3,
      lowSpace: false,
    };
    const low = { ...pool, id: 'pool-2', lowSpace: true, lowSpaceSince: '2026-01-01T00:00:00.000Z' };
    const node = { id: 'node-1', name: 'host-1', state: 'down', exports: 3, connectedExports: 2 };
    expect(describeNode({ ...node, pools: [pool, low] })).toBe(
      [
        'node-1  down   host-1, 2 of 3 exports connected',
        '  pool-1  /pool  32 GiB of 1 TiB free, 2 TiB promised to 3 volumes',
        '  pool-2  /pool  32 GiB of 1 TiB free, 2 TiB promised to 3 volumes, LOW ON SPACE since 2026-01-01T00:00:00.000Z',
        '',
      ].join('\n'),
    );
  });
});
