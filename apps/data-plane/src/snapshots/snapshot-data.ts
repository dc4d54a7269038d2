import { AgentError } from '@cairn/agent';
import { DataTickets, type DataTicket } from '@cairn/domain';
import { SNAPSHOT_BLOCK_BYTES, type VolumeStore } from '@cairn/storage';
import { agentErrorOf } from '../exports/storage-refusals.js';

/** Where a page begins and how long it is at most, as the query says. */
export interface PageRequest {
  readonly start?: string;
  readonly limit?: string;
}

const PAGE_MAX = 10_000;
/** Beyond every snapshot, and still an offset that the file system takes. */
const BYTES_MAX = 2 ** 50;
const digits = /^\d{1,15}$/;

/** What of its snapshots the node tells to bearers of tickets of the control plane. */
export class SnapshotData {
  private readonly tickets: DataTickets | undefined;

  /** Without the secret, which a node without a control plane has not, no ticket is good. */
  constructor(
    private readonly pool: Pick<VolumeStore, 'changedBlocks' | 'snapshots'>,
    secret: string | undefined,
  ) {
    this.tickets = secret === undefined ? undefined : new DataTickets(secret);
  }

  /** A page of blocks of 512 KiB that have data, or changed. `nextStart` is unset on the last page. */
  blocks(ticket: string, page: PageRequest): Promise<object> {
    return this.read(ticket, async ({ snapshotId, sinceSnapshotId }) => {
      const { start: startIndex, limit: maxBlocks } = pageOf(page, BYTES_MAX / SNAPSHOT_BLOCK_BYTES);
      const { blocks, nextIndex } = await this.pool.changedBlocks.blocks(snapshotId, {
        startIndex,
        maxBlocks,
        ...(sinceSnapshotId !== undefined && { sinceSnapshotId }),
      });
      const { sizeBytes } = this.pool.snapshots.chain(snapshotId);
      return { blockBytes: SNAPSHOT_BLOCK_BYTES, sizeBytes, blocks, nextStart: nextIndex };
    });
  }

  /** A page of ranges of bytes that have data, or changed: written, or discarded, which reads as zeroes. */
  extents(ticket: string, page: PageRequest): Promise<object> {
    return this.read(ticket, async ({ snapshotId, sinceSnapshotId }) => {
      const { start: startBytes, limit: maxExtents } = pageOf(page, BYTES_MAX);
      const { extents, nextOffsetBytes } = await this.pool.changedBlocks.extents(snapshotId, {
        startBytes,
        maxExtents,
        ...(sinceSnapshotId !== undefined && { sinceSnapshotId }),
      });
      const { sizeBytes } = this.pool.snapshots.chain(snapshotId);
      return { sizeBytes, extents, nextStart: nextOffsetBytes };
    });
  }

  /** The bytes of a block, with their SHA-256 in Base64; the last may be shorter. */
  block(
    ticket: string,
    index: string,
    token: string | undefined,
  ): Promise<{ data: Uint8Array; checksum: string }> {
    return this.read(ticket, ({ snapshotId }) =>
      this.pool.changedBlocks.readBlock(snapshotId, {
        index: numberOf('index', index, BYTES_MAX / SNAPSHOT_BLOCK_BYTES),
        token: token ?? '',
      }),
    );
  }

  private async read<Value>(text: string, work: (ticket: DataTicket) => Promise<Value>): Promise<Value> {
    const ticket = this.tickets?.open(text);
    if (ticket?.access !== 'read') {
      throw new AgentError('unauthorized', 'the ticket is not good or is over; ask the API for another');
    }
    try {
      return await work(ticket);
    } catch (error) {
      throw agentErrorOf(error, 'storage-failed');
    }
  }
}

function pageOf(
  { start = '0', limit = String(PAGE_MAX) }: PageRequest,
  startMax: number,
): { start: number; limit: number } {
  const count = numberOf('limit', limit, PAGE_MAX);
  if (count === 0) throw new AgentError('invalid-argument', 'limit must be at least 1');
  return { start: numberOf('start', start, startMax), limit: count };
}

function numberOf(field: string, text: unknown, max: number): number {
  const value = typeof text === 'string' && digits.test(text) ? Number(text) : NaN;
  if (value <= max) return value;
  throw new AgentError('invalid-argument', `${field} must be a whole number up to ${max}`);
}
