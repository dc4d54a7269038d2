import { type DiskFailure } from '@cairn/storage/testing';
import { ModelVerbs, type Verb } from './model-verbs.js';
import {
  expectChain,
  expectChangedBlocks,
  expectSame,
  expectUsage,
  isFull,
  readAll,
} from './store-checks.js';

/** A disk fails after so many effects at most; most verbs have fewer, some more. */
const MAX_EFFECTS = 30;

/** A store, and plain byte arrays that say what must be in it, changed together by random verbs. */
export class StoreModel {
  private constructor(private readonly verbs: ModelVerbs) {}

  static async open(directory: string, seed: number): Promise<StoreModel> {
    return new StoreModel(await ModelVerbs.open(directory, seed));
  }

  /** One random verb, on the store and on the arrays. */
  async step(): Promise<void> {
    const { verbs } = this;
    await verbs.pickWeighted([
      [3, () => verbs.create()],
      [30, () => verbs.change('write')],
      [10, () => verbs.change('discard')],
      [5, () => verbs.change('zero')],
      [8, () => verbs.snapshot(1)],
      [3, () => verbs.snapshot(3)],
      [2, () => verbs.writeSnapshot()],
      [4, () => verbs.clone()],
      [2, () => verbs.cloneVolume()],
      [3, () => verbs.revert()],
      [3, () => verbs.deleteVolume()],
      [7, () => verbs.deleteSnapshot()],
      [5, () => verbs.coalesce()],
      [4, () => verbs.coalesceMeanwhile()],
      [2, () => verbs.grow()],
      [8, () => verbs.toggle()],
      [1, () => verbs.reopen()],
      [5, () => this.withFailure('full')],
      [5, () => this.withFailure('dead')],
      [20, () => verbs.read()],
    ]);
  }

  /** Compares every byte of every volume and snapshot, who has which, and what changed; throws where one differs. */
  async verify(): Promise<void> {
    const { verbs } = this;
    const { store } = verbs;
    await verbs.background;
    const listed = [...store.list(), ...store.snapshots.list()].map(({ id }) => id).toSorted();
    const known = [...verbs.volumes.keys(), ...verbs.snapshots.keys()].toSorted();
    if (String(listed) !== String(known))
      throw new Error(`the store has ${String(listed)}, not ${String(known)}`);
    for (const [id, { bytes }] of verbs.volumes) {
      const image = await verbs.imageOf(id);
      await expectSame(id, image, bytes);
      expectChain(store.chain(id), verbs.chains.get(id)!);
    }
    for (const [id, { content }] of verbs.snapshots) {
      const seen = await readAll(store.snapshots.chain(id));
      if (Buffer.compare(seen, content.bytes) !== 0) throw new Error(`${id} is not what it was`);
    }
    const contents = new Map([...verbs.snapshots].map(([id, { content }]) => [id, content]));
    await expectUsage(store, verbs.directory, new Map([...verbs.volumes, ...contents]));
    await verbs.scrub();
    await expectChangedBlocks(store, verbs.snapshots);
  }

  /** Deletes everything, in any order, and folds what is left; the pool has no layer then. */
  async clear(): Promise<void> {
    await this.verbs.background;
    while (this.verbs.volumes.size + this.verbs.snapshots.size > 0) {
      if (this.verbs.random(2) === 0) await this.verbs.deleteVolume();
      else await this.verbs.deleteSnapshot();
      if (this.verbs.random(4) === 0) {
        await this.verbs.store.coalescer.run();
        await this.verify();
      }
    }
    await this.verbs.store.coalescer.run();
  }

  close(): Promise<void> {
    return this.verbs.close();
  }

  // ---- failures ---------------------------------------------------------------------------------------------------

  /** A verb during which the disk becomes full, or the process dies; what it may have done then is what it has. */
  private async withFailure(failure: DiskFailure): Promise<void> {
    const { verbs } = this;
    // What a coalescing that is under way meets, too; a write has no part in a process that dies.
    const choices: [number, Verb][] = [
      [1, () => verbs.create()],
      [3, () => verbs.snapshot(1)],
      [2, () => verbs.snapshot(3)],
      [1, () => verbs.writeSnapshot()],
      [2, () => verbs.clone()],
      [2, () => verbs.cloneVolume()],
      [2, () => verbs.revert()],
      [1, () => verbs.deleteVolume()],
      [2, () => verbs.deleteSnapshot()],
      [4, () => verbs.coalesce()],
      [2, () => verbs.grow()],
      ...(failure === 'full'
        ? ([
            [4, () => verbs.change('write')],
            [4, () => verbs.change('discard')],
          ] satisfies [number, Verb][])
        : []),
    ];
    verbs.intended = { volumes: new Map(), snapshots: new Map() };
    let done = true;
    verbs.disk.failAfter(verbs.random(1 + verbs.random(MAX_EFFECTS)), failure);
    const accept = (error: unknown): void => {
      if (failure === 'dead' ? verbs.disk.refused === 0 : !isFull(error)) throw error;
    };
    await verbs.pickWeighted(choices).catch((error: unknown) => {
      accept(error);
      done = false;
    });
    if (failure === 'dead') {
      await verbs.background.catch(accept);
      for (const id of [...verbs.images.keys()]) await verbs.detach(id);
      await verbs.store.close();
      verbs.disk.heal();
      await verbs.openStore();
    } else {
      verbs.disk.heal();
      await verbs.background.catch(accept);
    }
    verbs.background = Promise.resolve();
    const broken = [...verbs.store.listBroken(), ...verbs.store.snapshots.listBroken()];
    if (broken.length > 0) throw new Error(`not understood: ${JSON.stringify(broken)}`);
    // What was being written can be gone on with, or given up.
    for (const { id, state } of verbs.store.snapshots.list())
      if (state === 'writing') await verbs.store.snapshots.delete(id);
    // A verb that says that the pool is full has done nothing; `verify` sees to that.
    if (!done && failure === 'dead') this.adoptOutcome();
  }

  /** Finds out what a verb that failed has done: all or nothing of it. */
  private adoptOutcome(): void {
    const { store } = this.verbs;
    const made: boolean[] = [];
    for (const [id, snapshot] of this.verbs.intended.snapshots) {
      const found = store.snapshots.find(id);
      if (found?.state === 'pending') throw new Error(`${id} is pending`);
      if (snapshot) made.push(found !== undefined);
      if (!found) this.verbs.snapshots.delete(id);
      else if (snapshot) this.verbs.snapshots.set(id, snapshot);
    }
    if (new Set(made).size > 1) throw new Error('some snapshots of a group are there, and some are not');
    for (const [id, { content, before }] of this.verbs.intended.volumes) {
      if (this.verbs.stateOf(id) === before) continue;
      if (content) this.verbs.volumes.set(id, content);
      else this.verbs.volumes.delete(id);
    }
  }
}
