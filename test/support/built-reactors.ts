import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Reactors } from '@cairn/block-export';

/** Where the built library stands: its threads start from compiled files, so that is what a test must load. */
export const BLOCK_EXPORT = new URL('../../dist/libs/block-export/src/index.js', import.meta.url);

/** The built `Reactors`. */
export const builtReactors = async (): Promise<typeof Reactors> => {
  if (!existsSync(BLOCK_EXPORT))
    throw new Error(`${fileURLToPath(BLOCK_EXPORT)} does not exist: run \`npm run build\` first`);
  const built = (await import(BLOCK_EXPORT.href)) as typeof import('@cairn/block-export');
  return built.Reactors;
};
