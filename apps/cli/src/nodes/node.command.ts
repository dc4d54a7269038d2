import { formatBytes } from '@cairn/domain';
import { Command } from 'commander';
import type { ApiNode, ApiPool } from '../api/api-client.js';
import { apiOf, withApiOptions, type ApiOptions } from '../api/api-options.js';

/** `cairn node list`: the hosts that serve volumes. */
export function nodeCommand(): Command {
  return new Command('node')
    .description('hosts that serve volumes, and their pools')
    .addCommand(listCommand());
}

function listCommand(): Command {
  return withApiOptions(
    new Command('list').description('list all hosts, one a line, each with its pools below it'),
  )
    .option('--json', 'print them as the API shows them')
    .action(async (options: ApiOptions & { json?: boolean }) => {
      const { nodes } = await apiOf(options).listNodes();
      process.stdout.write(
        options.json ? `${JSON.stringify(nodes, null, 2)}\n` : nodes.map(describeNode).join(''),
      );
    });
}

/** A line for the node, and one for each of its pools. */
export const describeNode = (node: ApiNode): string =>
  [
    `${node.id}  ${node.state.padEnd(5)}  ${node.name}, ${node.connectedExports} of ${node.exports} exports connected`,
    ...node.pools.map(describePool),
    '',
  ].join('\n');

function describePool(pool: ApiPool): string {
  const free = `${formatBytes(pool.freeBytes)} of ${formatBytes(pool.totalBytes)} free`;
  const promised = `${formatBytes(pool.provisionedBytes)} promised to ${pool.volumes} volumes`;
  const low = pool.lowSpaceSince === undefined ? '' : `, LOW ON SPACE since ${pool.lowSpaceSince}`;
  return `  ${pool.id}  ${pool.directory}  ${free}, ${promised}${low}`;
}
