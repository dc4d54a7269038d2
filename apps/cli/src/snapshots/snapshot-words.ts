import { InvalidArgumentError, type Command } from 'commander';
import type { ApiSnapshot, SnapshotWords } from '../api/api-client.js';

/** What people say of a new snapshot. */
export interface WordOptions {
  name?: string;
  description?: string;
  tag?: Record<string, string>;
}

/** Adds the options by which a new snapshot gets its words. */
export function withWordOptions(command: Command): Command {
  return command
    .option('--name <name>', 'a name for people')
    .option('--description <text>', 'more words for people')
    .option('--tag <key=value>', 'a tag; may be given several times', collectTag);
}

/** The words as the API takes them. */
export function wordsOf({ name, description, tag }: WordOptions): SnapshotWords {
  return {
    ...(name !== undefined && { name }),
    ...(description !== undefined && { description }),
    ...(tag !== undefined && { tags: tag }),
  };
}

/** Prints a snapshot as a line. */
export function printSnapshot({ id, state, sizeBytes, volumeId, createdAt, name }: ApiSnapshot): void {
  const words = [id, state.padEnd(9), sizeBytes, volumeId ?? '-', createdAt, name].filter(
    (word) => word !== undefined,
  );
  process.stdout.write(`${words.join('  ')}\n`);
}

function collectTag(text: string, before: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('A tag looks like key=value.');
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}
