import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { DEFAULT_POLL_MICROS, defaultReactors, MAX_POLL_MICROS, MAX_REACTORS } from '@cairn/block-export';
import { EnvironmentReader, MIB } from '@cairn/domain';
import { longestHandoverSocket } from './handover/handover.messages.js';

/** Everything the data plane is started with, checked. Directories are absolute. */
export interface DataPlaneConfig {
  readonly nodeName: string;
  readonly host: string;
  /** 0 takes any free port. */
  readonly port: number;
  /** The address the worker calls; unset means the one that is listened on. */
  readonly advertisedUrl?: string;
  readonly agentToken: string;
  readonly poolDirectory: string;
  readonly socketDirectory: string;
  readonly stateDirectory: string;
  readonly overcommitRatio: number;
  /** A warning is given below so much free space of a pool; 0: never. */
  readonly lowSpacePercent: number;
  readonly cache: 'direct' | 'writeback';
  /** How fast deleted bytes are given back in the background, beside what guests do. */
  readonly coalesceBytesPerSecond: number;
  /** How long after one measurement of whose bytes the pool holds the next begins. */
  readonly usageMs: number;
  /** Threads that serve the rings. */
  readonly reactors: number;
  /** How long they look for requests before they sleep, at most. */
  readonly pollMicros: number;
  readonly log: 'json' | 'text';
  /** How long a data plane that is told to stop serves on, while a front-end is connected, for a successor to take over. */
  readonly handoverWaitMs: number;
  /** Unset: the node serves and reports to nobody. */
  readonly heartbeat?: HeartbeatConfig;
}

/** Where and how often the node reports. */
export interface HeartbeatConfig {
  readonly controlPlaneUrl: string;
  readonly joinToken: string;
  readonly intervalMs: number;
}

/** sockaddr_un.sun_path is 108 bytes with its terminating zero (unix(7)). */
const maxSocketPathBytes = 107;
const longestSocketName = '/vol-0123456789abcdef0.sock';

/** Faults a directory of which the path is too long for the sockets in it. */
const checkSocketPath = (
  reader: EnvironmentReader,
  name: string,
  { directory, longestName, example }: { directory: string; longestName: string; example: string },
): void => {
  const longest = Buffer.byteLength(directory + longestName);
  if (longest <= maxSocketPathBytes) return;
  reader.fault(
    name,
    `is too long: its socket paths would have ${longest} bytes and unix(7) allows ${maxSocketPathBytes}; choose a shorter directory, such as ${example}`,
  );
};

const absolutePath = (reader: EnvironmentReader, name: string, meaning: string): string => {
  const value = reader.find(name);
  if (value !== undefined) return resolve(value);
  reader.fault(name, `is not set; name the directory for ${meaning}`);
  return '';
};

/** Reads the environment. Throws ConfigurationError with every fault. */
export function readConfig(
  env: Readonly<Record<string, string | undefined>>,
  readFile: (path: string) => string,
): DataPlaneConfig {
  const reader = new EnvironmentReader(env, readFile);
  const advertisedUrl = reader.find('CAIRN_AGENT_URL');
  reader.checkUrl('CAIRN_AGENT_URL', advertisedUrl, ['http', 'https']);
  const socketDirectory = absolutePath(reader, 'CAIRN_SOCKET_DIR', 'the sockets that guests connect to');
  checkSocketPath(reader, 'CAIRN_SOCKET_DIR', {
    directory: socketDirectory,
    longestName: longestSocketName,
    example: '/run/cairn',
  });
  const stateDirectory = absolutePath(reader, 'CAIRN_STATE_DIR', 'what the node remembers across restarts');
  checkSocketPath(reader, 'CAIRN_STATE_DIR', {
    directory: stateDirectory,
    longestName: longestHandoverSocket,
    example: '/var/lib/cairn',
  });
  const config: DataPlaneConfig = {
    nodeName: reader.text('CAIRN_NODE_NAME', hostname()),
    host: reader.text('CAIRN_AGENT_HOST', '127.0.0.1'),
    port: reader.integer('CAIRN_AGENT_PORT', 8701, { min: 0, max: 65_535 }),
    ...(advertisedUrl === undefined ? {} : { advertisedUrl }),
    agentToken: reader.secret(
      'CAIRN_AGENT_TOKEN',
      'give the data plane and the workers the same random text',
    ),
    poolDirectory: absolutePath(reader, 'CAIRN_POOL_DIR', 'the files of volumes'),
    socketDirectory,
    stateDirectory,
    lowSpacePercent: reader.integer('CAIRN_LOW_SPACE_PERCENT', 10, { min: 0, max: 99 }),
    overcommitRatio: reader.integer('CAIRN_OVERCOMMIT_RATIO', 10, { min: 1, max: 1000 }),
    cache: reader.oneOf('CAIRN_CACHE', ['writeback', 'direct'], 'writeback'),
    coalesceBytesPerSecond:
      MIB * reader.integer('CAIRN_COALESCE_MIB_PER_SECOND', 128, { min: 1, max: 1_000_000 }),
    usageMs: reader.integer('CAIRN_USAGE_MS', 60_000, { min: 50, max: 86_400_000 }),
    reactors: reader.integer('CAIRN_REACTORS', defaultReactors(), { min: 1, max: MAX_REACTORS }),
    pollMicros: reader.integer('CAIRN_POLL_MICROS', DEFAULT_POLL_MICROS, { min: 0, max: MAX_POLL_MICROS }),
    log: reader.oneOf('CAIRN_LOG', ['text', 'json'], 'text'),
    handoverWaitMs: reader.integer('CAIRN_HANDOVER_WAIT_MS', 5000, { min: 0, max: 600_000 }),
    ...readHeartbeat(reader),
  };
  reader.throwIfFaulty();
  return config;
}

function readHeartbeat(reader: EnvironmentReader): { heartbeat?: HeartbeatConfig } {
  const controlPlaneUrl = reader.find('CAIRN_CONTROL_PLANE_URL');
  if (controlPlaneUrl === undefined) return {};
  reader.checkUrl('CAIRN_CONTROL_PLANE_URL', controlPlaneUrl, ['http', 'https']);
  const joinToken = reader.secret('CAIRN_JOIN_TOKEN', 'set the join token of the control plane');
  const intervalMs = reader.integer('CAIRN_HEARTBEAT_MS', 2000, { min: 100, max: 60_000 });
  return { heartbeat: { controlPlaneUrl, joinToken, intervalMs } };
}
