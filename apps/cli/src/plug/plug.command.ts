import { Command } from 'commander';
import { apiOf, withApiOptions, type ApiOptions } from '../api/api-options.js';
import { wholeNumber } from '../whole-number.js';
import { hotPlug, hotUnplug } from './hot-plug.js';

interface PlugOptions extends ApiOptions {
  qmp: string;
  volume: string;
  readOnly?: boolean;
  numQueues?: number;
  packed?: boolean;
  instance?: string;
  timeout: number;
}

const qmpHelp = `
QEMU must have been started with a QMP socket that nobody else is connected to, shared memory and a free root port:
  -qmp unix:SOCKET,server=on,wait=off -machine q35,memory-backend=m
  -object memory-backend-memfd,id=m,size=2G,share=on -device pcie-root-port,id=rp0,chassis=1`;

/** `cairn plug`: attach a volume and plug it into a running guest. */
export function plugCommand(): Command {
  return withOptions(new Command('plug').description('attach a volume and plug it into a running QEMU guest'))
    .option('--read-only', 'the guest may not write')
    .option('--num-queues <number>', 'queues of the disk, at best one for each CPU of the guest', wholeNumber)
    .option('--packed', 'offer the guest packed rings, which cost it less; Linux has known them since 5.0')
    .option('--instance <name>', 'what the attachment calls the guest')
    .addHelpText('after', qmpHelp)
    .action(async (options: PlugOptions) => {
      const { attachment, bus } = await hotPlug(apiOf(options), {
        volumeId: options.volume,
        qmpSocket: options.qmp,
        timeoutMs: options.timeout * 1000,
        ...(options.readOnly !== undefined && { readOnly: options.readOnly }),
        ...(options.numQueues !== undefined && { numQueues: options.numQueues }),
        ...(options.packed !== undefined && { packed: options.packed }),
        ...(options.instance !== undefined && { instanceId: options.instance }),
      });
      const where = bus === undefined ? '' : ` on ${bus}`;
      process.stdout.write(
        `${options.volume} is plugged in${where} (${attachment.id}); its serial is ${attachment.connection?.serial}\n`,
      );
    });
}

/** `cairn unplug`: take a volume out of a running guest and detach it. */
export function unplugCommand(): Command {
  return withOptions(
    new Command('unplug').description('take a volume out of a running QEMU guest and detach it'),
  )
    .addHelpText('after', `\nUnmount the volume in the guest first.\n${qmpHelp}`)
    .action(async (options: PlugOptions) => {
      await hotUnplug(apiOf(options), {
        volumeId: options.volume,
        qmpSocket: options.qmp,
        timeoutMs: options.timeout * 1000,
      });
      process.stdout.write(`${options.volume} is unplugged and detached\n`);
    });
}

function withOptions(command: Command): Command {
  return withApiOptions(
    command
      .requiredOption('--qmp <socket>', 'QMP socket of the guest')
      .requiredOption('--volume <id>', 'the volume, vol-…')
      .option('--timeout <seconds>', 'how long the guest may take', wholeNumber, 60),
  );
}
