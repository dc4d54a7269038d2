import type { SnapshotId, VolumeId } from '@cairn/domain';
import {
  readAgentExport,
  readAgentNode,
  readAgentVolume,
  type AgentExport,
  type AgentNode,
  type AgentVolume,
  type DeleteExport,
  type PutExport,
  type PutExportLimits,
  type PutRevert,
  type PutSize,
  type PutVolume,
} from './agent.contract.js';
import { AgentError, isAgentErrorCode } from './agent.errors.js';
import { ObjectReader } from './object-reader.js';
import {
  readAgentSnapshot,
  readAgentSnapshotList,
  readAgentUsage,
  type AgentSnapshot,
  type AgentSnapshotList,
  type AgentUsage,
  type CompleteWriting,
  type StartWriting,
  type TakeSnapshots,
} from './snapshot.contract.js';

/** Where an agent is and how long to wait for one of its answers. */
export interface AgentClientOptions {
  readonly baseUrl: string;
  readonly token: string;
  readonly timeoutMs?: number;
}

type Method = 'GET' | 'PUT' | 'DELETE';

/** A verb of the agent makes a file durable at most; anything slower is a node in trouble. */
const defaultTimeoutMs = 10_000;

/**
 * Calls the agent of one node. Every verb is idempotent: call again after any retryable error.
 *
 * Throws only AgentError. After `unreachable`, `timeout` or `bad-response` the verb may have been done.
 */
export class AgentClient {
  private readonly timeoutMs: number;

  constructor(private readonly options: AgentClientOptions) {
    this.timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
  }

  /** Makes the volume, empty or as its source is, or finds the one of that size. Refused with `snapshot-not-found`. */
  putVolume(volumeId: VolumeId, request: PutVolume): Promise<AgentVolume> {
    return this.call('PUT', `/v1/volumes/${volumeId}`, readAgentVolume, request);
  }

  /** Makes the volume as large; a guest sees it at once. One that is larger is refused with `volume-size-mismatch`. */
  putSize(volumeId: VolumeId, request: PutSize): Promise<AgentVolume> {
    return this.call('PUT', `/v1/volumes/${volumeId}/size`, readAgentVolume, request);
  }

  /**
   * Makes the volume read as the snapshot again, once for each generation, and closes that generation.
   *
   * Refused with `volume-exported`, `snapshot-not-found`, and `stale-generation` once a newer one was seen.
   */
  putRevert(volumeId: VolumeId, request: PutRevert): Promise<AgentVolume> {
    return this.call('PUT', `/v1/volumes/${volumeId}/revert`, readAgentVolume, request);
  }

  /** The volume, or `undefined` when the node has none of that id. */
  async findVolume(volumeId: VolumeId): Promise<AgentVolume | undefined> {
    try {
      return await this.call('GET', `/v1/volumes/${volumeId}`, readAgentVolume);
    } catch (error) {
      if (error instanceof AgentError && error.code === 'volume-not-found') return undefined;
      throw error;
    }
  }

  /** Every volume of the node. */
  async listVolumes(): Promise<AgentVolume[]> {
    return this.call('GET', '/v1/volumes', (reader) => reader.list('volumes', readAgentVolume));
  }

  /** Removes the volume for good; one that is not there is already removed. Refused with `volume-exported`. */
  deleteVolume(volumeId: VolumeId): Promise<void> {
    return this.call('DELETE', `/v1/volumes/${volumeId}`, () => undefined);
  }

  /** Exports the volume, or finds the export of that generation. Refused with `stale-generation`. */
  putExport(volumeId: VolumeId, request: PutExport): Promise<AgentExport> {
    return this.call('PUT', `/v1/volumes/${volumeId}/export`, readAgentExport, request);
  }

  /**
   * Changes how much the guest of an export may have, at once and also while it is attached; kept until the export ends.
   * Refused with `stale-generation`, and `export-not-found` where no such generation is exported.
   */
  putExportLimits(volumeId: VolumeId, request: PutExportLimits): Promise<AgentExport> {
    return this.call('PUT', `/v1/volumes/${volumeId}/export/limits`, readAgentExport, request);
  }

  /** Ends the export and closes its generation for good. Refused with `export-busy` unless forced, and `stale-generation`. */
  deleteExport(volumeId: VolumeId, request: DeleteExport): Promise<void> {
    const query = `generation=${request.generation}&force=${request.force}`;
    return this.call('DELETE', `/v1/volumes/${volumeId}/export?${query}`, () => undefined);
  }

  /** Every export of the node. */
  async listExports(): Promise<AgentExport[]> {
    return this.call('GET', '/v1/exports', (reader) => reader.list('exports', readAgentExport));
  }

  /**
   * Takes snapshots of volumes at one point in time, or finds them taken: all or none.
   *
   * Refused with `snapshot-exists` when an id is that of a snapshot of another volume, `volume-busy` while another
   * snapshot of a volume is being taken.
   */
  takeSnapshots(request: TakeSnapshots): Promise<AgentSnapshot[]> {
    return this.call(
      'PUT',
      '/v1/snapshots',
      (reader) => reader.list('snapshots', readAgentSnapshot),
      request,
    );
  }

  /** Every snapshot of the node. */
  listSnapshots(): Promise<AgentSnapshot[]> {
    return this.call('GET', '/v1/snapshots', (reader) => reader.list('snapshots', readAgentSnapshot));
  }

  /** Every snapshot of the node, also those that it does not understand. */
  listSnapshotIds(): Promise<AgentSnapshotList> {
    return this.call('GET', '/v1/snapshots', readAgentSnapshotList);
  }

  /**
   * Begins a snapshot that is written from blocks, or finds it begun.
   *
   * Refused with `snapshot-exists` when the id is that of another one, `snapshot-not-found` when the parent is not there.
   */
  async startWriting(snapshotId: SnapshotId, request: StartWriting): Promise<void> {
    await this.call('PUT', `/v1/snapshots/${snapshotId}/writing`, () => undefined, request);
  }

  /**
   * Ends the writing of a snapshot, or finds it ended. While it is going on it is refused with `snapshot-busy`: call again.
   *
   * Refused with `checksum-mismatch` when other blocks were put, `snapshot-not-found`.
   */
  completeWriting(snapshotId: SnapshotId, request: CompleteWriting): Promise<AgentSnapshot> {
    return this.call('PUT', `/v1/snapshots/${snapshotId}/completion`, readAgentSnapshot, request);
  }

  /** Whose bytes the node holds, as it measured last. */
  getUsage(): Promise<AgentUsage> {
    return this.call('GET', '/v1/usage', readAgentUsage);
  }

  /** Removes the snapshot for good; one that is not there is already removed. */
  deleteSnapshot(snapshotId: SnapshotId): Promise<void> {
    return this.call('DELETE', `/v1/snapshots/${snapshotId}`, () => undefined);
  }

  /** The node itself. */
  getNode(): Promise<AgentNode> {
    return this.call('GET', '/v1/node', readAgentNode);
  }

  private async call<Value>(
    method: Method,
    path: string,
    read: (reader: ObjectReader) => Value,
    body?: object,
  ): Promise<Value> {
    const { status, text } = await this.exchange(method, path, body);
    const document = parseJson(text);
    if (status >= 400) throw refusalOf(status, document);
    const reader = ObjectReader.lenient(document);
    const value = read(reader);
    const errors = reader.finish();
    if (errors.length > 0) {
      throw new AgentError(
        'bad-response',
        `${method} ${path} answered ${status} with a body that is not its own`,
        {
          errors,
        },
      );
    }
    return value;
  }

  private async exchange(
    method: Method,
    path: string,
    body?: object,
  ): Promise<{ status: number; text: string }> {
    try {
      const response = await fetch(new URL(path, this.options.baseUrl), {
        method,
        headers: {
          authorization: `Bearer ${this.options.token}`,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(this.timeoutMs),
        redirect: 'error',
      });
      return { status: response.status, text: await response.text() };
    } catch (cause) {
      if (cause instanceof DOMException && cause.name === 'TimeoutError') {
        throw new AgentError(
          'timeout',
          `the agent did not answer within ${this.timeoutMs} ms`,
          {},
          { cause },
        );
      }
      throw new AgentError(
        'unreachable',
        `the agent at ${this.options.baseUrl} cannot be reached`,
        {},
        { cause },
      );
    }
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The error an agent answered; an answer without a code of ours is a proxy's or a stranger's. */
function refusalOf(status: number, document: unknown): AgentError {
  const reader = ObjectReader.lenient(document);
  const code = reader.text('code', /^[a-z-]+$/, 'an error code');
  const message = reader.text('message', /^[^\0]*$/s, 'a text');
  if (reader.finish().length === 0 && isAgentErrorCode(code)) return new AgentError(code, message);
  return new AgentError('bad-response', `HTTP ${status} without an error code of the agent`);
}
