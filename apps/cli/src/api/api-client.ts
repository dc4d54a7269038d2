import { setTimeout as sleep } from 'node:timers/promises';
import { CliError } from '../cli-error.js';

/** A volume as the API shows it; only what the commands use is named. */
export interface ApiVolume {
  id: string;
  sizeBytes: number;
  state: string;
  name?: string;
}

/** Where a back-end listens. */
export interface ApiConnection {
  type: string;
  socketPath: string;
  serial: string;
  numQueues: number;
}

/** One volume with one instance, as the API shows it. */
export interface ApiAttachment {
  id: string;
  volumeId: string;
  state: string;
  connection?: ApiConnection;
  reason?: string;
}

/** What a volume was at one point in time, as the API shows it. */
export interface ApiSnapshot {
  id: string;
  /** Unset when it was written from blocks. */
  volumeId?: string;
  sizeBytes: number;
  state: string;
  createdAt: string;
  name?: string;
}

/** A pool of a node, as the API shows it. */
export interface ApiPool {
  id: string;
  directory: string;
  totalBytes: number;
  freeBytes: number;
  provisionedBytes: number;
  volumes: number;
  lowSpace: boolean;
  lowSpaceSince?: string;
}

/** A host that serves volumes, as the API shows it. */
export interface ApiNode {
  id: string;
  name: string;
  state: string;
  exports: number;
  connectedExports: number;
  pools: ApiPool[];
}

/** What people say of a snapshot. */
export interface SnapshotWords {
  name?: string;
  description?: string;
  tags?: Record<string, string>;
}

/** What is being done, how far it is and how it ended. */
export interface ApiOperation {
  id: string;
  kind: string;
  state: 'pending' | 'running' | 'succeeded' | 'failed';
  progress: number;
  error?: { code: string; message: string; retryable: boolean };
}

/** A block of a snapshot, and what must be shown to read it. */
export interface ListedBlock {
  index: number;
  token: string;
}

/** An answer of the API that is an error (RFC 9457). */
export class ApiError extends CliError {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    remedy?: string,
  ) {
    super(message, remedy);
  }
}

interface Problem {
  title?: string;
  detail?: string;
  /** Of a node, to which the API has sent us on. */
  message?: string;
  code?: string;
  currentState?: string;
  allowedStates?: string[];
  errors?: { field: string; message: string }[];
  requestId?: string;
}

/** The REST API, as far as the commands need it. */
export class ApiClient {
  constructor(
    readonly url: string,
    private readonly apiKey: string,
  ) {}

  /** The header that says who asks. */
  get credentials(): { authorization: string } {
    return { authorization: `Bearer ${this.apiKey}` };
  }

  /** Starts the making of a volume; it exists when the operation has succeeded. */
  createVolume(body: {
    sizeBytes?: number;
    name?: string;
    snapshotId?: string;
    sourceVolumeId?: string;
  }): Promise<{ volume: ApiVolume; operation: ApiOperation }> {
    return this.request('POST', '/v1/volumes', body);
  }

  listNodes(): Promise<{ nodes: ApiNode[] }> {
    return this.request('GET', '/v1/nodes');
  }

  getVolume(id: string): Promise<ApiVolume> {
    return this.request('GET', `/v1/volumes/${encodeURIComponent(id)}`);
  }

  /** One page of volumes; `nextPageToken` leads to the next. */
  listVolumes(pageToken?: string): Promise<{ volumes: ApiVolume[]; nextPageToken?: string }> {
    const query = pageToken ? `?pageToken=${encodeURIComponent(pageToken)}` : '';
    return this.request('GET', `/v1/volumes${query}`);
  }

  /** Starts making a volume larger. */
  resizeVolume(id: string, sizeBytes: number): Promise<{ operation: ApiOperation }> {
    return this.request('POST', `/v1/volumes/${encodeURIComponent(id)}/resize`, { sizeBytes });
  }

  /** Starts making a detached volume read as its snapshot again. */
  revertVolume(id: string, snapshotId: string): Promise<{ operation: ApiOperation }> {
    return this.request('POST', `/v1/volumes/${encodeURIComponent(id)}/revert`, { snapshotId });
  }

  deleteVolume(id: string): Promise<{ operation: ApiOperation }> {
    return this.request('DELETE', `/v1/volumes/${encodeURIComponent(id)}`);
  }

  /** Starts a snapshot; it exists when the operation has succeeded. */
  async takeSnapshot(
    volumeId: string,
    words: SnapshotWords = {},
  ): Promise<{ snapshots: ApiSnapshot[]; operation: ApiOperation }> {
    const path = `/v1/volumes/${encodeURIComponent(volumeId)}/snapshots`;
    const { snapshot, operation } = await this.request<{ snapshot: ApiSnapshot; operation: ApiOperation }>(
      'POST',
      path,
      words,
    );
    return { snapshots: [snapshot], operation };
  }

  /** Starts snapshots of one point in time. */
  takeSnapshots(
    volumeIds: string[],
    words: SnapshotWords = {},
  ): Promise<{ snapshots: ApiSnapshot[]; operation: ApiOperation }> {
    return this.request('POST', '/v1/snapshots/group', { volumeIds, ...words });
  }

  getSnapshot(id: string): Promise<ApiSnapshot> {
    return this.request('GET', `/v1/snapshots/${encodeURIComponent(id)}`);
  }

  /** One page of snapshots; `nextPageToken` leads to the next. */
  listSnapshots(query: {
    volumeId?: string | undefined;
    pageToken?: string | undefined;
  }): Promise<{ snapshots: ApiSnapshot[]; nextPageToken?: string }> {
    const given = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) if (value !== undefined) given.set(name, value);
    return this.request('GET', `/v1/snapshots?${given.toString()}`);
  }

  /** Starts a snapshot that is written from blocks; they can be put when the operation has succeeded. */
  startSnapshot(
    body: { sizeBytes: number; parentSnapshotId?: string; timeoutMinutes?: number } & SnapshotWords,
  ): Promise<{ snapshot: ApiSnapshot; operation: ApiOperation }> {
    return this.request('POST', '/v1/snapshots', body);
  }

  /** Where the blocks of a snapshot are put, and until when. */
  getUpload(id: string): Promise<{ url: string; blockBytes: number; expiresAt: string }> {
    return this.request('GET', `/v1/snapshots/${encodeURIComponent(id)}/upload`);
  }

  /** Starts the completion of a snapshot that was written from blocks. */
  completeSnapshot(
    id: string,
    body: { changedBlocks: number; checksum: string },
  ): Promise<{ operation: ApiOperation }> {
    return this.request('POST', `/v1/snapshots/${encodeURIComponent(id)}/complete`, body);
  }

  /** The blocks of a snapshot that have data, or changed since an earlier one, in order. */
  async *listBlocks(id: string, since?: string): AsyncGenerator<ListedBlock & { blockBytes: number }> {
    const compared = since === undefined ? '' : `&since=${encodeURIComponent(since)}`;
    for (let start: number | undefined = 0; start !== undefined;) {
      const page: { blocks: ListedBlock[]; blockBytes: number; nextStart?: number } = await this.request(
        'GET',
        `/v1/snapshots/${encodeURIComponent(id)}/blocks?start=${start}${compared}`,
      );
      for (const block of page.blocks) yield { ...block, blockBytes: page.blockBytes };
      start = page.nextStart;
    }
  }

  deleteSnapshot(id: string): Promise<{ operation: ApiOperation }> {
    return this.request('DELETE', `/v1/snapshots/${encodeURIComponent(id)}`);
  }

  /** Starts an attach; the attachment has its connection when the operation has succeeded. */
  attach(
    volumeId: string,
    body: { instanceId?: string; readOnly?: boolean; numQueues?: number },
  ): Promise<{ attachment: ApiAttachment; operation: ApiOperation }> {
    return this.request('POST', `/v1/volumes/${encodeURIComponent(volumeId)}/attachments`, body);
  }

  async listAttachments(volumeId: string): Promise<ApiAttachment[]> {
    const path = `/v1/volumes/${encodeURIComponent(volumeId)}/attachments`;
    const { attachments } = await this.request<{ attachments: ApiAttachment[] }>('GET', path);
    return attachments;
  }

  getAttachment(volumeId: string, id: string): Promise<ApiAttachment> {
    return this.request(
      'GET',
      `/v1/volumes/${encodeURIComponent(volumeId)}/attachments/${encodeURIComponent(id)}`,
    );
  }

  detach(
    volumeId: string,
    id: string,
    { force = false }: { force?: boolean } = {},
  ): Promise<{ operation: ApiOperation }> {
    const path = `/v1/volumes/${encodeURIComponent(volumeId)}/attachments/${encodeURIComponent(id)}`;
    return this.request('DELETE', force ? `${path}?force=true` : path);
  }

  /** Waits for an operation to end. Throws CliError with its reason when it fails or takes too long. */
  async finish(operation: ApiOperation, { timeoutMs = 120_000 }: { timeoutMs?: number } = {}): Promise<void> {
    let current = operation;
    let pauseMs = 10;
    for (const deadline = Date.now() + timeoutMs; ; pauseMs = Math.min(pauseMs * 1.5, 250)) {
      if (current.state === 'succeeded') return;
      if (current.state === 'failed') {
        const { code = 'unknown', message = 'no reason given' } = current.error ?? {};
        throw new CliError(`${current.kind} failed: ${message} (${code}, operation ${current.id})`);
      }
      if (Date.now() > deadline) {
        throw new CliError(
          `operation ${current.id} (${current.kind}) is still ${current.state} after ${timeoutMs / 1000} s`,
          `It goes on; look at it with: curl -H "Authorization: Bearer …" ${this.url}/v1/operations/${current.id}`,
        );
      }
      await sleep(pauseMs);
      current = await this.request<ApiOperation>('GET', `/v1/operations/${current.id}`);
    }
  }

  private async request<T>(method: string, path: string, body?: object): Promise<T> {
    let answer: Response;
    try {
      answer = await fetch(`${this.url}${path}`, {
        method,
        headers: {
          ...this.credentials,
          accept: 'application/json',
          ...(body && { 'content-type': 'application/json' }),
        },
        ...(body && { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(30_000),
      });
    } catch (error) {
      const cause =
        error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
      throw new CliError(
        `no answer from the API at ${this.url}: ${cause}`,
        'Start it with "npm start", or name another one with --api-url or CAIRN_API_URL.',
        { cause: error },
      );
    }
    const text = await answer.text();
    if (answer.ok) return JSON.parse(text) as T;
    throw problem(answer.status, text);
  }
}

function problem(status: number, text: string): ApiError {
  let details: Problem = {};
  try {
    details = JSON.parse(text) as Problem;
  } catch {
    // Something between us and the API answered.
  }
  const faults = (details.errors ?? []).map(({ field, message }) => `\n  ${field}: ${message}`).join('');
  const states = details.currentState
    ? ` (it is ${details.currentState}; allowed: ${(details.allowedStates ?? []).join(', ') || 'none'})`
    : '';
  const message = `${details.detail ?? details.message ?? details.title ?? `status ${status}`}${states}${faults}`;
  const remedy = status === 401 ? 'Give the right key with --api-key or CAIRN_API_KEY.' : undefined;
  return new ApiError(status, details.code ?? `http-${status}`, message, remedy);
}
