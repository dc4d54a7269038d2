import { setImmediate } from 'node:timers/promises';
import { nextSaid, readBlocks, SAYS } from './layer-blocks.js';
import { BLOCK_BYTES } from './layer-format.js';
import { type OpenLayer, withOpenLayers } from './open-chain.js';
import type { Pool } from './pool.js';

const WINDOW_BYTES = 4 * 1024 * 1024;
const BLOCKS = WINDOW_BYTES / BLOCK_BYTES;
const NOBODY = 0;
const MANY = -1;

/**
 * Whose bytes a pool's layers hold, block by block:
 * Σ unique + shared + hidden + overhead = allocated, what the layers' files take on the file system.
 */
export interface PoolUsage {
  allocatedBytes: number;
  /** Bytes that go when that volume or snapshot alone is deleted, by id. */
  uniqueBytes: Map<string, number>;
  /** Bytes that a volume or snapshot has together with others, by id; these count each for everybody who has them. */
  sharedBytesOf: Map<string, number>;
  /** Bytes that more than one has, counted once. */
  sharedBytes: number;
  /** Bytes that nobody reads any more: what the coalescer gives back. */
  hiddenBytes: number;
  /** Zero maps and the file system's own; negative where files share blocks that the file system counts twice. */
  overheadBytes: number;
}

interface Node {
  open: OpenLayer;
  /** Who names the layer: indices into the list of names. */
  names: number[];
  children: Node[];
  /** In this window: what the layer says, and who alone reads the data there. */
  says: Uint8Array;
  readers: Int32Array;
}

/** Measures a pool. Takes time in proportion to the extents of all its layers, in small steps. */
export async function measureUsage(pool: Pool): Promise<PoolUsage> {
  const { graph } = pool;
  const ids = [...graph.volumes.keys(), ...graph.snapshots.keys()];
  const usage: PoolUsage = {
    allocatedBytes: 0,
    uniqueBytes: new Map(ids.map((id) => [id, 0])),
    sharedBytesOf: new Map(ids.map((id) => [id, 0])),
    sharedBytes: 0,
    hiddenBytes: 0,
    overheadBytes: 0,
  };
  const named = new Map<string, string[]>();
  for (const { id, headLayer } of graph.volumes.values())
    named.set(headLayer, [...(named.get(headLayer) ?? []), id]);
  for (const { id, layer } of graph.snapshots.values()) named.set(layer, [...(named.get(layer) ?? []), id]);
  for (const root of graph.listLayers().filter(({ parent }) => parent === null)) {
    const layersOf = () => treeOf(pool, root.id).flatMap((id) => pool.chainLayers(id).slice(-1));
    await withOpenLayers(pool.disk, layersOf, async (layers) => {
      const nodes = new Map(
        layers.map((open): [string, Node] => [
          open.layer.id,
          {
            open,
            names: (named.get(open.layer.id) ?? []).map((id) => ids.indexOf(id)),
            children: [],
            says: new Uint8Array(BLOCKS),
            readers: new Int32Array(BLOCKS),
          },
        ]),
      );
      for (const [id, node] of nodes) {
        node.children = graph.childrenOf(id).flatMap((child) => nodes.get(child) ?? []);
        usage.allocatedBytes += (await pool.disk.stat(node.open.layer.path))?.allocatedBytes ?? 0;
      }
      const top = nodes.get(root.id);
      if (top) await measureTree(top, [...nodes.values()], ids, usage);
    });
  }
  const unique = [...usage.uniqueBytes.values()].reduce((sum, bytes) => sum + bytes, 0);
  usage.overheadBytes = usage.allocatedBytes - unique - usage.sharedBytes - usage.hiddenBytes;
  return usage;
}

async function measureTree(
  root: Node,
  nodes: readonly Node[],
  ids: readonly string[],
  usage: PoolUsage,
): Promise<void> {
  for (
    let start = nextWindow(nodes, 0);
    start !== undefined;
    start = nextWindow(nodes, start + WINDOW_BYTES)
  ) {
    for (const node of nodes) {
      readBlocks(node.open.file, start, node.says);
      node.readers.fill(NOBODY);
    }
    // Who reads a block of which layer: down the tree, the layer that each block is read from.
    const shown = new Map<number, Node[]>();
    const visit = (node: Node, inherited: readonly (Node | undefined)[]): void => {
      const seen = inherited.slice();
      for (let i = 0; i < BLOCKS; i += 1) {
        if (node.says[i] === SAYS.data) seen[i] = node;
        else if (node.says[i] === SAYS.zeroes) seen[i] = undefined;
      }
      for (const name of node.names) {
        for (let i = 0; i < BLOCKS; i += 1) {
          const from = seen[i];
          if (!from) continue;
          from.readers[i] = from.readers[i] === NOBODY ? name + 1 : MANY;
        }
        shown.set(name, seen as Node[]);
      }
      for (const child of node.children) visit(child, seen);
    };
    visit(
      root,
      Array.from({ length: BLOCKS }, () => undefined),
    );
    for (const { says, readers } of nodes) {
      for (let i = 0; i < BLOCKS; i += 1) {
        if (says[i] !== SAYS.data) continue;
        const reader = readers[i]!;
        if (reader === NOBODY) usage.hiddenBytes += BLOCK_BYTES;
        else if (reader === MANY) usage.sharedBytes += BLOCK_BYTES;
        else add(usage.uniqueBytes, ids[reader - 1]!, BLOCK_BYTES);
      }
    }
    for (const [name, seen] of shown) {
      let shared = 0;
      for (let i = 0; i < BLOCKS; i += 1) if (seen[i]?.readers[i] === MANY) shared += BLOCK_BYTES;
      add(usage.sharedBytesOf, ids[name]!, shared);
    }
    await setImmediate();
  }
}

/** The first window from an offset on in which any layer says something. */
const nextWindow = (nodes: readonly Node[], from: number): number | undefined => {
  let next: number | undefined;
  for (const { open } of nodes) {
    const at = nextSaid(open.file, from);
    if (at !== undefined && (next === undefined || at < next)) next = at;
  }
  return next === undefined ? undefined : Math.floor(next / WINDOW_BYTES) * WINDOW_BYTES;
};

const treeOf = ({ graph }: Pool, root: string): string[] => {
  const ids = graph.findLayer(root) ? [root] : [];
  for (let i = 0; i < ids.length; i += 1) ids.push(...graph.childrenOf(ids[i]!));
  return ids;
};

const add = (to: Map<string, number>, id: string, bytes: number): void => {
  to.set(id, (to.get(id) ?? 0) + bytes);
};
