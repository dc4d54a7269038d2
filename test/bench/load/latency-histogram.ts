/** 2^6 buckets an octave: a bucket is at most 1.6 % wide. */
const SUB_BITS = 6;
const SUB = 1 << SUB_BITS;

/** Latencies in nanoseconds, in buckets; nothing is allocated to add one. */
export class LatencyHistogram {
  private readonly counts = new Float64Array(32 * SUB);

  /** Counts one latency of 0 to 2^31 - 1 ns. */
  add(nanos: number): void {
    this.counts[bucketOf(nanos)]! += 1;
  }

  clear(): void {
    this.counts.fill(0);
  }

  /** Latency in microseconds below which the share `quantile` of all lies (middle of its bucket); 0 when there are none. */
  quantileMicros(quantile: number): number {
    const total = this.counts.reduce((sum, count) => sum + count, 0);
    let seen = 0;
    for (let bucket = 0; bucket < this.counts.length; bucket += 1) {
      seen += this.counts[bucket]!;
      if (seen > 0 && (seen > total * quantile || seen === total)) return middleOf(bucket) / 1000;
    }
    return 0;
  }
}

/** Below 64 ns a bucket is one nanosecond; above, the exponent and the next six bits name it. */
const bucketOf = (nanos: number): number => {
  if (nanos < SUB) return nanos;
  const exponent = 31 - Math.clz32(nanos) - SUB_BITS + 1;
  return (exponent << SUB_BITS) + ((nanos >>> (exponent - 1)) & (SUB - 1));
};

const middleOf = (bucket: number): number => {
  const exponent = bucket >> SUB_BITS;
  const step = bucket & (SUB - 1);
  return exponent === 0 ? step : (SUB + step + 0.5) * 2 ** (exponent - 1);
};
