import { type FoldContext, fold } from './fold.js';
import { Pacer } from './pacer.js';
import type { Pool } from './pool.js';
import { prune } from './prune.js';
import type { LayerRecord } from './records.js';
import { storageErrorOf } from './storage-error.js';

export interface CoalesceOptions {
  /** Bytes that may be copied a second; undefined: as fast as it goes. */
  bytesPerSecond?: number;
  /** Requests of guests that are in flight now: the more there are, the longer it rests. See Pacer. */
  requestsInFlight?: () => number;
  /** Ends the run at the next step; what was done stays done. */
  signal?: AbortSignal;
  onProgress?: (progress: CoalesceProgress) => void;
}

/** How far one fold is. */
export interface CoalesceProgress {
  layer: string;
  child: string;
  copiedBytes: number;
  /** About. */
  totalBytes: number;
}

export interface CoalesceReport {
  /** Layers that are gone now. */
  folded: number;
  /** Bytes that were hidden and are free now, as holes. */
  prunedBytes: number;
  /** Layers that one other layer needs, and that could not be folded into it now: it is written, or a verb waits. */
  left: number;
}

/**
 * Gives back what deleted snapshots and volumes leave behind: a layer that nobody names and one other layer needs.
 *
 * First what that child hides is punched out of it, which gives the space back, whoever writes the child meanwhile. Then
 * the smaller of the two is copied into the other and the chain is a layer shorter; a child that is being written is left
 * for when it is not. Each step may be the last: what is read is the same after any, and the next run goes on.
 */
export class Coalescer {
  constructor(private readonly pool: Pool) {}

  /** Does all that can be done now. One run at a time; another waits. */
  run(options: CoalesceOptions = {}): Promise<CoalesceReport> {
    const { pool } = this;
    return pool.verb(['coalesce'], async () => {
      const report: CoalesceReport = { folded: 0, prunedBytes: 0, left: 0 };
      // While something is not understood, what seems to be needed once may be needed twice.
      if (pool.broken.size > 0) return report;
      const tried = new Set<string>();
      for (;;) {
        const pair = pool.graph
          .listFoldable()
          .find(({ layer, child }) => !tried.has(`${layer.id} ${child.id}`));
        if (!pair || options.signal?.aborted === true || pool.closed) break;
        tried.add(`${pair.layer.id} ${pair.child.id}`);
        await this.one(pair.layer.id, pair.child.id, options, report);
      }
      report.left = pool.graph.listFoldable().length;
      return report;
    });
  }

  private async one(
    layerId: string,
    childId: string,
    options: CoalesceOptions,
    report: CoalesceReport,
  ): Promise<void> {
    const { pool } = this;
    const { graph } = pool;
    const both = [layerId, childId];
    try {
      await pool.turns.run(both, async () => {
        const layer = graph.findLayer(layerId);
        const child = graph.findLayer(childId);
        if (!layer || child?.parent !== layerId || graph.isNamed(layerId)) return;
        for (const id of both) pool.folding.add(id);
        let over = false;
        const isOver = (): boolean =>
          (over ||= options.signal?.aborted === true || pool.closed || this.isOver(child));
        const { bytesPerSecond, requestsInFlight } = options;
        const pacer = new Pacer({ bytesPerSecond, requestsInFlight, isOver });
        const onCopied = this.meter(layer, child, options);
        const context: FoldContext = { pool, layer, child, isOver, pacer, onCopied };
        report.prunedBytes += await prune(context);
        if (!context.isOver() && (await fold(context))) report.folded += 1;
      });
    } catch (error) {
      throw storageErrorOf('fold layer', pool.paths.layer(layerId), error);
    } finally {
      for (const id of both) pool.folding.delete(id);
      await pool.collect();
    }
  }

  /** Does a verb wait for the child, or does nobody need it any more? */
  private isOver({ id }: LayerRecord): boolean {
    const { pool } = this;
    if (pool.isWanted(id) || pool.graph.findLayer(id) === undefined) return true;
    return !pool.graph.isNamed(id) && pool.graph.childrenOf(id).length === 0;
  }

  private meter(layer: LayerRecord, child: LayerRecord, options: CoalesceOptions): FoldContext['onCopied'] {
    let copiedBytes = 0;
    return (bytes, totalBytes) => {
      copiedBytes += bytes;
      options.onProgress?.({ layer: layer.id, child: child.id, copiedBytes, totalBytes });
    };
  }
}
