import type { RingFds, RingStart } from '@cairn/vhost-user';
import type { RingFeatures } from './blk-ring.js';
import { DeviceShard } from './device-shard.js';
import { ExportArena } from './export-arena.js';
import type { ReactorLoop } from './reactor-loop.js';
import type { VolumeFile } from './volume-file.js';

/** What a reactor must know of an export to serve rings of it. */
export interface ShardSpec {
  exportId: string;
  file: VolumeFile;
  readOnly: boolean;
  serial: string;
  arena: SharedArrayBuffer;
}

/** What an export's home asks of the reactors that serve its rings. */
export type ShardRequest =
  | { kind: 'start-ring'; spec: ShardSpec; start: RingStart; features: RingFeatures }
  | { kind: 'stop-ring'; exportId: string; index: number }
  | { kind: 'set-ring-fds'; exportId: string; index: number; fds: RingFds }
  /** Answered when what is in flight at the time has completed. */
  | { kind: 'barrier'; exportId: string }
  | { kind: 'forget'; exportId: string };

/** The shards of one reactor thread, one for each export of which it serves rings. */
export class ShardDirectory {
  private readonly shards = new Map<string, DeviceShard>();

  constructor(
    private readonly loop: ReactorLoop,
    private readonly reactor: number,
  ) {}

  /** Does what an export's home asked; the answer of stop-ring is the next avail index, else 0. */
  handle(request: ShardRequest, answer: (value: number) => void): void {
    switch (request.kind) {
      case 'start-ring':
        this.shardOf(request.spec).rings.start(request.start, request.features);
        return answer(0);
      case 'stop-ring':
        return this.shards.get(request.exportId)!.rings.stop(request.index, answer);
      case 'set-ring-fds':
        this.shards.get(request.exportId)!.rings.setFds(request.index, request.fds);
        return answer(0);
      case 'barrier': {
        const shard = this.shards.get(request.exportId);
        return shard ? shard.pauses.barrier(() => answer(0)) : answer(0);
      }
      case 'forget':
        this.shards.delete(request.exportId);
        return answer(0);
    }
  }

  /** The export's shard on this thread, made when it is needed first. */
  shardOf(spec: ShardSpec): DeviceShard {
    let shard = this.shards.get(spec.exportId);
    if (!shard) {
      const arena = ExportArena.over(spec.arena);
      const metrics = arena.metricsOf(this.reactor);
      shard = new DeviceShard(this.loop, { ...spec, shared: arena.shared, limiter: arena.limiter, metrics });
      this.shards.set(spec.exportId, shard);
    }
    return shard;
  }
}
