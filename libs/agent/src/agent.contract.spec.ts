import { describe, expect, it } from 'vitest';
import {
  parseDeleteExport,
  parsePutExport,
  parsePutExportLimits,
  parsePutVolume,
  parseVolumeId,
} from './agent.contract.js';
import { AgentError } from './agent.errors.js';

const faultsOf = (parse: () => unknown): string[] => {
  try {
    parse();
  } catch (error) {
    if (error instanceof AgentError && error.code === 'invalid-argument') {
      return (error.details.errors ?? []).map(({ field }) => field);
    }
    throw error;
  }
  return [];
};

const putExport = { attachmentId: 'att-0123456789abcdef', generation: 3, readOnly: false, numQueues: 2 };

describe('the agent contract', () => {
  it('takes a valid request of each verb unchanged', () => {
    expect(parseVolumeId('vol-0123456789abcdef')).toBe('vol-0123456789abcdef');
    expect(parsePutVolume({ sizeBytes: 1048576 })).toEqual({ sizeBytes: 1048576 });
    expect(parsePutExport(putExport)).toEqual(putExport);
    expect(parseDeleteExport({ generation: '3' })).toEqual({ generation: 3, force: false });
    expect(parseDeleteExport({ generation: '3', force: 'true' })).toEqual({ generation: 3, force: true });
  });

  it('takes those limits that are given, and none', () => {
    expect(parsePutExportLimits({ generation: 3, limits: {} })).toEqual({ generation: 3, limits: {} });
    const limits = { iops: 100, bytesBurstSeconds: 0 };
    expect(parsePutExportLimits({ generation: 3, limits })).toEqual({ generation: 3, limits });
  });

  it.each([
    [{ limits: {} }, ['generation']],
    [{ generation: 3 }, ['limits', 'limits']],
    [{ generation: 3, limits: { iops: -1, bytesPerSecond: 0.5 } }, ['limits.iops', 'limits.bytesPerSecond']],
    [{ generation: 3, limits: { iops: '10' } }, ['limits.iops']],
    [{ generation: 3, limits: { weight: 1 } }, ['limits.weight']],
  ])('refuses the limits %j', (body, faults) => {
    const found = faultsOf(() => parsePutExportLimits(body));
    expect(new Set(found)).toEqual(new Set(faults));
  });

  it('lists every fault of a request at once', () => {
    expect(
      faultsOf(() =>
        parsePutExport({ attachmentId: '../x', generation: 0, readOnly: 'no', numQueues: 17, extra: 1 }),
      ),
    ).toEqual(['attachmentId', 'generation', 'readOnly', 'numQueues', 'extra']);
  });

  it.each([undefined, null, 7, 'text', [], [putExport]])('refuses %j where an object is due', (body) => {
    expect(faultsOf(() => parsePutExport(body))).toContain('(body)');
  });

  it.each([0, -4096, 1048577, 1048576.5, 2 ** 60, 2 ** 63, Number.NaN, '1048576', null])(
    'refuses the volume size %j',
    (sizeBytes) => {
      expect(faultsOf(() => parsePutVolume({ sizeBytes }))).toEqual(['sizeBytes']);
    },
  );

  it('refuses a generation that a JSON number does not hold exactly', () => {
    const generation: unknown = JSON.parse('18446744073709551615');
    expect(faultsOf(() => parsePutExport({ ...putExport, generation }))).toEqual(['generation']);
  });

  it.each(['', '-1', '0', '1.5', '0x10', '18446744073709551615', '9007199254740992', ['1', '2'], undefined])(
    'refuses the query generation %j',
    (generation) => {
      expect(faultsOf(() => parseDeleteExport({ generation }))).toContain('generation');
    },
  );

  it.each([
    '',
    'vol-',
    'vol-0123456789ABCDEF',
    'vol-0123456789abcde',
    'vol-0123456789abcdef01',
    '../../etc/passwd',
    'vol-0123456789abcdef\n',
  ])('refuses the volume id %j', (id) => {
    expect(faultsOf(() => parseVolumeId(id))).toEqual(['volumeId']);
  });

  it('does not take a field from the prototype of the body', () => {
    expect(faultsOf(() => parsePutVolume(JSON.parse('{"__proto__": {"sizeBytes": 1048576}}')))).toContain(
      'sizeBytes',
    );
  });
});
