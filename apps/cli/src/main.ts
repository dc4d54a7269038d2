#!/usr/bin/env node
import { QemuError, QmpCommandError } from '@cairn/qemu';
import { Command } from 'commander';
import { CliError } from './cli-error.js';
import { exportCommand, resizeCommand } from './export/export.command.js';
import { limitCommand } from './export/limit.command.js';
import { demoCommand } from './demo/demo.command.js';
import { nodeCommand } from './nodes/node.command.js';
import { exitAsCheck } from './pool/check-exit.js';
import { fsckCommand } from './pool/fsck.command.js';
import { scrubCommand } from './pool/scrub.command.js';
import { plugCommand, unplugCommand } from './plug/plug.command.js';
import { snapshotCommand } from './snapshots/snapshot.command.js';
import { topCommand } from './top/top.command.js';
import { reloadCommand } from './stack/reload.command.js';
import { upCommand } from './stack/up.command.js';
import { volumeCommand } from './volumes/volume.command.js';

const checks = [fsckCommand(), scrubCommand()];
const program = new Command('cairn')
  .description('Elastic block storage for virtual machines on your own hosts.')
  .showHelpAfterError('(--help tells more)')
  .addCommand(upCommand())
  .addCommand(reloadCommand())
  .addCommand(exportCommand())
  .addCommand(resizeCommand())
  .addCommand(limitCommand())
  .addCommand(topCommand())
  .addCommand(volumeCommand())
  .addCommand(snapshotCommand())
  .addCommand(nodeCommand())
  .addCommand(demoCommand())
  .addCommand(plugCommand())
  .addCommand(unplugCommand());
for (const check of checks) program.addCommand(check);

for (const command of program.commands) command.copyInheritedSettings(program);
for (const check of checks) exitAsCheck(check);

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = 1;
  process.stderr.write(`${describe(error)}\n`);
}

/** What the user can act on is a sentence and its remedy; anything else is a fault of ours, with its stack. */
function describe(error: unknown): string {
  if (error instanceof CliError)
    return `cairn: ${error.message}${error.remedy ? `\ncairn: ${error.remedy}` : ''}`;
  if (error instanceof QemuError || error instanceof QmpCommandError) return `cairn: ${error.message}`;
  return `cairn: ${error instanceof Error ? error.stack : String(error)}`;
}
