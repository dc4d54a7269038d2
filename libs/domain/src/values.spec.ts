import { describe, expect, it } from 'vitest';
import { formatBytes, GIB, KIB, MIB, parseBytes, TIB } from './bytes.js';
import { isClientToken, requestDigest, resolveClientToken, sameRequestOrThrow } from './client-token.js';
import { DomainError, errorRetryable, isErrorCode, reasonOf } from './errors.js';
import { armFaultPoints, faultPointNames } from './fault-point.js';
import { idPrefixes, isId, newId, parseId, serialOf } from './ids.js';
import { operationBackoffMs, operationDeadlineMs, operationKinds } from './operation.js';
import { VOLUME_SIZE_MAX, VOLUME_SIZE_MIN, volumeSizeFault } from './volume.js';

describe('ids', () => {
  it.each(idPrefixes)('%s ids are unique, 17 hex digits long, and of no other kind', (prefix) => {
    const ids = new Set(Array.from({ length: 100 }, () => newId(prefix)));
    expect(ids.size).toBe(100);
    for (const id of ids) {
      expect(id).toMatch(new RegExp(`^${prefix}-[0-9a-f]{17}$`));
      expect(idPrefixes.filter((other) => isId(other, id))).toEqual([prefix]);
    }
  });

  it('of 16 digits, as they were before, are ids', () => {
    expect(parseId('vol', 'vol-0123456789abcdef')).toBe('vol-0123456789abcdef');
  });

  it('of volumes are serials of 20 bytes (virtio 1.2 §5.2.6.1)', () => {
    expect(serialOf('vol-0123456789abcdef')).toBe('vol-0123456789abcdef');
    expect(serialOf('vol-0123456789abcdef0')).toBe('vol0123456789abcdef0');
    expect(serialOf(newId('vol'))).toHaveLength(20);
  });

  it.each([
    '',
    'vol',
    'vol-',
    'vol-0',
    'vol-0123456789ABCDEF',
    'vol-0123456789abcdef01',
    'vol-0123456789abcde',
    ' vol-0123456789abcdef',
    'vol-0123456789abcdef\n',
    5,
    null,
    undefined,
    {},
  ])('refuse %j', (text) => expect(parseId('vol', text)).toBeUndefined());
});

describe('bytes', () => {
  it.each([
    ['0', 0],
    ['4096', 4096],
    ['1K', KIB],
    ['512M', 512 * MIB],
    ['10G', 10 * GIB],
    ['2T', 2 * TIB],
    ['1g', GIB],
    ['10GiB', 10 * GIB],
    ['10GB', 10 * GIB],
    [' 1M ', MIB],
    ['8191T', 8191 * TIB],
  ])('read %s as %d', (text, bytes) => expect(parseBytes(text)).toBe(bytes));

  it.each([
    '',
    'G',
    '1.5G',
    '-1',
    '+1',
    '1e3',
    '0x10',
    '10X',
    '1 G',
    '9007199254740992',
    '8192T',
    '10Gi',
    '99999999999999999',
  ])('refuse %j', (text) => expect(parseBytes(text)).toBeUndefined());

  it.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [KIB, '1 KiB'],
    [1536 * KIB, '1.5 MiB'],
    [64 * TIB, '64 TiB'],
    [4096 * TIB, '4096 TiB'],
  ])('write %d as %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));
});

describe('a volume size', () => {
  it.each([VOLUME_SIZE_MIN, VOLUME_SIZE_MAX, VOLUME_SIZE_MIN + 4096, GIB])('may be %d', (size) => {
    expect(volumeSizeFault(size)).toBeUndefined();
  });

  it.each([
    0,
    -4096,
    4096,
    VOLUME_SIZE_MIN - 4096,
    VOLUME_SIZE_MAX + 4096,
    VOLUME_SIZE_MIN + 1,
    2 ** 60,
    1.5,
    NaN,
    Infinity,
    '10G',
    null,
    undefined,
  ])('may not be %s', (size) => expect(volumeSizeFault(size)).toMatch(/^must be/));
});

describe('client tokens', () => {
  it('are 1 to 64 printable ASCII characters', () => {
    for (const token of ['a', 'x'.repeat(64), '~!"§'.slice(0, 3)]) expect(isClientToken(token)).toBe(true);
    for (const token of ['', 'x'.repeat(65), 'a b', 'ü', 'a\n', 5, undefined])
      expect(isClientToken(token)).toBe(false);
  });

  it('come from the header, the body or both alike', () => {
    expect(resolveClientToken(undefined, undefined)).toBeUndefined();
    expect(resolveClientToken('a', undefined)).toBe('a');
    expect(resolveClientToken(undefined, 'b')).toBe('b');
    expect(resolveClientToken('c', 'c')).toBe('c');
    expect(() => resolveClientToken('a', 'b')).toThrow(
      expect.objectContaining({ code: 'client-token-conflict' }),
    );
    expect(() => resolveClientToken('a b', undefined)).toThrow(
      expect.objectContaining({ code: 'invalid-request' }),
    );
  });

  it('stand for a request whatever the order of its fields, and for no other', () => {
    const digest = requestDigest({ kind: 'x', size: 1, name: undefined, tags: ['a', 'b'] });
    expect(requestDigest({ tags: ['a', 'b'], size: 1, kind: 'x' })).toBe(digest);
    for (const other of [
      { kind: 'x', size: 2 },
      { kind: 'x', size: '1' },
      { kind: 'x', size: 1, tags: ['b', 'a'] },
      { kind: 'x', size: 1, name: null },
    ]) {
      expect(requestDigest({ tags: ['a', 'b'], ...other })).not.toBe(digest);
    }
    sameRequestOrThrow({ id: 'op-1', requestDigest: digest }, { requestDigest: digest });
    expect(() => sameRequestOrThrow({ id: 'op-1', requestDigest: 'a' }, { requestDigest: 'b' })).toThrow(
      /op-1/,
    );
  });
});

describe('errors', () => {
  it('take retryable from the table unless they say otherwise', () => {
    for (const [code, retryable] of Object.entries(errorRetryable)) {
      expect(isErrorCode(code)).toBe(true);
      if (isErrorCode(code)) expect(new DomainError(code, { message: 'm' }).retryable).toBe(retryable);
    }
    expect(new DomainError('volume-wrong-state', { message: 'm', retryable: true }).retryable).toBe(true);
    expect(isErrorCode('toString')).toBe(false);
  });

  it('become reasons', () => {
    expect(reasonOf(new DomainError('pool-full', { message: 'full' }))).toEqual({
      code: 'pool-full',
      message: 'full',
    });
  });

  it('that nobody foresaw keep their text to themselves, since callers read reasons', () => {
    for (const error of [new TypeError('column "secret_sha256" does not exist'), 'secret_sha256']) {
      const reason = reasonOf(error);
      expect(reason.code).toBe('internal');
      expect(reason.message).not.toContain('secret_sha256');
    }
  });
});

describe('operations', () => {
  it('back off from a quarter of a second, doubling, to fifteen seconds', () => {
    expect([0, 1, 2, 3, 6, 7, 100].map(operationBackoffMs)).toEqual([
      250, 250, 500, 1000, 8000, 15_000, 15_000,
    ]);
  });

  it('have a deadline whatever their kind', () => {
    expect(Object.keys(operationDeadlineMs).toSorted()).toEqual([...operationKinds].toSorted());
  });
});

describe('fault points', () => {
  it('do nothing unless armed, and kill only at the armed step', () => {
    let kills = 0;
    const kill = () => void (kills += 1);
    const reachAll = (env: Record<string, string>) => {
      const points = armFaultPoints(env, kill);
      for (const name of faultPointNames) points.reach(name);
    };
    reachAll({});
    reachAll({ CAIRN_FAULT_POINT: '' });
    expect(kills).toBe(0);
    reachAll({ CAIRN_FAULT_POINT: 'worker.after-claim' });
    expect(kills).toBe(1);
  });

  it('take the further steps that a process names', () => {
    let kills = 0;
    const armed = { CAIRN_FAULT_POINT: 'store.fold.copied' };
    const points = armFaultPoints(armed, () => void (kills += 1), ['store.fold.copied']);
    points.reach('store.fold.flushed');
    expect(kills).toBe(0);
    points.reach('store.fold.copied');
    expect(kills).toBe(1);
    expect(() => armFaultPoints(armed, () => undefined)).toThrow(/store.fold.copied/);
  });

  it('are refused in production and by an unknown name', () => {
    const armed = { CAIRN_FAULT_POINT: 'worker.after-claim' };
    expect(() => armFaultPoints({ ...armed, NODE_ENV: 'production' }, () => undefined)).toThrow(/production/);
    expect(() => armFaultPoints({ CAIRN_FAULT_POINT: 'nowhere' }, () => undefined)).toThrow(/nowhere/);
  });
});
