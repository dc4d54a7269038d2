import type { ExportStatus } from '../reactor-protocol.js';
import { emptyTotal } from '../shard-metrics.js';

/** The status of an export that nobody has used yet, but for what a test says otherwise. */
export const exportStatusOf = (id: string, more: Partial<ExportStatus> = {}): ExportStatus => ({
  id,
  connected: false,
  sizeBytes: 2 ** 20,
  requests: 0,
  bytesRead: 0,
  bytesWritten: 0,
  guestFaults: 0,
  faultsByName: {},
  errorsByName: {},
  metrics: emptyTotal(),
  inFlight: 0,
  rate: { requests: 0, bytes: 0, maxRequests: 0, maxBytes: 0, throttles: 0, throttledMicros: 0 },
  ...more,
});
