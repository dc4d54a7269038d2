import { ConfigurationError } from '@cairn/domain';
import { describe, expect, it } from 'vitest';
import { readConfig } from './config.js';

const complete = { DATABASE_URL: 'postgres://db/cairn', CAIRN_AGENT_TOKEN: 'secret' };
const read = (env: Record<string, string>) => readConfig(env, () => 'from a file\n');

describe('the worker configuration', () => {
  it('needs only a database and the agent token', () => {
    expect(read(complete)).toMatchObject({
      databaseUrl: 'postgres://db/cairn',
      agentToken: 'secret',
      leaseMs: 15_000,
    });
  });

  it('takes a secret from a file', () => {
    const { CAIRN_AGENT_TOKEN: _, ...rest } = complete;
    expect(read({ ...rest, CAIRN_AGENT_TOKEN_FILE: '/run/secrets/agent' }).agentToken).toBe('from a file');
  });

  it('lists every fault at once', () => {
    const faulty = { REDIS_URL: 'http://x', CAIRN_LEASE_MS: '1', CAIRN_SWEEP_MS: 'often', CAIRN_LOG: 'xml' };
    try {
      read(faulty);
      expect.unreachable();
    } catch (error) {
      if (!(error instanceof ConfigurationError)) throw error;
      expect(error.faults.map(({ name }) => name).sort()).toEqual([
        'CAIRN_AGENT_TOKEN',
        'CAIRN_LEASE_MS',
        'CAIRN_LOG',
        'CAIRN_SWEEP_MS',
        'DATABASE_URL',
        'REDIS_URL',
      ]);
    }
  });
});
