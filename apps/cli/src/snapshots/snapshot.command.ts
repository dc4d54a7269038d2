import { Command } from 'commander';
import { apiOf, withApiOptions, type ApiOptions } from '../api/api-options.js';
import { exportSnapshotCommand } from './export.command.js';
import { importCommand } from './import.command.js';
import { printSnapshot, withWordOptions, wordsOf, type WordOptions } from './snapshot-words.js';

/** `cairn snapshot create | import | export | list | show | delete`. */
export function snapshotCommand(): Command {
  return new Command('snapshot')
    .description('what volumes were at one point in time')
    .addCommand(createCommand())
    .addCommand(importCommand())
    .addCommand(exportSnapshotCommand())
    .addCommand(listCommand())
    .addCommand(showCommand())
    .addCommand(deleteCommand());
}

function createCommand(): Command {
  return withWordOptions(
    withApiOptions(
      new Command('create').description('snapshot a volume, or several of one node at one point in time'),
    ),
  )
    .argument('<volume...>', 'vol-…')
    .action(async (volumes: string[], options: ApiOptions & WordOptions) => {
      const api = apiOf(options);
      const words = wordsOf(options);
      const [only] = volumes;
      const { operation, snapshots } =
        volumes.length === 1 && only !== undefined
          ? await api.takeSnapshot(only, words)
          : await api.takeSnapshots(volumes, words);
      await api.finish(operation);
      for (const { id } of snapshots) printSnapshot(await api.getSnapshot(id));
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
        page.snapshots.forEach(printSnapshot);
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
