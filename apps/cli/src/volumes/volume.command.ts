import { Command } from 'commander';
import type { ApiVolume } from '../api/api-client.js';
import { apiOf, withApiOptions, type ApiOptions } from '../api/api-options.js';
import { sizeInBytes } from '../whole-number.js';

interface CreateOptions extends ApiOptions {
  size?: number;
  snapshot?: string;
  source?: string;
  name?: string;
}

/** `cairn volume`: volumes over the API, for people at a terminal. */
export function volumeCommand(): Command {
  return new Command('volume')
    .description('make, list, show and delete volumes')
    .addCommand(createCommand())
    .addCommand(listCommand())
    .addCommand(getCommand())
    .addCommand(resizeCommand())
    .addCommand(revertCommand())
    .addCommand(deleteCommand());
}

function createCommand(): Command {
  return withApiOptions(new Command('create').description('make a volume and wait until it is there'))
    .option(
      '--size <size>',
      'bytes, or a number with K, M, G or T (binary); without it, that of the source',
      sizeInBytes,
    )
    .option('--snapshot <snapshot>', 'begin as this snapshot')
    .option('--source <volume>', 'begin as this volume is now')
    .option('--name <name>', 'a name for people')
    .action(async (options: CreateOptions) => {
      const api = apiOf(options);
      const { volume, operation } = await api.createVolume({
        ...(options.size !== undefined && { sizeBytes: options.size }),
        ...(options.snapshot !== undefined && { snapshotId: options.snapshot }),
        ...(options.source !== undefined && { sourceVolumeId: options.source }),
        ...(options.name !== undefined && { name: options.name }),
      });
      await api.finish(operation);
      print(await api.getVolume(volume.id));
    });
}

function listCommand(): Command {
  return withApiOptions(new Command('list').description('list all volumes, one a line')).action(
    async (options: ApiOptions) => {
      const api = apiOf(options);
      let pageToken: string | undefined;
      do {
        const page = await api.listVolumes(pageToken);
        page.volumes.forEach(print);
        pageToken = page.nextPageToken;
      } while (pageToken);
    },
  );
}

function getCommand(): Command {
  return withApiOptions(new Command('get').description('show a volume'))
    .argument('<volume>', 'vol-…')
    .action(async (id: string, options: ApiOptions) => {
      const volume = await apiOf(options).getVolume(id);
      process.stdout.write(`${JSON.stringify(volume, null, 2)}\n`);
    });
}

function resizeCommand(): Command {
  return withApiOptions(new Command('resize').description('make a volume larger, also while a guest uses it'))
    .argument('<volume>', 'vol-…')
    .requiredOption('--size <size>', 'bytes, or a number with K, M, G or T (binary)', sizeInBytes)
    .action(async (id: string, options: ApiOptions & { size: number }) => {
      const api = apiOf(options);
      await api.finish((await api.resizeVolume(id, options.size)).operation);
      print(await api.getVolume(id));
    });
}

function revertCommand(): Command {
  return withApiOptions(
    new Command('revert').description(
      'make a detached volume read as its snapshot again; what came after is gone',
    ),
  )
    .argument('<volume>', 'vol-…')
    .requiredOption('--snapshot <snapshot>', 'a snapshot of this very volume')
    .action(async (id: string, options: ApiOptions & { snapshot: string }) => {
      const api = apiOf(options);
      await api.finish((await api.revertVolume(id, options.snapshot)).operation);
      print(await api.getVolume(id));
    });
}

function deleteCommand(): Command {
  return withApiOptions(new Command('delete').description('delete a volume and wait until it is gone'))
    .argument('<volume>', 'vol-…')
    .action(async (id: string, options: ApiOptions) => {
      const api = apiOf(options);
      await api.finish((await api.deleteVolume(id)).operation);
      process.stdout.write(`${id} is deleted\n`);
    });
}

function print({ id, state, sizeBytes, name }: ApiVolume): void {
  process.stdout.write(`${id}  ${state.padEnd(9)}  ${sizeBytes}${name ? `  ${name}` : ''}\n`);
}
