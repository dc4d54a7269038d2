import { errorRetryable } from '@cairn/domain';
import { describe, expect, it } from 'vitest';
import { readConfig } from '../config.js';
import { decodePageToken, encodePageToken } from './page-token.js';
import { bearerOf, newApiKey, parseApiKey, sameText, secretMatches, secretSha256 } from './api-key.js';
import { problems } from './problem.js';

describe('API keys', () => {
  it('are taken apart as they were made', () => {
    const key = newApiKey();
    const parsed = parseApiKey(key);
    expect(parsed?.id).toMatch(/^key-[0-9a-f]{17}$/);
    expect(key).toBe(`cairn_${parsed?.id.slice(4)}_${parsed?.secret}`);
    expect(Buffer.from(parsed?.secret ?? '', 'base64url')).toHaveLength(32);
  });

  it.each(['', 'cairn_', 'cairn_0123_x', `${newApiKey()}x`, newApiKey().toUpperCase(), ` ${newApiKey()}`])(
    'refuse %j',
    (text) => {
      expect(parseApiKey(text)).toBeUndefined();
    },
  );

  it('match only their own hash', () => {
    expect(secretMatches('a', secretSha256('a'))).toBe(true);
    expect(secretMatches('b', secretSha256('a'))).toBe(false);
    expect(secretMatches('a', undefined)).toBe(false);
    expect([sameText('a', 'a'), sameText('a', 'ab')]).toEqual([true, false]);
  });

  it('are found in a bearer header only', () => {
    expect(bearerOf('Bearer x')).toBe('x');
    expect(bearerOf('bearer   x')).toBe('x');
    for (const header of [undefined, '', 'Bearer', 'Bearer ', 'Basic x', 'Bearer x y', 'x'])
      expect(bearerOf(header)).toBeUndefined();
  });
});

describe('problems', () => {
  it('have an error status each, and promise a retry only where one can help', () => {
    for (const [code, { status, title }] of Object.entries(problems)) {
      expect(status, code).toBeGreaterThanOrEqual(400);
      expect(title, code).toMatch(/./);
    }
    for (const [code, retryable] of Object.entries(errorRetryable)) {
      const { status } = problems[code as keyof typeof errorRetryable];
      if (status === 503) expect(retryable, code).toBe(true);
      if (status === 400 || status === 404) expect(retryable, code).toBe(false);
    }
  });
});

describe('page tokens', () => {
  it('give back the place they were made of', () => {
    for (const place of [1, 17, Number.MAX_SAFE_INTEGER])
      expect(decodePageToken(encodePageToken(place))).toBe(place);
    for (const bad of [
      '',
      'x',
      'MQ',
      Buffer.from('v2.1').toString('base64url'),
      Buffer.from('v1.9007199254740993').toString('base64url'),
    ]) {
      expect(decodePageToken(bad)).toBeUndefined();
    }
  });
});

describe('the configuration', () => {
  const noFile = (path: string): string => {
    throw new Error(`no ${path}`);
  };
  const good = { DATABASE_URL: 'postgres://u:p@h/d', CAIRN_JOIN_TOKEN: 'join' };

  it('needs a database and a join token, and defaults the rest', () => {
    expect(readConfig(good, noFile)).toMatchObject({
      host: '127.0.0.1',
      port: 8700,
      queuePrefix: 'cairn',
      redisUrl: undefined,
      bootstrapApiKey: undefined,
      log: 'text',
    });
  });

  it('reports every fault at once, and no secret', () => {
    const env = {
      DATABASE_URL: 'mysql://root:s3cret@h/d',
      REDIS_URL: 'http://:s3cret@h',
      CAIRN_HTTP_PORT: '70000',
      CAIRN_QUEUE_PREFIX: 'a:b',
      CAIRN_BOOTSTRAP_API_KEY: 's3cret',
      CAIRN_LOG: 'xml',
    };
    let message = '';
    try {
      readConfig(env, noFile);
    } catch (error) {
      message = String(error);
    }
    for (const name of [...Object.keys(env), 'CAIRN_JOIN_TOKEN']) expect(message).toContain(`${name}: `);
    expect(message).not.toContain('s3cret');
  });
});
