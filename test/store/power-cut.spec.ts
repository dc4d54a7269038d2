import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { seeded } from '@cairn/storage/testing';
import { describe, it } from 'vitest';
import { PowerCutScenario } from '../support/power-cut.js';

// Random verbs are recorded effect by effect; then the power is cut after each: with all that was issued, with no more
// than is certain, and with some of what is not. CAIRN_STORE_CUTS sets how many scenarios, CAIRN_STORE_SEED the first.

const scenarios = Number(process.env['CAIRN_STORE_CUTS'] ?? 2);
const firstSeed = Number(process.env['CAIRN_STORE_SEED'] ?? 1);
const VERBS = 25;
const RANDOM_KEEPS = 3;

describe('a power cut', () => {
  const seeds = Array.from({ length: scenarios }, (_, i) => firstSeed + i);
  it.each(seeds)(
    'at any moment leaves a pool that opens, with all that was flushed, seed %i',
    async (seed) => {
      const root = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'cairn-cut-'));
      try {
        const scenario = new PowerCutScenario(join(root, 'pool'), seed);
        await scenario.run(VERBS);
        const { disk } = scenario;
        const tried = new Set<string>();
        for (let at = 0; at <= disk.length; at += 1) {
          for (let variant = 0; variant < 2 + RANDOM_KEEPS; variant += 1) {
            const makeKeep = (): ((index: number) => boolean) => {
              if (variant < 2) return () => variant === 0;
              const random = seeded(seed * 1_000_003 + at * 31 + variant);
              const kept = Array.from({ length: at }, () => random(2) === 0);
              return (index) => kept[index]!;
            };
            const state = disk.stateOf(at, makeKeep());
            if (tried.has(`${state} ${at}`)) continue;
            tried.add(`${state} ${at}`);
            const directory = mkdtempSync(join(root, 'cut-'));
            try {
              disk.replay(directory, at, makeKeep());
              await scenario.check(directory, at);
            } catch (cause) {
              throw new Error(`seed ${seed}, cut after effect ${at}, variant ${variant}`, { cause });
            }
            rmSync(directory, { recursive: true });
          }
        }
      } finally {
        rmSync(root, { recursive: true, force: true });
      }
    },
  );
});
