import { join } from 'node:path';
import type { CacheMode, Reactors } from '@cairn/block-export';
import { type SwitchHeads, VolumeStore } from '@cairn/storage';
import { FakeBlkDisk, type FakeDiskOptions } from '@cairn/vhost-user/testing';
import { builtReactors } from './built-reactors.js';

/** A store whose volumes are served by reactor threads of this process, wired as the data plane does it. */
export class ServedStore {
  private constructor(
    readonly store: VolumeStore,
    readonly reactors: Reactors,
    private readonly directory: string,
    private readonly cache: CacheMode,
  ) {}

  static async open(
    directory: string,
    options: { cache: CacheMode; reactors?: number },
  ): Promise<ServedStore> {
    const store = await VolumeStore.open({ directory, overcommitRatio: 1e6 });
    try {
      const reactors = await (await builtReactors()).start({ reactors: options.reactors ?? 2 });
      return new ServedStore(store, reactors, directory, options.cache);
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  readonly switchHeads: SwitchHeads = async (switches) => void (await this.reactors.switchHeads(switches));

  socketPath(volumeId: string): string {
    return join(this.directory, `${volumeId}.sock`);
  }

  async serve(volumeId: string, numQueues = 2): Promise<void> {
    const chain = await this.store.attach(volumeId, {
      barrier: () => this.reactors.barrier(volumeId),
      chainChanged: (changed) => this.reactors.changeChain(changed),
    });
    await this.reactors.addExport({
      id: volumeId,
      filePath: chain.layers.at(-1)!.path,
      chain,
      socketPath: this.socketPath(volumeId),
      readOnly: false,
      numQueues,
      cache: this.cache,
      serial: volumeId,
    });
  }

  connect(volumeId: string, options: FakeDiskOptions = {}): Promise<FakeBlkDisk> {
    return FakeBlkDisk.open(this.socketPath(volumeId), { numQueues: 2, timeoutMs: 60_000, ...options });
  }

  async stopServing(volumeId: string): Promise<void> {
    await this.reactors.removeExport(volumeId);
    await this.store.detach(volumeId);
  }

  /** Makes a volume larger while it is served. */
  async grow(volumeId: string, sizeBytes: number): Promise<void> {
    await this.store.grow(volumeId, sizeBytes);
    await this.reactors.resizeExport(volumeId, sizeBytes);
  }

  async close(): Promise<void> {
    await this.reactors.stop();
    await this.store.close();
  }
}
