import type { MessagePort } from 'node:worker_threads';
import type { VolumeChain } from '@cairn/storage';
import type { Handed } from '@cairn/vhost-user';
import type { RateBalance } from './rate-limiter.js';
import type { RateLimits } from './rate-limits.js';
import type { MetricsTotal } from './shard-metrics.js';
import type { StandStill } from './served-files.js';
import type { CacheMode } from './volume-file.js';

/** A volume file to serve. */
export interface ExportSpec {
  id: string;
  /** The file, or the head of the chain. */
  filePath: string;
  /** What it is read from, when it has parents or may get them; absent: the file alone. */
  chain?: VolumeChain;
  /** Serve this many bytes that nobody keeps, instead of the file: it measures the rings alone. */
  nullBytes?: number;
  /** Where to listen; the socket file is made, and removed at the end. */
  socketPath?: string;
  /**
   * Nobody else may serve this volume, as whoever has its pool's lock knows. A socket at the path is replaced then, even
   * when somebody seems to listen: the kernel closes what a dead process polled some time after its end.
   */
  socketIsOurs?: boolean;
  /** A socket that already listens, instead; the export owns it. */
  socketFd?: number;
  readOnly: boolean;
  /** 1 … 256. */
  numQueues: number;
  cache: CacheMode;
  /** What the guest reads as the disk's serial; 20 bytes at most. */
  serial: string;
  /** How many requests and bytes a second the guest may have; absent = as many as there are. */
  limits?: RateLimits;
}

/** What only the export's home knows of it. */
export interface ConnectionStatus {
  id: string;
  connected: boolean;
  /** Why rings that a front-end has started do not run yet. */
  waiting?: string;
  /** Why the last front-end that broke the protocol was disconnected. */
  lastDisconnect?: string;
  disconnects: Record<string, number>;
}

/** What an export has done since it was added. */
export interface ExportStatus {
  id: string;
  connected: boolean;
  /** Why rings that a front-end has started do not run yet. */
  waiting?: string;
  /** Why it refuses writes, when it does. */
  failed?: string;
  lastDisconnect?: string;
  sizeBytes: number;
  requests: number;
  bytesRead: number;
  bytesWritten: number;
  /** What guest and front-end did wrong, in all and by name. */
  guestFaults: number;
  faultsByName: Record<string, number>;
  /** Requests that were answered with an error, by reason. */
  errorsByName: Record<string, number>;
  metrics: MetricsTotal;
  /** Requests taken off the rings and not completed. */
  inFlight: number;
  /** Absent = no limit. */
  limits?: RateLimits;
  rate: RateBalance;
}

/** What the main thread asks of an export's home reactor. */
export type ReactorCommand =
  | { kind: 'add'; spec: ExportSpec; arena: SharedArrayBuffer; handed?: Handed | undefined }
  | { kind: 'suspend'; id: string }
  | { kind: 'resume'; id: string }
  | { kind: 'release'; id: string }
  | { kind: 'remove'; id: string }
  | { kind: 'resize'; id: string; sizeBytes: number }
  | { kind: 'prepare-chain'; id: string; chain: VolumeChain }
  | { kind: 'freeze'; id: string }
  /** `goOver`: to the chain that was prepared. */
  | { kind: 'thaw'; id: string; goOver: boolean }
  | { kind: 'barrier'; id: string }
  | { kind: 'status' }
  | { kind: 'drain' }
  | { kind: 'stop' };

export interface CommandMessage {
  sequence: number;
  command: ReactorCommand;
}

/** Something that the operator must know, of which no command asked. */
export interface NoticeMessage {
  notice: string;
}

/** The answer to a command; `error` is the reason why it was not done. */
export interface AnswerMessage {
  sequence: number;
  error?: string;
  statuses?: ConnectionStatus[];
  stood?: StandStill;
  /** The thread as the kernel calls it, when it has started. */
  threadId?: number;
  handed?: Handed;
}

/** What a reactor thread is started with. */
export interface ReactorStart {
  reactor: number;
  pollMicros: number;
  /** The eventfd of each reactor; writing to it wakes that thread. */
  wakeFds: number[];
  /** The port to each other reactor. */
  ports: (MessagePort | undefined)[];
  placement: SharedArrayBuffer;
  metrics: SharedArrayBuffer;
}
