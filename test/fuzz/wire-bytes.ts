/** Little-endian 32-bit words. */
export const u32 = (...values: number[]): Buffer => {
  const out = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => out.writeUInt32LE(value >>> 0, 4 * i));
  return out;
};

/** Little-endian 64-bit words. */
export const u64 = (...values: (number | bigint)[]): Buffer => {
  const out = Buffer.alloc(8 * values.length);
  values.forEach((value, i) => out.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), 8 * i));
  return out;
};

/** Payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
export const inflightBytes = (sizeBytes: number | bigint, offset: number, queues: number, size: number) =>
  Buffer.concat([u64(sizeBytes, offset), u32((queues & 0xffff) | (size << 16))]);
