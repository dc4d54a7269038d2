import { InitialSchema1790000000000 } from './1790000000000-initial-schema.js';

/** Every migration, oldest first. A released migration is never edited; add another. */
export const migrations = [InitialSchema1790000000000];
