/**
 * Makes a fresh clone ready: Node packages, native addon, compiled apps and, where asked, system packages.
 * Plain Node without dependencies, because it runs before there are any.
 *
 *   node scripts/setup.mjs [--guest] [--test]
 *
 * Every step is skipped when what it makes is up to date, so a second run costs well under a second.
 * A lock file keeps two set-ups in one clone from breaking each other.
 */
import { createHash } from 'node:crypto';
import { existsSync, globSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { withLock } from './lib/lock.mjs';
import { run } from './lib/run.mjs';
import { ensureGuestKernel } from './lib/guest-kernel.mjs';
import { ensureSystemPackages } from './lib/system-packages.mjs';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
