import type { CacheMode } from './volume-file.js';

/** A volume file to serve. */
export interface ExportSpec {
  id: string;
  filePath: string;
  /** Where to listen; the socket file is made, and removed at the end. */
  socketPath?: string;
  /** A socket that already listens, instead; the export owns it. */
  socketFd?: number;
  readOnly: boolean;
  /** 1 … 256. */
  numQueues: number;
  cache: CacheMode;
  /** What the guest reads as the disk's serial; 20 bytes at most. */
  serial: string;
}

/** What an export has done since it was added. */
export interface ExportStatus {
  id: string;
  connected: boolean;
  /** Why it refuses writes, when it does. */
  failed?: string;
  /** Why the last front-end that broke the protocol was disconnected. */
  lastDisconnect?: string;
  requests: number;
  bytesRead: number;
  bytesWritten: number;
  sizeBytes: number;
  guestFaults: number;
  faultsByName: Record<string, number>;
  errorsByName: Record<string, number>;
}

/** What the main thread asks of a reactor thread. */
export type ReactorCommand =
  | { kind: 'add'; spec: ExportSpec }
  | { kind: 'remove'; id: string }
  | { kind: 'resize'; id: string; sizeBytes: number }
  | { kind: 'status' }
  | { kind: 'stop' };

export interface CommandMessage {
  sequence: number;
  command: ReactorCommand;
}

/** The answer to a command; `error` is the reason why it was not done. */
export interface AnswerMessage {
  sequence: number;
  error?: string;
  statuses?: ExportStatus[];
}

/** What a reactor thread is started with. */
export interface ReactorStart {
  controlFd: number;
  pollMicros: number;
}
