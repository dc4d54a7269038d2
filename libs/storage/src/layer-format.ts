// What a layer's file means.
//
//   0 … sizeBytes                      blocks; offset in the file = offset in the volume
//   zeroMapOffsetBytes + block number  zero map: one byte a block, 0 where nothing was said
//
// A block is in a layer when the file has data there (SEEK_DATA), or when its byte in the zero map is not 0: then it
// reads as zeroes, whatever the parents hold. Data wins over the zero map, so a write never has to clear a byte. A discard
// sets the byte and punches the hole; where the layer has data over a parent's, the byte is durable before the hole is
// made, or a power cut could bring back what the parent holds. Both are in one file, so one fdatasync covers both.
// A layer without a parent needs no zero map: its holes read as zeroes.

/** The unit of the index: a block is in a layer whole or not at all. */
export const BLOCK_BYTES = 4096;

/** What a byte of the zero map says of a block that has no data: it reads as zeroes. */
export const ZEROED = 1;

/** One layer of a chain, open. */
export interface LayerFile {
  /** Open for reading and not O_DIRECT: the extent map seeks in it and reads the zero map. */
  readonly fd: number;
  /** Blocks from here on are not in the layer. */
  readonly sizeBytes: number;
  /** Where the zero map begins; undefined when the layer cannot have one, as one without a parent. */
  readonly zeroMapOffsetBytes?: number | undefined;
}

/** Where the zero-map byte of a block lies in the layer's file. */
export const zeroMapPosition = (zeroMapOffsetBytes: number, offsetBytes: number): number =>
  zeroMapOffsetBytes + Math.floor(offsetBytes / BLOCK_BYTES);
