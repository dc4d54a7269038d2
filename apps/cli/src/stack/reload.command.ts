import { Command } from 'commander';
import { DataDirectory } from './data-directory.js';
import { askReload } from './up-control.js';

/** `cairn reload`: a new data plane under a running `cairn up`. */
export function reloadCommand(): Command {
  return new Command('reload')
    .description("have the data plane of a running 'cairn up' replaced by the one that is installed now")
    .option('--data-dir <directory>', "that of 'cairn up' (default: $CAIRN_DATA_DIR or .cairn)")
    .addHelpText(
      'after',
      `
Install the new release in the place of the one that runs, then reload. The new data plane takes over every guest while
it writes; a guest notices a pause of its disk. When that fails the old one goes on. What has begun goes on when this
command is interrupted. Database, control plane and worker are not replaced: restart 'cairn up' for them.
Exit status: 0 the new one serves, 1 it does not, and the old one does.`,
    )
    .action(async ({ dataDir }: { dataDir?: string }) => {
      const { control, path } = DataDirectory.resolve(dataDir);
      await askReload(control, path, (line) => process.stdout.write(`${line}\n`));
    });
}
