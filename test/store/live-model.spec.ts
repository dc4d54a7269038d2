import { afterAll, describe, expect, it } from 'vitest';
import { LiveModel } from '../support/live-model.js';
import { poolPlaces } from '../support/pool-places.js';

// Random verbs on volumes that are served and under load, compared with what each sector may hold. CAIRN_LIVE_STEPS sets
// how many for each seed, CAIRN_STORE_SEED where to begin.

const steps = Number(process.env['CAIRN_LIVE_STEPS'] ?? 60);
const seed = Number(process.env['CAIRN_STORE_SEED'] ?? 1);
const caches = { tmpfs: ['writeback'] } as Record<string, ('writeback' | 'direct')[]>;

describe.each(poolPlaces())('served volumes on $name', (place) => {
  afterAll(() => place.dispose());
  const modes = caches[place.name] ?? ['writeback', 'direct'];

  it.skipIf(place.skipped !== undefined).each(modes)('agree with plain arrays, %s', async (cache) => {
    const model = await LiveModel.open(place.make(), { seed, cache });
    try {
      for (let step = 0; step < steps; step += 1) {
        try {
          await model.step();
        } catch (cause) {
          throw new Error(`seed ${seed}, step ${step}`, { cause });
        }
      }
      await model.verify();
      expect(model.requests).toBeGreaterThan(steps);
    } finally {
      await model.close();
    }
  });
});
