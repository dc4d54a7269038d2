import type { ExportStatus, Reactors } from '@cairn/block-export';
import type { VolumePool } from '../exports/export.registry.js';

interface Metric {
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly help: string;
  readonly value: (status: ExportStatus) => number;
}

const exportMetrics: readonly Metric[] = [
  {
    name: 'cairn_export_connected',
    type: 'gauge',
    help: 'Whether a front-end is connected.',
    value: (s) => Number(s.connected),
  },
  {
    name: 'cairn_export_waiting',
    type: 'gauge',
    help: "Whether rings that a front-end has started wait for another front-end's to stop.",
    value: (s) => Number(s.waiting !== undefined),
  },
  {
    name: 'cairn_export_failed',
    type: 'gauge',
    help: 'Whether the export refuses writes.',
    value: (s) => Number(s.failed !== undefined),
  },
  {
    name: 'cairn_export_requests_total',
    type: 'counter',
    help: 'Requests completed.',
    value: (s) => s.requests,
  },
  {
    name: 'cairn_export_read_bytes_total',
    type: 'counter',
    help: 'Bytes read by the guest.',
    value: (s) => s.bytesRead,
  },
  {
    name: 'cairn_export_written_bytes_total',
    type: 'counter',
    help: 'Bytes written by the guest.',
    value: (s) => s.bytesWritten,
  },
  {
    name: 'cairn_export_guest_faults_total',
    type: 'counter',
    help: 'Times the guest broke a rule.',
    value: (s) => s.guestFaults,
  },
];

/** Counters that each export keeps by a name from a closed list. */
const namedMetrics = [
  {
    name: 'cairn_export_faults_total',
    help: 'Rules that the guest broke, by rule.',
    counts: (status: ExportStatus) => status.faultsByName,
  },
  {
    name: 'cairn_export_errors_total',
    help: 'Requests that the host failed, by error.',
    counts: (status: ExportStatus) => status.errorsByName,
  },
] as const;

/** Renders the node's counters in the Prometheus text format, version 0.0.4. */
export class MetricsText {
  constructor(
    private readonly reactor: Pick<Reactors, 'statuses'>,
    private readonly pool: Pick<VolumePool, 'poolId' | 'capacity'>,
  ) {}

  /** One line a sample, each family with its help and type. */
  async render(): Promise<string> {
    const [statuses, capacity] = await Promise.all([this.reactor.statuses(), this.pool.capacity()]);
    const lines = Object.entries(capacity).flatMap(([field, bytes]) => {
      const name = `cairn_pool_${field.replace(/Bytes$/, '')}_bytes`;
      return [...head(name, 'gauge', `The pool's ${field}.`), `${name}{pool="${this.pool.poolId}"} ${bytes}`];
    });
    for (const { name, type, help, value } of exportMetrics) {
      lines.push(...head(name, type, help));
      for (const status of statuses) lines.push(`${name}{volume="${status.id}"} ${value(status)}`);
    }
    for (const { name, help, counts } of namedMetrics) {
      lines.push(...head(name, 'counter', help));
      for (const status of statuses) {
        for (const [what, count] of Object.entries(counts(status))) {
          lines.push(`${name}{volume="${status.id}",name="${what}"} ${count}`);
        }
      }
    }
    return `${lines.join('\n')}\n`;
  }
}

function head(name: string, type: string, help: string): string[] {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`];
}
