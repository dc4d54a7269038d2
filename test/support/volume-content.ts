/** The unit of the store's index. */
export const BLOCK = 4096;
export const SECTOR = 512;

let lastBlock = 0;

/**
 * What a volume or snapshot must read as, and which of its blocks are the very same as another's: each block that is
 * written gets a number that no other has, 0 is a block that nothing has.
 */
export class Content {
  private constructor(
    readonly bytes: Uint8Array,
    readonly blocks: Float64Array,
  ) {}

  static empty(sizeBytes: number): Content {
    return new Content(new Uint8Array(sizeBytes), new Float64Array(sizeBytes / BLOCK));
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  /** The same blocks, perhaps with more behind them. */
  copy(sizeBytes = this.sizeBytes): Content {
    const copy = Content.empty(sizeBytes);
    copy.bytes.set(this.bytes);
    copy.blocks.set(this.blocks);
    return copy;
  }

  write(offset: number, from: Uint8Array): void {
    this.bytes.set(from, offset);
    this.renew(offset, from.length);
  }

  /** Whole blocks are nowhere then; the parts of a block at the ends are written. */
  zero(offset: number, length: number): void {
    this.bytes.fill(0, offset, offset + length);
    const end = offset + length;
    const start = Math.min(Math.ceil(offset / BLOCK) * BLOCK, end);
    const stop = Math.max(end - (end % BLOCK), start);
    this.renew(offset, start - offset);
    this.blocks.fill(0, Math.ceil(start / BLOCK), Math.ceil(stop / BLOCK));
    this.renew(stop, end - stop);
  }

  private renew(offset: number, length: number): void {
    if (length === 0) return;
    for (let block = Math.floor(offset / BLOCK); block * BLOCK < offset + length; block += 1) {
      lastBlock += 1;
      this.blocks[block] = lastBlock;
    }
  }
}

/** Bytes that tell where they are, so that none is right in another's place; every sector is of one value. */
export const patternOf = (value: number, offset: number, length: number): Uint8Array => {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += SECTOR) {
    const sector = (offset + at) / SECTOR;
    bytes.fill(1 + ((value + sector * 7) % 255), at, at + SECTOR);
  }
  return bytes;
};

/** Whose bytes a pool holds, as `PoolUsage` has it. */
export interface ExpectedUsage {
  uniqueBytes: Map<string, number>;
  sharedBytesOf: Map<string, number>;
  sharedBytes: number;
}

/** What the contents of a pool's volumes and snapshots say of who has which bytes. */
export const expectedUsage = (contents: ReadonlyMap<string, Content>): ExpectedUsage => {
  const owners = new Map<number, number>();
  for (const { blocks } of contents.values()) {
    for (const block of blocks) if (block !== 0) owners.set(block, (owners.get(block) ?? 0) + 1);
  }
  const usage: ExpectedUsage = { uniqueBytes: new Map(), sharedBytesOf: new Map(), sharedBytes: 0 };
  for (const count of owners.values()) if (count > 1) usage.sharedBytes += BLOCK;
  for (const [id, { blocks }] of contents) {
    let [unique, shared] = [0, 0];
    for (const block of blocks) {
      if (block === 0) continue;
      if (owners.get(block) === 1) unique += BLOCK;
      else shared += BLOCK;
    }
    usage.uniqueBytes.set(id, unique);
    usage.sharedBytesOf.set(id, shared);
  }
  return usage;
};
