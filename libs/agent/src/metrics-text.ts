// What a node's /metrics says, read strictly: https://prometheus.io/docs/instrumenting/exposition_formats/
import { AgentError } from './agent.errors.js';

/** One line of a family: a histogram's are named after it with `_bucket`, `_sum` or `_count` at the end. */
export interface MetricSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const metricTypes = ['counter', 'gauge', 'histogram'] as const;
export type MetricType = (typeof metricTypes)[number];

/** A metric with all its samples. */
export interface MetricFamily {
  readonly name: string;
  readonly type: MetricType;
  readonly help: string;
  readonly samples: readonly MetricSample[];
}

const namePattern = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const labelPattern = '[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\\\\n]|\\\\["\\\\n])*"';
const helpLine = new RegExp(`^# HELP (${namePattern}) (.+)$`);
const typeLine = new RegExp(`^# TYPE (${namePattern}) (\\w+)$`);
const sampleLine = new RegExp(`^(${namePattern})(?:\\{(${labelPattern}(?:,${labelPattern})*)\\})? (\\S+)$`);
const eachLabel = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"/g;
const numberPattern = /^[+-]?(\d+(\.\d+)?([eE][+-]?\d+)?|Inf)$/;
const histogramEndings = ['_bucket', '_sum', '_count'];

/**
 * Reads the text format, version 0.0.4, as our nodes write it: each family once, its help and type before its samples,
 * counters that end in `_total`, whole histograms. Throws AgentError `bad-response` that names the line which is not so.
 */
export function parseMetrics(text: string): Map<string, MetricFamily> {
  if (!text.endsWith('\n')) throw wrong('the last line', 'has no end');
  const families = new Map<string, MetricFamily & { samples: MetricSample[] }>();
  const lines = text.slice(0, -1).split('\n');
  const seen = new Set<string>();
  let current: (MetricFamily & { samples: MetricSample[] }) | undefined;
  let help: RegExpExecArray | null = null;
  lines.forEach((line, index) => {
    const where = `line ${index + 1}`;
    if (line.startsWith('# TYPE ')) {
      const [, name, word] = typeLine.exec(line) ?? [];
      const type = metricTypes.find((one) => one === word);
      if (name === undefined || type === undefined) throw wrong(where, 'is no type', line);
      if (help?.[1] !== name) throw wrong(where, 'is a type without its help', line);
      if (families.has(name)) throw wrong(where, 'begins a family a second time', line);
      current = { name, type, help: help[2]!, samples: [] };
      if (type === 'counter' && !name.endsWith('_total'))
        throw wrong(where, 'names a counter without _total', line);
      families.set(name, current);
      help = null;
    } else if (line.startsWith('# HELP ')) {
      help = helpLine.exec(line);
      if (help === null) throw wrong(where, 'is no help', line);
    } else {
      if (help !== null) throw wrong(where, 'has no type before it', line);
      const sample = sampleOf(line, where);
      if (current === undefined || !belongs(sample, current))
        throw wrong(where, 'is not of the family above it', line);
      const key = line.slice(0, line.lastIndexOf(' '));
      if (seen.has(key)) throw wrong(where, 'says the same again', line);
      seen.add(key);
      current.samples.push(sample);
    }
  });
  if (help !== null) throw wrong('the last help', 'has no type');
  for (const family of families.values()) if (family.type === 'histogram') checkHistogram(family);
  return families;
}

function sampleOf(line: string, where: string): MetricSample {
  const [, name, labels = '', value] = sampleLine.exec(line) ?? [];
  if (name === undefined || value === undefined) throw wrong(where, 'is no sample', line);
  if (!numberPattern.test(value)) throw wrong(where, 'has no number', line);
  const pairs = [...labels.matchAll(eachLabel)].map(([, label, text]) => [label!, unescape(text!)] as const);
  const sample = { name, labels: Object.fromEntries(pairs), value: numberOf(value) };
  if (Object.keys(sample.labels).length !== pairs.length) throw wrong(where, 'has a label twice', line);
  return sample;
}

const numberOf = (text: string): number => (text.endsWith('Inf') ? Number(`${text}inity`) : Number(text));

const unescape = (text: string): string =>
  text.replace(/\\(["\\n])/g, (_, escaped: string) => (escaped === 'n' ? '\n' : escaped));

const belongs = (sample: MetricSample, { name, type }: MetricFamily): boolean => {
  if (type !== 'histogram') return sample.name === name && (type === 'gauge' || sample.value >= 0);
  return histogramEndings.some((ending) => sample.name === name + ending);
};

/** A histogram's buckets rise to what its count says, and it has a sum. */
function checkHistogram({ name, samples }: MetricFamily): void {
  const series = new Map<string, { bounds: number[]; counts: number[]; sum?: number; count?: number }>();
  for (const sample of samples) {
    const { le, ...labels } = sample.labels;
    const key = JSON.stringify(labels);
    let one = series.get(key);
    if (one === undefined) series.set(key, (one = { bounds: [], counts: [] }));
    if (sample.name === `${name}_sum`) one.sum = sample.value;
    else if (sample.name === `${name}_count`) one.count = sample.value;
    else {
      if (le === undefined || !numberPattern.test(le)) throw wrong(name, 'has a bucket without a bound');
      one.bounds.push(numberOf(le));
      one.counts.push(sample.value);
    }
  }
  const rises = (numbers: readonly number[]): boolean =>
    numbers.every((value, index) => index === 0 || value >= numbers[index - 1]!);
  for (const [key, { bounds, counts, sum, count }] of series) {
    const whole =
      rises(bounds) &&
      rises(counts) &&
      bounds.at(-1) === Infinity &&
      counts.at(-1) === count &&
      sum !== undefined;
    if (!whole) throw wrong(name, `is not a whole histogram for ${key}`);
  }
}

const wrong = (where: string, what: string, line?: string): AgentError =>
  new AgentError(
    'bad-response',
    `the metrics are not in the Prometheus text format: ${where} ${what}${line === undefined ? '' : `: ${line}`}`,
  );
