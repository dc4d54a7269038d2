import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { CliError } from '../cli-error.js';
import type { ApiClient, ListedBlock } from './api-client.js';

const triesMax = 12;
const pauseMaxMs = 5000;
const timeoutMs = 60_000;
/** An address is good for minutes; it is not used to its end, as clocks differ. */
const reserveMs = 60_000;

/** SHA-256 of a block. */
export const digestOf = (data: Uint8Array): Buffer => createHash('sha256').update(data).digest();

/** A request that may go better when it is tried again. */
class Passing extends Error {}

/** Blocks into one snapshot that is being written. */
export class BlockUpload {
  private address: Promise<{ url: string; expiresAt: string }> | undefined;

  constructor(
    private readonly api: ApiClient,
    private readonly snapshotId: string,
  ) {}

  /** Puts a block, again when the node is away for a while. `progress` is in percent. Throws CliError. */
  put(index: number, data: Uint8Array, digest: Buffer, progress: number): Promise<void> {
    return withTries(`block ${index} of ${this.snapshotId}`, async () => {
      const response = await fetchBytes(`${await this.url()}/${index}`, {
        method: 'PUT',
        headers: {
          'content-type': 'application/octet-stream',
          'x-cairn-sha256': digest.toString('base64'),
          'x-cairn-progress': String(progress),
        },
        body: data,
      });
      // The ticket is over.
      if (response.status === 401) this.address = undefined;
      await requireOk(response);
    });
  }

  private async url(): Promise<string> {
    this.address ??= this.api.getUpload(this.snapshotId);
    const address = this.address;
    try {
      const { url, expiresAt } = await address;
      if (Date.parse(expiresAt) - Date.now() > reserveMs) return url;
    } catch (error) {
      if (this.address === address) this.address = undefined;
      throw error;
    }
    if (this.address === address) this.address = this.api.getUpload(this.snapshotId);
    return (await this.address).url;
  }
}

/** Reads a block of a snapshot, and checks that it is what the node sent. Throws CliError. */
export function readBlock(api: ApiClient, snapshotId: string, block: ListedBlock): Promise<Uint8Array> {
  const what = `block ${block.index} of ${snapshotId}`;
  return withTries(what, async () => {
    const path = `/v1/snapshots/${snapshotId}/blocks/${block.index}?token=${encodeURIComponent(block.token)}`;
    const response = await fetchBytes(`${api.url}${path}`, { headers: api.credentials });
    await requireOk(response);
    const data = new Uint8Array(await response.arrayBuffer().catch(asPassing));
    const sent = response.headers.get('x-cairn-sha256');
    if (sent !== digestOf(data).toString('base64')) throw new Passing('what arrived is not what was sent');
    return data;
  });
}

async function withTries<T>(what: string, attempt: () => Promise<T>): Promise<T> {
  let pauseMs = 100;
  for (let tries = 1; ; tries += 1, pauseMs = Math.min(pauseMs * 2, pauseMaxMs)) {
    try {
      return await attempt();
    } catch (error) {
      if (error instanceof CliError) throw error;
      if (!(error instanceof Passing)) throw error;
      if (tries === triesMax) throw new CliError(`${what}: ${error.message}`, undefined, { cause: error });
      await sleep(pauseMs);
    }
  }
}

const asPassing = (error: unknown): never => {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  throw new Passing(cause instanceof Error ? cause.message : String(cause), { cause: error });
};

const fetchBytes = (url: string, init: RequestInit): Promise<Response> =>
  fetch(url, { ...init, signal: AbortSignal.timeout(timeoutMs) }).catch(asPassing);

/** Throws Passing for what may go better later, and CliError with the reason else. */
async function requireOk(response: Response): Promise<void> {
  if (response.ok) return;
  const text = await response.text().catch(asPassing);
  let said: { message?: string; detail?: string; retryable?: boolean } = {};
  try {
    said = JSON.parse(text) as typeof said;
  } catch {
    // Something between us and the node answered.
  }
  const message = said.message ?? said.detail ?? `status ${response.status}`;
  if (said.retryable ?? response.status >= 500) throw new Passing(message);
  throw new CliError(message);
}
