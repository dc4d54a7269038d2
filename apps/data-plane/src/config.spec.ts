import { ConfigurationError } from '@cairn/domain';
import { describe, expect, it } from 'vitest';
import { readConfig } from './config.js';

const complete = {
  CAIRN_AGENT_TOKEN: 'secret',
  CAIRN_POOL_DIR: '/srv/pool',
  CAIRN_SOCKET_DIR: '/run/cairn',
  CAIRN_STATE_DIR: '/var/lib/cairn',
};
const read = (env: Record<string, string>) => readConfig(env, () => 'from a file\n');
const faultsOf = (env: Record<string, string>): Record<string, string> => {
  try {
    read(env);
    return {};
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    return Object.fromEntries(error.faults.map(({ name, message }) => [name, message]));
  }
};

describe('the data-plane configuration', () => {
  it('serves without a control plane', () => {
    const config = read(complete);
    expect(config).toMatchObject({
      port: 8701,
      cache: 'writeback',
      overcommitRatio: 10,
      lowSpacePercent: 10,
      pollMicros: 32,
    });
    expect(config.heartbeat).toBeUndefined();
  });

  it('looks on before it sleeps for a millisecond at most', () => {
    expect(read({ ...complete, CAIRN_POLL_MICROS: '0' }).pollMicros).toBe(0);
    expect(Object.keys(faultsOf({ ...complete, CAIRN_POLL_MICROS: '1001' }))).toEqual(['CAIRN_POLL_MICROS']);
  });

  it('needs the join token once there is a control plane to report to', () => {
    const env = { ...complete, CAIRN_CONTROL_PLANE_URL: 'http://cp:8700' };
    expect(Object.keys(faultsOf(env))).toEqual(['CAIRN_JOIN_TOKEN']);
    expect(read({ ...env, CAIRN_JOIN_TOKEN: 'join' }).heartbeat).toMatchObject({
      joinToken: 'join',
      intervalMs: 2000,
    });
  });

  it('refuses a socket directory whose paths would not fit a unix socket, with a remedy', () => {
    // 107 bytes less "/vol-" and 17 digits and ".sock".
    const longest = `/${'d'.repeat(107 - 27 - 1)}`;
    expect(faultsOf({ ...complete, CAIRN_SOCKET_DIR: longest })).toEqual({});
    expect(faultsOf({ ...complete, CAIRN_SOCKET_DIR: `${longest}d` })['CAIRN_SOCKET_DIR']).toContain(
      'shorter directory',
    );
  });

  it('lists every fault at once', () => {
    const faults = faultsOf({
      CAIRN_AGENT_PORT: '70000',
      CAIRN_CACHE: 'none',
      CAIRN_OVERCOMMIT_RATIO: '0',
      CAIRN_LOW_SPACE_PERCENT: '100',
    });
    expect(Object.keys(faults).sort()).toEqual([
      'CAIRN_AGENT_PORT',
      'CAIRN_AGENT_TOKEN',
      'CAIRN_CACHE',
      'CAIRN_LOW_SPACE_PERCENT',
      'CAIRN_OVERCOMMIT_RATIO',
      'CAIRN_POOL_DIR',
      'CAIRN_SOCKET_DIR',
      'CAIRN_STATE_DIR',
    ]);
  });
});
