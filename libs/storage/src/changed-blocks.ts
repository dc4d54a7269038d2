import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import type { ChainLayer } from './chain.js';
import { ExtentMap } from './extent-map.js';
import { ExtentRuns } from './extent-runs.js';
import { eachRun, nextSaid, readBlocks, SAYS } from './layer-blocks.js';
import { BLOCK_BYTES } from './layer-format.js';
import { type OpenLayer, withOpenLayers } from './open-chain.js';
import type { Pool } from './pool.js';
import { StorageError } from './storage-error.js';

const WINDOW_BYTES = 4 * 1024 * 1024;
const MAX_EXTENTS = 10_000;

/** The unit in which snapshots are read and written from outside: that of the EBS direct APIs. */
export const SNAPSHOT_BLOCK_BYTES = 512 * 1024;

/** A range that was written, or discarded: then it reads as zeroes. */
export interface SnapshotExtent {
  offsetBytes: number;
  lengthBytes: number;
  zeroes: boolean;
}

export interface ExtentPage {
  extents: SnapshotExtent[];
  /** Where to go on; undefined when that was all. */
  nextOffsetBytes: number | undefined;
}

/** A block of a snapshot, and what must be shown to read it. */
export interface SnapshotBlock {
  index: number;
  token: string;
}

/** Asks which parts of a snapshot have data, or differ from an earlier one, and reads them. */
export class ChangedBlocks {
  constructor(private readonly pool: Pool) {}

  /**
   * The extents of a snapshot that have data, or, with `sinceSnapshotId`, what was written and discarded between that one
   * and this one, in order, a page at a time; an extent may have been written with what was there before.
   *
   * Rejects with `snapshots-unrelated` unless the earlier snapshot is an ancestor of this one.
   */
  async extents(
    snapshotId: string,
    options: { sinceSnapshotId?: string; startBytes?: number; maxExtents?: number } = {},
  ): Promise<ExtentPage> {
    const { sinceSnapshotId, startBytes = 0, maxExtents = MAX_EXTENTS } = options;
    const since = sinceSnapshotId !== undefined;
    const layersOf = (): readonly ChainLayer[] => this.layersBetween(snapshotId, sinceSnapshotId);
    const extents: SnapshotExtent[] = [];
    return withOpenLayers(this.pool.disk, layersOf, async (layers) => {
      const [decided, says] = [
        new Uint8Array(WINDOW_BYTES / BLOCK_BYTES),
        new Uint8Array(WINDOW_BYTES / BLOCK_BYTES),
      ];
      const { sizeBytes } = this.pool.completedSnapshot(snapshotId);
      for (let at = nextOf(layers, blockStart(startBytes)); at !== undefined && at < sizeBytes;) {
        const start = at;
        decided.fill(SAYS.nothing);
        for (const { file } of layers.toReversed()) {
          readBlocks(file, start, says);
          for (let i = 0; i < decided.length; i += 1) if (decided[i] === SAYS.nothing) decided[i] = says[i]!;
        }
        // A snapshot may be smaller than its layer: the volume was growing when it was taken.
        decided.fill(SAYS.nothing, Math.max(0, Math.ceil((sizeBytes - start) / BLOCK_BYTES)));
        await eachRun(decided, start, async (kind, offsetBytes, lengthBytes) => {
          const zeroes = kind === SAYS.zeroes;
          if (zeroes && !since) return;
          const last = extents.at(-1);
          if (last && last.zeroes === zeroes && last.offsetBytes + last.lengthBytes === offsetBytes) {
            last.lengthBytes += lengthBytes;
          } else {
            extents.push({ offsetBytes, lengthBytes, zeroes });
          }
        });
        if (extents.length > maxExtents) {
          const nextOffsetBytes = extents[maxExtents]!.offsetBytes;
          return { extents: extents.slice(0, maxExtents), nextOffsetBytes };
        }
        await setImmediate();
        at = nextOf(layers, start + WINDOW_BYTES);
      }
      return { extents, nextOffsetBytes: undefined };
    });
  }

  /** Like `extents`, as blocks of 512 KiB from an index on; `nextIndex` is undefined when that was all. */
  async blocks(
    snapshotId: string,
    options: { sinceSnapshotId?: string; startIndex?: number; maxBlocks?: number } = {},
  ): Promise<{ blocks: SnapshotBlock[]; nextIndex: number | undefined }> {
    const { sinceSnapshotId, startIndex = 0, maxBlocks = MAX_EXTENTS } = options;
    const blocks: SnapshotBlock[] = [];
    let startBytes: number | undefined = startIndex * SNAPSHOT_BLOCK_BYTES;
    while (startBytes !== undefined) {
      const page: ExtentPage = await this.extents(snapshotId, {
        startBytes,
        ...(sinceSnapshotId !== undefined && { sinceSnapshotId }),
      });
      for (const { offsetBytes, lengthBytes } of page.extents) {
        const last = Math.ceil((offsetBytes + lengthBytes) / SNAPSHOT_BLOCK_BYTES);
        for (let index = Math.floor(offsetBytes / SNAPSHOT_BLOCK_BYTES); index < last; index += 1) {
          if (blocks.at(-1)?.index === index) continue;
          if (blocks.length === maxBlocks) return { blocks, nextIndex: index };
          blocks.push({ index, token: this.tokenOf(snapshotId, index) });
        }
      }
      startBytes = page.nextOffsetBytes;
    }
    return { blocks, nextIndex: undefined };
  }

  /**
   * Reads a block of a snapshot, shorter at its end, with the SHA-256 of what was read in Base64.
   *
   * Rejects with `invalid-argument` when the token is not that of the block.
   */
  async readBlock(
    snapshotId: string,
    { index, token }: SnapshotBlock,
  ): Promise<{ data: Uint8Array; checksum: string }> {
    const { sizeBytes } = this.pool.completedSnapshot(snapshotId);
    const offset = index * SNAPSHOT_BLOCK_BYTES;
    if (token !== this.tokenOf(snapshotId, index) || !(index >= 0 && offset < sizeBytes)) {
      const reason = `no block ${index} of ${snapshotId} with that token`;
      throw new StorageError('invalid-argument', { op: 'read snapshot block', reason });
    }
    const data = new Uint8Array(Math.min(SNAPSHOT_BLOCK_BYTES, sizeBytes - offset));
    await withOpenLayers(
      this.pool.disk,
      () => this.layersBetween(snapshotId, undefined),
      (layers) => readRange(layers, sizeBytes, offset, data),
    );
    return { data, checksum: createHash('sha256').update(data).digest('base64') };
  }

  /** The layers whose extents tell the difference. */
  private layersBetween(snapshotId: string, sinceSnapshotId: string | undefined): readonly ChainLayer[] {
    const chain = this.pool.chainLayers(this.pool.completedSnapshot(snapshotId).layer);
    if (sinceSnapshotId === undefined) return chain;
    const since = this.pool.completedSnapshot(sinceSnapshotId).layer;
    const at = chain.findIndex(({ id }) => id === since);
    if (at >= 0) return chain.slice(at + 1);
    throw new StorageError('snapshots-unrelated', {
      op: 'compare snapshots',
      reason: `${sinceSnapshotId} is no ancestor of ${snapshotId}`,
    });
  }

  private tokenOf(snapshotId: string, index: number): string {
    const digest = createHash('sha256').update(`${this.pool.poolId} ${snapshotId} ${index}`).digest('hex');
    return digest.slice(0, 32);
  }
}

async function readRange(
  layers: readonly OpenLayer[],
  sizeBytes: number,
  offset: number,
  into: Uint8Array,
): Promise<void> {
  const map = new ExtentMap({ layers: layers.map(({ file }) => file), sizeBytes });
  const runs = new ExtentRuns();
  for (let done = 0; done < into.length;) {
    const count = map.resolve(offset + done, into.length - done, runs);
    for (let i = 0; i < count; i += 1) {
      const part = into.subarray(done, done + runs.lengths[i]!);
      const slot = runs.slots[i]!;
      const got = slot === 0 ? 0 : await layers[slot - 1]!.disk.read(part, offset + done);
      part.fill(0, got);
      done += part.length;
    }
  }
}

const blockStart = (offset: number): number => Math.floor(offset / BLOCK_BYTES) * BLOCK_BYTES;

const nextOf = (layers: readonly OpenLayer[], from: number): number | undefined => {
  let next: number | undefined;
  for (const { file } of layers) {
    const at = nextSaid(file, from);
    if (at !== undefined && (next === undefined || at < next)) next = at;
  }
  return next;
};
