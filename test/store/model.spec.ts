import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { poolPlaces } from '../support/pool-places.js';
import { StoreModel } from '../support/store-model.js';

// Random verbs on a store and on plain arrays, compared. CAIRN_STORE_STEPS sets how many on each file system,
// CAIRN_STORE_SEED where to begin: a failure names the seed that shows it again.

const steps = Number(process.env['CAIRN_STORE_STEPS'] ?? 1000);
const firstSeed = Number(process.env['CAIRN_STORE_SEED'] ?? 1);
const STEPS_A_SEED = 500;

describe.each(poolPlaces())('the store on $name', (place) => {
  afterAll(() => place.dispose());

  const seeds = Array.from({ length: Math.ceil(steps / STEPS_A_SEED) }, (_, i) => firstSeed + i);
  it.skipIf(place.skipped !== undefined).each(seeds)('agrees with plain arrays, seed %i', async (seed) => {
    const directory = place.make();
    const model = await StoreModel.open(directory, seed);
    try {
      for (let step = 0; step < STEPS_A_SEED; step += 1) {
        try {
          await model.step();
          if (step % 50 === 49) await model.verify();
        } catch (cause) {
          throw new Error(`seed ${seed}, step ${step}`, { cause });
        }
      }
      await model.clear();
      expect(readdirSync(join(directory, 'layers'))).toEqual([]);
    } finally {
      await model.close();
    }
  });
});
