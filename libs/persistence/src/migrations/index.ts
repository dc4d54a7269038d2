import { InitialSchema1790000000000 } from './1790000000000-initial-schema.js';
import { Snapshots1791000000000 } from './1791000000000-snapshots.js';
import { VolumeSources1792000000000 } from './1792000000000-volume-sources.js';
import { Inventory1793000000000 } from './1793000000000-inventory.js';
import { LowSpace1795000000000 } from './1795000000000-low-space.js';
import { WrittenSnapshots1796000000000 } from './1796000000000-written-snapshots.js';

/** Every migration, oldest first. A released migration is never edited; add another. */
export const migrations = [
  InitialSchema1790000000000,
  Snapshots1791000000000,
  VolumeSources1792000000000,
  Inventory1793000000000,
  LowSpace1795000000000,
  WrittenSnapshots1796000000000,
];
