import type { Reactors } from '@cairn/block-export';
import type { VolumePool } from '../exports/registry-parts.js';
import { exportFamilies } from './export-families.js';
import { isLowOnSpace } from '../node/pool-space.js';
import { type Family, renderFamily } from './exposition.js';
import { poolFamilies, processFamilies, reactorFamilies } from './node-families.js';

/** Every metric of a data plane, as docs/metrics.md lists them. */
export const families: readonly Pick<Family<never>, 'name' | 'type' | 'labels' | 'help'>[] = [
  ...exportFamilies,
  ...reactorFamilies,
  ...poolFamilies,
  ...processFamilies,
];

/** Renders what the node counts in the Prometheus text format. */
export class MetricsText {
  constructor(
    private readonly reactors: Pick<Reactors, 'statuses' | 'reactorStatuses'>,
    private readonly pool: Pick<VolumePool, 'poolId' | 'capacity'>,
    private readonly lowSpacePercent: number,
  ) {}

  /** One line a sample, each family with its help and type. */
  async render(): Promise<string> {
    const { poolId } = this.pool;
    const [statuses, capacity] = await Promise.all([this.reactors.statuses(), this.pool.capacity()]);
    const lowSpace = isLowOnSpace(capacity, this.lowSpacePercent);
    const lines = [
      ...exportFamilies.flatMap((family) => renderFamily(family, statuses)),
      ...reactorFamilies.flatMap((family) => renderFamily(family, this.reactors.reactorStatuses())),
      ...poolFamilies.flatMap((family) => renderFamily(family, [{ poolId, ...capacity, lowSpace }])),
      ...processFamilies.flatMap((family) => renderFamily(family, [process])),
    ];
    return `${lines.join('\n')}\n`;
  }
}
