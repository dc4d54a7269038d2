import { Command, InvalidArgumentError } from 'commander';
import { apiOf, withApiOptions, type ApiOptions } from '../api/api-options.js';
import type { ApiSnapshot } from '../api/api-client.js';

interface CreateOptions extends ApiOptions {
  name?: string;
  description?: string;
  tag?: Record<string, string>;
}

/** `cairn snapshot create | list | show | delete`. */
export function snapshotCommand(): Command {
  return new Command('snapshot')
    .description('what volumes were at one point in time')
    .addCommand(createCommand())
    .addCommand(listCommand())
    .addCommand(showCommand())
    .addCommand(deleteCommand());
}

function createCommand(): Command {
  return withApiOptions(
    new Command('create').description('snapshot a volume, or several of one node at one point in time'),
  )
    .argument('<volume...>', 'vol-…')
    .option('--name <name>', 'a name for people')
    .option('--description <text>', 'more words for people')
    .option('--tag <key=value>', 'a tag; may be given several times', collectTag)
    .action(async (volumes: string[], options: CreateOptions) => {
      const api = apiOf(options);
      const { name, description, tag } = options;
      const words = {
        ...(name !== undefined && { name }),
        ...(description !== undefined && { description }),
        ...(tag !== undefined && { tags: tag }),
      };
      const [only] = volumes;
      const { operation, snapshots } =
        volumes.length === 1 && only !== undefined
          ? await api.takeSnapshot(only, words)
          : await api.takeSnapshots(volumes, words);
      await api.finish(operation);
      for (const { id } of snapshots) print(await api.getSnapshot(id));
    });
}

function listCommand(): Command {
  return withApiOptions(new Command('list').description('list all snapshots, one a line'))
    .option('--volume <volume>', 'only those of this volume')
    .action(async (options: ApiOptions & { volume?: string }) => {
      const api = apiOf(options);
      let pageToken: string | undefined;
      do {
        const page = await api.listSnapshots({ volumeId: options.volume, pageToken });
        page.snapshots.forEach(print);
        pageToken = page.nextPageToken;
      } while (pageToken);
    });
}

function showCommand(): Command {
  return withApiOptions(new Command('show').description('show a snapshot'))
    .argument('<snapshot>', 'snap-…')
    .action(async (id: string, options: ApiOptions) => {
      const snapshot = await apiOf(options).getSnapshot(id);
      process.stdout.write(`${JSON.stringify(snapshot, null, 2)}\n`);
    });
}

function deleteCommand(): Command {
  return withApiOptions(
    new Command('delete').description('delete snapshots, in any order, and wait until they are gone'),
  )
    .argument('<snapshot...>', 'snap-…')
    .action(async (ids: string[], options: ApiOptions) => {
      const api = apiOf(options);
      for (const id of ids) {
        await api.finish((await api.deleteSnapshot(id)).operation);
        process.stdout.write(`${id} is deleted\n`);
      }
    });
}

function collectTag(text: string, before: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('A tag looks like key=value.');
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}

function print({ id, state, sizeBytes, volumeId, createdAt, name }: ApiSnapshot): void {
  const words = [id, state.padEnd(9), sizeBytes, volumeId ?? '-', createdAt, name].filter(
    (word) => word !== undefined,
  );
  process.stdout.write(`${words.join('  ')}\n`);
}
