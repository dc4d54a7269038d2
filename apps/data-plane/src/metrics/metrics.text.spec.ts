import { describe, expect, it } from 'vitest';
import { exportStatusOf } from '@cairn/block-export/testing';
import { MetricsText } from './metrics.text.js';

const status = exportStatusOf('vol-0123456789abcdef', {
  connected: true,
  requests: 12,
  bytesRead: 4096,
  bytesWritten: 8192,
  guestFaults: 1,
  faultsByName: { 'head-out-of-range': 1 },
});

describe('MetricsText', () => {
  it('writes one sample a line, each family with its help and type once', async () => {
    const text = await new MetricsText(
      { statuses: async () => [status, { ...status, id: 'vol-00000000000000ff', failed: 'EIO' }] },
      {
        poolId: 'pool-0123456789abcdef',
        capacity: async () => ({ totalBytes: 3, freeBytes: 2, provisionedBytes: 1 }),
      },
    ).render();
    expect(text).toContain('cairn_pool_free_bytes{pool="pool-0123456789abcdef"} 2\n');
    expect(text).toContain('cairn_export_failed{volume="vol-0123456789abcdef"} 0\n');
    expect(text).toContain('cairn_export_failed{volume="vol-00000000000000ff"} 1\n');
    expect(text).toContain('cairn_export_written_bytes_total{volume="vol-0123456789abcdef"} 8192\n');
    expect(text).toContain(
      'cairn_export_faults_total{volume="vol-0123456789abcdef",name="head-out-of-range"} 1\n',
    );
    for (const line of text.trimEnd().split('\n')) {
      expect(line).toMatch(/^(# (HELP|TYPE) \S+ .+|[a-z_]+\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")?\} \d+)$/);
    }
    const types = text.split('\n').filter((line) => line.startsWith('# TYPE'));
    expect(new Set(types).size).toBe(types.length);
  });
});
