/** Little-endian 64-bit words of a message's payload. */
export const u64 = (...values: (number | bigint)[]): Buffer => {
  const out = Buffer.alloc(8 * values.length);
  values.forEach((value, i) => out.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), 8 * i));
  return out;
};

/** Little-endian 32-bit words of a message's payload. */
export const u32 = (...values: number[]): Buffer => {
  const out = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => out.writeUInt32LE(value >>> 0, 4 * i));
  return out;
};

/** Little-endian 16-bit words of a message's payload. */
export const u16 = (...values: number[]): Buffer => {
  const out = Buffer.alloc(2 * values.length);
  values.forEach((value, i) => out.writeUInt16LE(value, 2 * i));
  return out;
};
