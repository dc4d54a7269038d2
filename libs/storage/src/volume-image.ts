import { type BlockBackend, SECTOR_BYTES } from './block-backend.js';
import type { ChainLayer, VolumeChain } from './chain.js';
import { type Disk, type DiskFile, systemDisk } from './disk.js';
import { CHUNK_BYTES, ExtentMap } from './extent-map.js';
import { ExtentRuns } from './extent-runs.js';
import { layerFileOf } from './layer-file.js';
import { BLOCK_BYTES, ZEROED, zeroMapPosition } from './layer-format.js';
import { RangeOrder } from './range-order.js';
import { StorageError, storageErrorOf } from './storage-error.js';

// A volume of layers, by plain file calls: what the hot path does with io_uring, said simply.
//
//   read      resolve → a run a layer: read that file, or fill with zeroes
//   write     the head, whole blocks: what a write leaves of a block that the head has not is copied up with it
//   discard   zero-map bytes where a layer below has data, durable before the head's own data there becomes a hole
//   switch    nothing in flight, the old head durable, the new head on top
//
// The map is told of a change when it has completed, and forgets the range when it failed.

/** Space that a discard looks up at once. */
const DISCARD_STEP_BYTES = 16 * CHUNK_BYTES;

export interface VolumeImageOptions {
  readOnly?: boolean;
  disk?: Disk;
  /** Bytes for the extent map; see ExtentMapOptions. */
  mapBytes?: number;
}

/** The reference engine: a chain of layers as one block device. */
export class VolumeImage implements BlockBackend {
  private readonly order = new RangeOrder();
  private readonly reads = new RangeOrder();
  private gate: Promise<unknown> = Promise.resolve();
  private failed: StorageError | undefined;
  private closed = false;

  private constructor(
    private chain: VolumeChain,
    private files: DiskFile[],
    private readonly map: ExtentMap,
    private readonly disk: Disk,
    private readonly readOnly: boolean,
  ) {}

  static async open(chain: VolumeChain, options: VolumeImageOptions = {}): Promise<VolumeImage> {
    const { disk = systemDisk, readOnly = false, mapBytes } = options;
    const files = await openLayers(disk, chain.layers, readOnly);
    const layers = files.map((file, i) => layerFileOf(chain.layers[i]!, file));
    const map = new ExtentMap({
      layers,
      sizeBytes: chain.sizeBytes,
      ...(mapBytes !== undefined && { maxBytes: mapBytes }),
    });
    return new VolumeImage(chain, files, map, disk, readOnly);
  }

  get sizeBytes(): number {
    return this.chain.sizeBytes;
  }

  readAt(offsetBytes: number, into: Uint8Array): Promise<void> {
    return this.during('read', this.reads, offsetBytes, into.length, () => this.read(offsetBytes, into));
  }

  writeAt(offsetBytes: number, from: Uint8Array): Promise<void> {
    return this.changing('write', offsetBytes, from.length, () => this.write(offsetBytes, from));
  }

  discard(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.changing('discard', offsetBytes, lengthBytes, () => this.zero(offsetBytes, lengthBytes));
  }

  writeZeroes(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.changing('write zeroes', offsetBytes, lengthBytes, () => this.zero(offsetBytes, lengthBytes));
  }

  async flush(): Promise<void> {
    await this.gate;
    if (this.failed) throw this.failed;
    await this.syncHead();
  }

  /** Resolves when what is under way now has ended. */
  async barrier(): Promise<void> {
    await Promise.all([this.order.settled(), this.reads.settled()]);
  }

  /**
   * Goes over to a chain with a new, empty head, or to one that reads the same; the old head is durable then. Rejects
   * when it could not be made so; then the image is failed. One that is closed stays so.
   */
  goOver(chain: VolumeChain): Promise<void> {
    return this.alone(async () => {
      if (this.closed) return;
      await this.syncHead();
      const isSame = (layer: ChainLayer, i: number): boolean => {
        const other = chain.layers[i];
        return other?.id === layer.id && other.path === layer.path;
      };
      if (chain.layers.length === this.chain.layers.length + 1 && this.chain.layers.every(isSame)) {
        const head = chain.layers.at(-1)!;
        const file = await this.disk.open(head.path, 'r+');
        this.files.push(file);
        this.map.pushHead(layerFileOf(head, file));
      } else {
        const files = await openLayers(this.disk, chain.layers, this.readOnly);
        for (const file of this.files) await file.close();
        this.files = files;
        this.map.replaceLayers(files.map((file, i) => layerFileOf(chain.layers[i]!, file)));
      }
      this.chain = chain;
    });
  }

  /** The volume has grown to a size. */
  grow(sizeBytes: number): Promise<void> {
    return this.alone(async () => {
      const head = { ...this.chain.layers.at(-1)!, sizeBytes };
      this.chain = { ...this.chain, sizeBytes, layers: [...this.chain.layers.slice(0, -1), head] };
      this.map.grow(sizeBytes, layerFileOf(head, this.head));
    });
  }

  close(): Promise<void> {
    return this.alone(async () => {
      this.closed = true;
      for (const file of this.files) await file.close();
    });
  }

  private get head(): DiskFile {
    return this.files.at(-1)!;
  }

  private async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    const runs = new ExtentRuns();
    for (let done = 0; done < into.length;) {
      const count = this.map.resolve(offsetBytes + done, into.length - done, runs);
      for (let i = 0; i < count; i += 1) {
        const part = into.subarray(done, done + runs.lengths[i]!);
        const slot = runs.slots[i]!;
        const got = slot === 0 ? 0 : await this.files[slot - 1]!.read(part, offsetBytes + done);
        part.fill(0, got);
        done += part.length;
      }
    }
  }

  private async write(offsetBytes: number, from: Uint8Array): Promise<void> {
    const end = offsetBytes + from.length;
    const start = await this.copyUpStart(offsetBytes);
    const stop = end % BLOCK_BYTES !== 0 && this.map.slotAt(end) !== this.map.headSlot ? blockEnd(end) : end;
    if (start === offsetBytes && stop === end) {
      await this.head.write(from, offsetBytes);
    } else {
      // The whole block goes in one write: a head has a block whole or not at all.
      const whole = new Uint8Array(stop - start);
      await this.read(start, whole.subarray(0, offsetBytes - start));
      await this.read(end, whole.subarray(end - start));
      whole.set(from, offsetBytes - start);
      await this.head.write(whole, start);
    }
    this.map.markHead(start, stop - start);
  }

  private async copyUpStart(offsetBytes: number): Promise<number> {
    const inBlock = offsetBytes % BLOCK_BYTES;
    return inBlock !== 0 && this.map.slotAt(offsetBytes) !== this.map.headSlot
      ? offsetBytes - inBlock
      : offsetBytes;
  }

  private async zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    const end = offsetBytes + lengthBytes;
    const start = Math.min(blockEnd(offsetBytes), end);
    const stop = Math.max(end - (end % BLOCK_BYTES), start);
    if (start > offsetBytes) await this.write(offsetBytes, new Uint8Array(start - offsetBytes));
    for (let at = start; at < stop; at += DISCARD_STEP_BYTES) {
      await this.zeroBlocks(at, Math.min(DISCARD_STEP_BYTES, stop - at));
    }
    if (end > stop) await this.write(stop, new Uint8Array(end - stop));
  }

  private async zeroBlocks(offsetBytes: number, lengthBytes: number): Promise<void> {
    const { zeroMapOffsetBytes } = this.chain.layers.at(-1)!;
    const said =
      zeroMapOffsetBytes !== undefined &&
      (await this.sayZeroes(offsetBytes, lengthBytes, zeroMapOffsetBytes));
    if (this.headHas(offsetBytes, lengthBytes)) {
      // A power cut may keep the hole and lose the zero map: then what the parent holds would come back.
      if (said) await this.syncHead();
      await this.head.punch(offsetBytes, lengthBytes);
    }
    this.map.markZeroes(offsetBytes, lengthBytes);
  }

  /** Sets the zero map where a layer below has data; false when none has. */
  private async sayZeroes(offsetBytes: number, lengthBytes: number, mapOffset: number): Promise<boolean> {
    const runs = new ExtentRuns(1024);
    let said = false;
    for (let done = 0; done < lengthBytes;) {
      const count = this.map.resolveBelow(offsetBytes + done, lengthBytes - done, runs);
      for (let i = 0; i < count; i += 1) {
        const length = runs.lengths[i]!;
        if (runs.slots[i] !== 0) {
          const bytes = new Uint8Array(length / BLOCK_BYTES).fill(ZEROED);
          await this.head.write(bytes, zeroMapPosition(mapOffset, offsetBytes + done));
          said = true;
        }
        done += length;
      }
    }
    return said;
  }

  private headHas(offsetBytes: number, lengthBytes: number): boolean {
    const runs = new ExtentRuns(1024);
    for (let done = 0; done < lengthBytes; done += runs.coveredBytes) {
      const count = this.map.resolve(offsetBytes + done, lengthBytes - done, runs);
      if (runs.slots.subarray(0, count).includes(this.map.headSlot)) return true;
    }
    return false;
  }

  private async syncHead(): Promise<void> {
    if (this.readOnly) return;
    try {
      await this.head.sync();
    } catch (error) {
      // The kernel may have dropped what was not written: a second fsync would succeed and prove nothing.
      this.failed = storageErrorOf('flush', this.chain.layers.at(-1)!.path, error);
      throw this.failed;
    }
  }

  private changing(op: string, offset: number, length: number, work: () => Promise<void>): Promise<void> {
    const from = offset - (offset % BLOCK_BYTES);
    return this.during(
      op,
      this.order,
      from,
      blockEnd(offset + length) - from,
      async () => {
        if (this.readOnly) throw new StorageError('read-only', { op });
        if (this.failed) throw this.failed;
        try {
          await work();
        } catch (error) {
          this.map.forget(from, blockEnd(offset + length) - from);
          throw error;
        }
      },
      [offset, length],
    );
  }

  /** Runs a request in order, unless it is outside the volume; waits while the image is going over to another chain. */
  private async during(
    op: string,
    order: RangeOrder,
    start: number,
    lengthBytes: number,
    work: () => Promise<void>,
    [offset, length] = [start, lengthBytes],
  ): Promise<void> {
    if (offset % SECTOR_BYTES || length % SECTOR_BYTES || offset < 0 || offset + length > this.sizeBytes) {
      throw new StorageError('invalid-argument', { op, offsetBytes: offset, reason: `${length} bytes` });
    }
    if (length === 0) return;
    const { gate } = this;
    try {
      // Ordered before anything is waited for, so that the order is that of the calls.
      await order.run(start, start + lengthBytes, () => gate.then(work));
    } catch (error) {
      throw storageErrorOf(op, this.chain.layers.at(-1)!.path, error);
    }
  }

  /** Runs something with no request in flight; those that come meanwhile wait. */
  private alone(work: () => Promise<void>): Promise<void> {
    const { gate } = this;
    const before = this.barrier();
    const done = gate.then(() => before).then(work);
    this.gate = done.catch(() => {});
    return done;
  }
}

const blockEnd = (offset: number): number => Math.ceil(offset / BLOCK_BYTES) * BLOCK_BYTES;

const openLayers = async (
  disk: Disk,
  layers: readonly ChainLayer[],
  readOnly: boolean,
): Promise<DiskFile[]> => {
  const files: DiskFile[] = [];
  try {
    for (const [i, { path }] of layers.entries()) {
      files.push(await disk.open(path, !readOnly && i === layers.length - 1 ? 'r+' : 'r'));
    }
    return files;
  } catch (error) {
    for (const file of files) await file.close();
    throw storageErrorOf('open layer', layers[files.length]!.path, error);
  }
};
