import { InitialSchema1790000000000 } from './1790000000000-initial-schema.js';
import { Snapshots1791000000000 } from './1791000000000-snapshots.js';

/** Every migration, oldest first. A released migration is never edited; add another. */
export const migrations = [InitialSchema1790000000000, Snapshots1791000000000];
