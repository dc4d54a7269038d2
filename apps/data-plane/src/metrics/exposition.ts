// The Prometheus text format, version 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/
import type { Latency } from '@cairn/block-export';

/** One number of a family, under the values of the family's labels in their order. */
export type Sample<Value> = readonly [labelValues: readonly string[], value: Value];

interface FamilyHead {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
}

/** A metric as it is documented, and how its samples are had from what it tells of. */
export type Family<Source> = FamilyHead &
  (
    | { readonly type: 'counter' | 'gauge'; readonly samples: (source: Source) => Iterable<Sample<number>> }
    | { readonly type: 'histogram'; readonly samples: (source: Source) => Iterable<Sample<Latency>> }
  );

const MICROS_PER_SECOND = 1_000_000;

/** The family as text: help, type, and one line a sample of each source. */
export function renderFamily<Source>(family: Family<Source>, sources: readonly Source[]): string[] {
  const { name, help, labels } = family;
  const lines = [
    `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}`,
    `# TYPE ${name} ${family.type}`,
  ];
  for (const source of sources) {
    if (family.type === 'histogram') {
      for (const [values, latency] of family.samples(source)) {
        addHistogram(lines, name, labelsOf(labels, values), latency);
      }
    } else {
      for (const [values, value] of family.samples(source)) {
        const text = labelsOf(labels, values);
        lines.push(`${name}${text === '' ? '' : `{${text}}`} ${value}`);
      }
    }
  }
  return lines;
}

/** Bucket bounds of a `Latency` in seconds: powers of two from 1 µs; the last has none. */
const boundOf = (bucket: number, buckets: number): string =>
  bucket === buckets - 1 ? '+Inf' : String(2 ** bucket / MICROS_PER_SECOND);

function addHistogram(lines: string[], name: string, labels: string, { buckets, sumMicros }: Latency): void {
  const before = labels === '' ? '' : `${labels},`;
  let count = 0;
  buckets.forEach((here, bucket) => {
    count += here;
    lines.push(`${name}_bucket{${before}le="${boundOf(bucket, buckets.length)}"} ${count}`);
  });
  const braces = labels === '' ? '' : `{${labels}}`;
  lines.push(`${name}_sum${braces} ${sumMicros / MICROS_PER_SECOND}`, `${name}_count${braces} ${count}`);
}

const labelsOf = (names: readonly string[], values: readonly string[]): string =>
  names.map((name, index) => `${name}="${escape(values[index] ?? '')}"`).join(',');

const escape = (value: string): string =>
  value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
