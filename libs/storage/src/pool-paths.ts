import { join } from 'node:path';

// pool/pool.json                   who the pool is, and what its file system can do
// pool/lock                        held while a data plane uses it
// pool/volumes/vol-….json          a volume: its head layer and size
// pool/snapshots/snap-….json       a snapshot: its layer and state
// pool/layers/lay-….json           a layer: its file and parent
// pool/layers/lay-….img            a layer's file (see layer-format)
// pool/layers/lay-….sum            checksums of a sealed layer, when it was scrubbed
//
// A layer's file is there before its manifest, and the manifest before anything names it; they go in the reverse order.
// So what a crash leaves behind is a layer that nobody names, or a file that no layer names, and is removed.

/** Where things lie in a pool's directory. */
export class PoolPaths {
  readonly pool: string;
  readonly lock: string;
  readonly volumes: string;
  readonly snapshots: string;
  readonly layers: string;

  constructor(readonly directory: string) {
    this.pool = join(directory, 'pool.json');
    this.lock = join(directory, 'lock');
    this.volumes = join(directory, 'volumes');
    this.snapshots = join(directory, 'snapshots');
    this.layers = join(directory, 'layers');
  }

  volume(id: string): string {
    return join(this.volumes, `${id}.json`);
  }

  snapshot(id: string): string {
    return join(this.snapshots, `${id}.json`);
  }

  layer(id: string): string {
    return join(this.layers, `${id}.json`);
  }

  layerSums(id: string): string {
    return join(this.layers, `${id}.sum`);
  }

  layerFile(file: string): string {
    return join(this.layers, file);
  }
}
