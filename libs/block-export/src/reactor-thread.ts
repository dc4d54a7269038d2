import { readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { native } from '@cairn/native';
import { VhostUserError } from '@cairn/vhost-user';
import { Export } from './export.js';
import { Peers } from './peers.js';
import { Placement } from './placement.js';
import { ReactorLoop } from './reactor-loop.js';
import { ReactorMetrics } from './reactor-metrics.js';
import type {
  AnswerMessage,
  CommandMessage,
  NoticeMessage,
  ReactorCommand,
  ReactorStart,
} from './reactor-protocol.js';
import { ShardDirectory, type ShardRequest } from './shard-directory.js';

// Entry of a reactor thread. It lives in `loop.run()` and is woken for commands, of the main thread and of the other
// reactors, through an eventfd that the loop watches.

const main = parentPort!;
const start = workerData as ReactorStart;
const wakeFd = start.wakeFds[start.reactor]!;
const loop = new ReactorLoop(start.pollMicros, new ReactorMetrics(start.metrics, start.reactor));
const shards = new ShardDirectory(loop, start.reactor);
const ends = start.ports.map((port, reactor) => port && { port, wakeFd: start.wakeFds[reactor]! });
const peers = new Peers<ShardRequest>(start.reactor, ends, (request, answer) =>
  shards.handle(request, answer),
);
const places = { peers, shards, placement: new Placement(start.placement, start.reactor) };
const exports = new Map<string, Export>();

type Answer = (more?: Partial<AnswerMessage>) => void;

const obey = (command: ReactorCommand, answer: Answer): void => {
  switch (command.kind) {
    case 'add':
      exports.set(command.spec.id, new Export(loop, places, command.spec, command));
      return answer();
    case 'suspend':
      return exportOf(command.id).suspend((handed) => answer({ handed }));
    case 'resume':
      exports.get(command.id)?.resume();
      return answer();
    case 'release':
      return end(command.id, (one, done) => one.release(done), answer);
    case 'remove':
      return remove(command.id, answer);
    case 'resize': {
      exportOf(command.id).resize(command.sizeBytes);
      return answer();
    }
    case 'prepare-chain':
      return exportOf(command.id).files.prepare(command.chain, (error) => answer(reasonOf(error)));
    case 'freeze':
      return exportOf(command.id).files.freeze((error) => answer(reasonOf(error)));
    case 'thaw': {
      const stood = exports.get(command.id)?.files.thaw(command);
      return answer(stood && { stood });
    }
    case 'barrier':
      return exportOf(command.id).barrier(() => answer());
    case 'status':
      return answer({ statuses: [...exports.values()].map((one) => one.status()) });
    case 'drain': {
      let left = exports.size;
      if (left === 0) return answer();
      for (const id of exports.keys()) {
        remove(id, () => {
          left -= 1;
          if (left === 0) answer();
        });
      }
      return undefined;
    }
    case 'stop':
      answer();
      return loop.stop();
  }
};

/** Throws an Error when there is none. */
const exportOf = (id: string): Export => {
  const found = exports.get(id);
  if (!found) throw new Error(`there is no export ${id}`);
  return found;
};

const reasonOf = (error: string | undefined): Partial<AnswerMessage> =>
  error === undefined ? {} : { error };

const remove = (id: string, answer: () => void): void => end(id, (one, done) => one.close(done), answer);

const end = (id: string, how: (one: Export, done: () => void) => void, answer: () => void): void => {
  const found = exports.get(id);
  if (!found) return answer();
  return how(found, () => {
    exports.delete(id);
    answer();
  });
};

const onWake = (): void => {
  native.consume(wakeFd);
  for (let next = receiveMessageOnPort(main); next; next = receiveMessageOnPort(main)) {
    const { sequence, command } = next.message as CommandMessage;
    const answer = (more: Partial<AnswerMessage> = {}): void => main.postMessage({ sequence, ...more });
    try {
      obey(command, answer);
    } catch (error) {
      answer({ error: error instanceof Error ? error.message : String(error) });
    }
  }
  peers.receive();
};

loop.onMemoryFault = (): void => {
  for (const one of exports.values()) one.dropIfMemoryFaulted(() => new VhostUserError('memory-truncated'));
  // The session may live on a thread that sleeps.
  peers.wakeAll();
};
loop.onNotice = (notice): void => main.postMessage({ notice } satisfies NoticeMessage);
loop.watch(wakeFd, onWake);
main.postMessage({ sequence: 0, threadId: Number(basename(readlinkSync('/proc/thread-self'))) });
loop.run();
peers.close();
main.close();
