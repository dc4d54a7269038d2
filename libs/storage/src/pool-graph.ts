import type { LayerRecord, SnapshotRecord, VolumeManifest } from './records.js';
import { StorageError } from './storage-error.js';

/**
 * The layers of a pool as a tree, and who names them.
 *
 * A layer is needed by the volumes whose head it is, by snapshots, by its children, and by verbs that are about to name
 * it (`pin`). Changed only after, or together with, what is on disk; never waits.
 */
export class PoolGraph {
  readonly volumes = new Map<string, VolumeManifest>();
  readonly snapshots = new Map<string, SnapshotRecord>();
  private readonly layers = new Map<string, LayerRecord>();
  private readonly childIds = new Map<string, Set<string>>();
  private readonly pins = new Map<string, number>();

  get layerCount(): number {
    return this.layers.size;
  }

  listLayers(): LayerRecord[] {
    return [...this.layers.values()];
  }

  findLayer(id: string): LayerRecord | undefined {
    return this.layers.get(id);
  }

  /** Throws `manifest-corrupt` when there is none. */
  layer(id: string): LayerRecord {
    const layer = this.layers.get(id);
    if (layer) return layer;
    throw new StorageError('manifest-corrupt', { op: 'find layer', reason: `there is no layer ${id}` });
  }

  /** Adds a layer, or replaces what is known of it. */
  putLayer(layer: LayerRecord): void {
    this.dropLayer(layer.id);
    this.layers.set(layer.id, layer);
    if (layer.parent === null) return;
    const siblings = this.childIds.get(layer.parent) ?? new Set();
    this.childIds.set(layer.parent, siblings.add(layer.id));
  }

  dropLayer(id: string): void {
    const parent = this.layers.get(id)?.parent;
    this.layers.delete(id);
    if (parent === undefined || parent === null) return;
    const siblings = this.childIds.get(parent);
    siblings?.delete(id);
    if (siblings?.size === 0) this.childIds.delete(parent);
  }

  childrenOf(id: string): string[] {
    return [...(this.childIds.get(id) ?? [])];
  }

  /** Keeps a layer that a verb is about to name; the returned function lets it go. */
  pin(id: string): () => void {
    this.pins.set(id, (this.pins.get(id) ?? 0) + 1);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      const left = this.pins.get(id)! - 1;
      if (left === 0) this.pins.delete(id);
      else this.pins.set(id, left);
    };
  }

  /** Is it named by a volume, a snapshot or a verb? Children do not count. */
  isNamed(id: string): boolean {
    if (this.pins.has(id)) return true;
    for (const { headLayer } of this.volumes.values()) if (headLayer === id) return true;
    for (const { layer } of this.snapshots.values()) if (layer === id) return true;
    return false;
  }

  /** Layers that nobody needs. */
  listGarbage(): LayerRecord[] {
    const named = this.namedLayers();
    return this.listLayers().filter(({ id }) => !named.has(id) && !this.childIds.has(id));
  }

  /** Layers that only one other layer needs, each with that one. What is written from blocks takes in nothing else. */
  listFoldable(): { layer: LayerRecord; child: LayerRecord }[] {
    const named = this.namedLayers();
    const writing = new Set(
      [...this.snapshots.values()].flatMap(({ layer, state }) => (state === 'writing' ? [layer] : [])),
    );
    return this.listLayers().flatMap((layer) => {
      const children = this.childrenOf(layer.id);
      if (named.has(layer.id) || children.length !== 1 || writing.has(children[0]!)) return [];
      return [{ layer, child: this.layer(children[0]!) }];
    });
  }

  /** A layer and its ancestors, the bottom one first. Throws `manifest-corrupt` for a chain that is not whole. */
  chainOf(headLayer: string): LayerRecord[] {
    const chain: LayerRecord[] = [];
    const seen = new Set<string>();
    for (let id: string | null = headLayer; id !== null;) {
      if (seen.has(id)) {
        const reason = `the layers above ${id} are their own ancestors`;
        throw new StorageError('manifest-corrupt', { op: 'follow layers', reason });
      }
      seen.add(id);
      const layer: LayerRecord = this.layer(id);
      chain.push(layer);
      id = layer.parent;
    }
    return chain.reverse();
  }

  /** Volumes and snapshots that are read from a layer, by id. */
  readersOf(layerId: string): string[] {
    const readers = [...this.volumes.values()].map(({ id, headLayer }) => ({ id, top: headLayer }));
    readers.push(...[...this.snapshots.values()].map(({ id, layer }) => ({ id, top: layer })));
    return readers.flatMap(({ id, top }) =>
      this.chainOf(top).some((layer) => layer.id === layerId) ? [id] : [],
    );
  }

  private namedLayers(): Set<string> {
    const named = new Set(this.pins.keys());
    for (const { headLayer } of this.volumes.values()) named.add(headLayer);
    for (const { layer } of this.snapshots.values()) named.add(layer);
    return named;
  }
}
