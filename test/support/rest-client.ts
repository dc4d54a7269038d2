import { createHash } from 'node:crypto';
import type { AttachmentConnection } from '@cairn/domain';

/** A volume as the API shows it. */
export interface VolumeView {
  id: string;
  sizeBytes: number;
  state: string;
  nodeId?: string;
  generation?: number;
  reason?: { code: string; message: string };
}

/** An attachment as the API shows it. */
export interface AttachmentView {
  id: string;
  volumeId: string;
  state: string;
  generation: number;
  readOnly: boolean;
  connection?: AttachmentConnection;
  reason?: { code: string; message: string };
}

/** A snapshot as the API shows it. */
export interface SnapshotView {
  id: string;
  volumeId?: string;
  writing?: string;
  progress: number;
  groupId?: string;
  sizeBytes: number;
  state: string;
  reason?: { code: string; message: string };
}

/** An operation as the API shows it. */
export interface OperationView {
  id: string;
  kind: string;
  state: 'pending' | 'running' | 'succeeded' | 'failed';
  attempts: number;
  progress: number;
  error?: { code: string; message: string; retryable: boolean };
}

/** What an answer was. */
export interface Answer<Body> {
  readonly status: number;
  readonly body: Body;
}

/** An answer that a helper did not expect. */
export class UnexpectedAnswer extends Error {
  override readonly name = 'UnexpectedAnswer';

  constructor(
    what: string,
    readonly answer: Answer<unknown>,
  ) {
    super(`${what} was answered ${answer.status}: ${JSON.stringify(answer.body)}`);
  }
}

const pollMs = 25;
const defaultWaitMs = 40_000;

/** The control plane's API, as a caller with one key uses it. */
export class RestClient {
  constructor(
    readonly baseUrl: string,
    private readonly apiKey: string,
  ) {}

  /** Sends a request and returns whatever comes back. */
  async send<Body = Record<string, unknown>>(
    method: string,
    path: string,
    body?: unknown,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Answer<Body>> {
    const response = await fetch(new URL(path, this.baseUrl), {
      method,
      headers: {
        authorization: `Bearer ${this.apiKey}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(30_000),
    });
    const text = await response.text();
    return { status: response.status, body: (text === '' ? {} : JSON.parse(text)) as Body };
  }

  /** Where a request is sent on to, without following it. */
  async redirected(path: string): Promise<{ Location: string }> {
    const response = await fetch(new URL(path, this.baseUrl), {
      headers: { authorization: `Bearer ${this.apiKey}` },
      redirect: 'manual',
    });
    const location = response.headers.get('location');
    if (response.status === 307 && location !== null) return { Location: location };
    throw new UnexpectedAnswer(`GET ${path}`, { status: response.status, body: await response.text() });
  }

  /** Starts a create. */
  async startCreate(
    sizeBytes: number,
    clientToken?: string,
  ): Promise<{ operation: OperationView; volume: VolumeView }> {
    return this.accepted('POST', '/v1/volumes', {
      sizeBytes,
      ...(clientToken === undefined ? {} : { clientToken }),
    });
  }

  /** Starts an attach. */
  async startAttach(
    volumeId: string,
    request: { readOnly?: boolean; numQueues?: number } = {},
  ): Promise<{ operation: OperationView; attachment: AttachmentView }> {
    return this.accepted('POST', `/v1/volumes/${volumeId}/attachments`, request);
  }

  /** Starts a detach. */
  async startDetach(
    { volumeId, id }: AttachmentView,
    options: { force?: boolean } = {},
  ): Promise<{ operation: OperationView }> {
    const query = options.force ? '?force=true' : '';
    return this.accepted('DELETE', `/v1/volumes/${volumeId}/attachments/${id}${query}`);
  }

  /** Starts a delete. */
  async startDelete(volumeId: string): Promise<{ operation: OperationView }> {
    return this.accepted('DELETE', `/v1/volumes/${volumeId}`);
  }

  /** Starts a volume that begins as a snapshot or as another volume. */
  async startClone(
    source: { snapshotId: string } | { sourceVolumeId: string },
  ): Promise<{ operation: OperationView; volume: VolumeView }> {
    return this.accepted('POST', '/v1/volumes', source);
  }

  /** Starts making a volume larger. */
  async startResize(volumeId: string, sizeBytes: number): Promise<{ operation: OperationView }> {
    return this.accepted('POST', `/v1/volumes/${volumeId}/resize`, { sizeBytes });
  }

  /** Starts making a volume read as its snapshot again. */
  async startRevert(volumeId: string, snapshotId: string): Promise<{ operation: OperationView }> {
    return this.accepted('POST', `/v1/volumes/${volumeId}/revert`, { snapshotId });
  }

  /** Starts a snapshot. */
  async startSnapshot(volumeId: string): Promise<{ operation: OperationView; snapshot: SnapshotView }> {
    return this.accepted('POST', `/v1/volumes/${volumeId}/snapshots`, {});
  }

  /** Starts snapshots of one point in time. */
  async startGroup(volumeIds: string[]): Promise<{ operation: OperationView; snapshots: SnapshotView[] }> {
    return this.accepted('POST', '/v1/snapshots/group', { volumeIds });
  }

  /** Starts a snapshot that is written from blocks, and waits until blocks can be put. */
  async startWriting(request: { sizeBytes: number; parentSnapshotId?: string }): Promise<SnapshotView> {
    const { operation, snapshot } = await this.accepted<{
      operation: OperationView;
      snapshot: SnapshotView;
    }>('POST', '/v1/snapshots', request);
    await this.succeeded(operation);
    return this.snapshot(snapshot.id);
  }

  /** Puts a block, and tells how that was answered. */
  async putBlock(id: string, index: number, data: Uint8Array, progress?: number): Promise<number> {
    const { url } = await this.found<{ url: string }>(`/v1/snapshots/${id}/upload`);
    const response = await fetch(`${url}/${index}`, {
      method: 'PUT',
      headers: {
        'content-type': 'application/octet-stream',
        'x-cairn-sha256': createHash('sha256').update(data).digest('base64'),
        ...(progress === undefined ? {} : { 'x-cairn-progress': String(progress) }),
      },
      body: data,
    });
    await response.arrayBuffer();
    return response.status;
  }

  /** Starts the completion of a snapshot that is written from blocks. */
  async startComplete(
    id: string,
    request: { changedBlocks: number; checksum?: string },
  ): Promise<{ operation: OperationView }> {
    return this.accepted('POST', `/v1/snapshots/${id}/complete`, request);
  }

  /** Starts the delete of a snapshot. */
  async startDeleteSnapshot(id: string): Promise<{ operation: OperationView }> {
    return this.accepted('DELETE', `/v1/snapshots/${id}`);
  }

  /** Takes a snapshot and waits until it is completed. */
  async takeSnapshot(volumeId: string): Promise<SnapshotView> {
    const { operation, snapshot } = await this.startSnapshot(volumeId);
    await this.succeeded(operation);
    return this.snapshot(snapshot.id);
  }

  /** Deletes a snapshot and waits until it is done. */
  async deleteSnapshot(id: string): Promise<void> {
    await this.succeeded((await this.startDeleteSnapshot(id)).operation);
  }

  async snapshot(id: string): Promise<SnapshotView> {
    return this.found(`/v1/snapshots/${id}`);
  }

  /** Creates a volume and waits until it is available. */
  async createVolume(sizeBytes: number): Promise<VolumeView> {
    const { operation, volume } = await this.startCreate(sizeBytes);
    await this.succeeded(operation);
    return this.volume(volume.id);
  }

  /** Attaches a volume and waits until it is served. */
  async attach(
    volumeId: string,
    request: { readOnly?: boolean; numQueues?: number } = {},
  ): Promise<AttachmentView & { connection: AttachmentConnection }> {
    const { operation, attachment } = await this.startAttach(volumeId, request);
    await this.succeeded(operation);
    const view = await this.attachment(attachment);
    if (view.connection === undefined) throw new Error(`${view.id} is ${view.state} and has no connection`);
    return { ...view, connection: view.connection };
  }

  /** Detaches and waits until it is done. */
  async detach(attachment: AttachmentView, options: { force?: boolean } = {}): Promise<void> {
    await this.succeeded((await this.startDetach(attachment, options)).operation);
  }

  /** Deletes and waits until it is done. */
  async deleteVolume(volumeId: string): Promise<void> {
    await this.succeeded((await this.startDelete(volumeId)).operation);
  }

  async volume(id: string): Promise<VolumeView> {
    return this.found(`/v1/volumes/${id}`);
  }

  async attachment({ volumeId, id }: Pick<AttachmentView, 'volumeId' | 'id'>): Promise<AttachmentView> {
    return this.found(`/v1/volumes/${volumeId}/attachments/${id}`);
  }

  async operation(id: string): Promise<OperationView> {
    return this.found(`/v1/operations/${id}`);
  }

  async nodes(): Promise<{ id: string; state: string }[]> {
    const { nodes } = await this.found<{ nodes: { id: string; state: string }[] }>('/v1/nodes');
    return nodes;
  }

  /** Waits until the operation has ended, through outages of the API, and returns how. */
  async ended({ id }: Pick<OperationView, 'id'>, timeoutMs = defaultWaitMs): Promise<OperationView> {
    let last: OperationView | undefined;
    for (
      const until = Date.now() + timeoutMs;
      Date.now() < until;
      await new Promise((r) => setTimeout(r, pollMs))
    ) {
      last = await this.operation(id).catch(() => last);
      if (last?.state === 'succeeded' || last?.state === 'failed') return last;
    }
    throw new Error(`${id} did not end within ${timeoutMs} ms: ${JSON.stringify(last)}`);
  }

  /** Waits until the operation has succeeded. Throws when it fails. */
  async succeeded(operation: Pick<OperationView, 'id'>, timeoutMs = defaultWaitMs): Promise<OperationView> {
    const end = await this.ended(operation, timeoutMs);
    if (end.state === 'succeeded') return end;
    throw new Error(`${end.kind} ${end.id} failed: ${JSON.stringify(end.error)}`);
  }

  private async accepted<Body>(method: string, path: string, body?: unknown): Promise<Body> {
    const answer = await this.send<Body>(method, path, body);
    // 200 is what a detach or a delete says that was done before.
    if (answer.status === 202 || (method === 'DELETE' && answer.status === 200)) return answer.body;
    throw new UnexpectedAnswer(`${method} ${path}`, answer);
  }

  private async found<Body>(path: string): Promise<Body> {
    const answer = await this.send<Body>('GET', path);
    if (answer.status === 200) return answer.body;
    throw new UnexpectedAnswer(`GET ${path}`, answer);
  }
}
