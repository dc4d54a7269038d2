import type { GuestRam, Segment } from '@cairn/virtio/testing';

/** How a request is cut into descriptors; the default is the classic header, data, status. */
export interface Framing {
  /** Lengths of the device-readable pieces (16 header bytes, then the data); what is left over is one more piece. */
  readable?: readonly number[];
  /** Lengths of the device-writable pieces (the data, then the status byte); what is left over is one more piece. */
  writable?: readonly number[];
  /** Put the pieces from this one on into an indirect table; packed rings know only 0. */
  indirectAfter?: number;
  /** Alignment of the pieces of 512 bytes and more; default 512. */
  alignBytes?: number;
}

/** A request in virtio's words. */
export interface BlkRequest {
  type: number;
  sector?: number | bigint;
  out?: Uint8Array;
  inBytes?: number;
  queue?: number;
  framing?: Framing;
}

/** A completed request. */
export interface BlkReply {
  status: number;
  data: Uint8Array;
  /** Length field of the used element. */
  usedBytes: number;
}

/** A status byte no device writes, so that a missing one shows. */
const UNWRITTEN_STATUS = 0xee;

/** Puts a request into guest memory: its pieces, in chain order. */
export const placeRequest = (ram: GuestRam, request: BlkRequest): Segment[] => {
  const { type, sector = 0, out = new Uint8Array(), inBytes = 0, framing = {} } = request;
  const readable = Buffer.alloc(16 + out.length);
  readable.writeUInt32LE(type >>> 0, 0);
  readable.writeBigUInt64LE(BigInt.asUintN(64, BigInt(sector)), 8);
  readable.set(out, 16);
  const align = framing.alignBytes ?? 512;
  const pieces: Segment[] = [];
  const cut = (total: number, cuts: readonly number[], writable: boolean) => {
    let left = total;
    for (const wanted of [...cuts, total]) {
      const lengthBytes = Math.min(wanted, left);
      left -= lengthBytes;
      if (lengthBytes === 0) continue;
      const gpa = ram.allocate(lengthBytes, lengthBytes >= 512 ? align : 1);
      const bytes = ram.bytes(gpa, lengthBytes);
      if (writable) bytes.fill(UNWRITTEN_STATUS);
      else bytes.set(readable.subarray(total - left - lengthBytes, total - left));
      pieces.push({ gpa, lengthBytes, writable });
    }
  };
  cut(readable.length, framing.readable ?? [16], false);
  cut(inBytes + 1, framing.writable ?? [inBytes], true);
  return pieces;
};

/** Reads the answer out of guest memory and frees the pieces. */
export const collectReply = (
  ram: GuestRam,
  pieces: readonly Segment[],
  { inBytes = 0, usedBytes }: { inBytes?: number | undefined; usedBytes: number },
): BlkReply => {
  const last = pieces[pieces.length - 1]!;
  const status = ram.bytes(last.gpa + last.lengthBytes - 1, 1)[0]!;
  const written = pieces
    .filter(({ writable }) => writable)
    .map(({ gpa, lengthBytes }) => ram.bytes(gpa, lengthBytes));
  const data = Buffer.concat(written).subarray(0, inBytes);
  for (const { gpa } of pieces) ram.free(gpa);
  return { status, data, usedBytes };
};
