import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ObjectReader } from '@cairn/agent';
import { newId, type NodeId, type PoolId } from '@cairn/domain';
import { writeFileAtomic } from '@cairn/storage';
import { StartRefused } from '../start-refused.js';

const formatVersion = 1;

/**
 * The id this node has for good, made at its first start.
 *
 * The identity names its pool: a state directory next to another pool would fence and export the wrong
 * volumes. Throws StartRefused for that, and for a file that is torn, malformed or of another version.
 */
export async function openNodeIdentity(stateDirectory: string, poolId: PoolId): Promise<NodeId> {
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
  const path = join(stateDirectory, 'node.json');
  const text = await readIfThere(path);
  if (text === undefined) {
    const nodeId = newId('node');
    await writeFileAtomic(path, `${JSON.stringify({ version: formatVersion, nodeId, poolId })}\n`);
    return nodeId;
  }
  const identity = parseIdentity(path, text);
  if (identity.poolId === poolId) return identity.nodeId;
  throw new StartRefused(
    `${path} belongs to pool ${identity.poolId}, and CAIRN_POOL_DIR holds ${poolId}`,
    'start with the CAIRN_POOL_DIR of that pool, or with an empty CAIRN_STATE_DIR for the new one',
  );
}

function parseIdentity(path: string, text: string): { nodeId: NodeId; poolId: PoolId } {
  const reader = ObjectReader.strict(parseJson(text));
  const version = reader.integer('version', { min: 1 });
  if (version !== formatVersion) {
    throw new StartRefused(
      `${path} is of version ${version}, and this release knows only ${formatVersion}`,
      'start the release of Cairn that wrote it, or a newer one',
    );
  }
  const identity = { nodeId: reader.id('nodeId', 'node'), poolId: reader.id('poolId', 'pool') };
  const faults = reader.finish();
  if (faults.length === 0) return identity;
  throw new StartRefused(
    `${path} is torn or malformed: ${faults.map(({ field, message }) => `${field} ${message}`).join('; ')}`,
    'put the file back from a backup; GET /v1/nodes of the control plane tells the id of the node',
  );
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
